"""Scores in files."""

import pytest

from wsplf_cli.errors import ConfigError
from wsplf_cli.report.scores import read_scores


@pytest.mark.parametrize("text", [None, "no json", "[1, 2]", '{"entries": [3], "mean_dice": 1}'])
def test_a_file_without_scores_is_refused(tmp_path, text):
    path = tmp_path / "scores.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_scores(path)
    assert str(path) in caught.value.message
    assert caught.value.hint
