"""Scores in files."""

import pytest

from wsplf_cli.errors import ConfigError
from wsplf_cli.report.scores import read_scores, rows_of_entries


@pytest.mark.parametrize("text", [None, "no json", "[1, 2]", '{"entries": [3], "mean_dice": 1}'])
def test_a_file_without_scores_is_refused(tmp_path, text):
    path = tmp_path / "scores.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_scores(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


def test_scores_belong_to_the_entry_of_their_title(make_entry):
    entries = [make_entry("x"), make_entry("x"), make_entry("y")]
    rows = [{"name": "x (id 2)"}, {"name": "y"}, {"name": "x"}, {"name": "gone"}]
    of_entry = rows_of_entries({"prediction": {"entries": rows}}, entries)
    assert of_entry == {"1": {}, "2": {"prediction": rows[0]}, "3": {"prediction": rows[1]}}
