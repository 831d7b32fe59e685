"""A table of slide labels: what is read, and which entries its rows match."""

import pytest

from wsplf_cli.cohort.label_table import match_table, read_table
from wsplf_cli.errors import ConfigError


@pytest.mark.parametrize(
    "text",
    [
        "slide,label\na,tumor\n",
        "\ufeffslide;label\r\na;tumor\r\n",
        "Image\tLabel\na\ttumor\n\n",
        'name,label\n"a",tumor',
    ],
)
def test_table_is_read_whatever_its_separator_bom_and_line_ends(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    assert [list(row.values()) for row in read_table(path)] == [["a", "tumor"]]


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\nslide;label;note\r\na;tumor;x,y,z\r\n",
        "\ufeffsep=;\nslide;label;note\na;tumor;x,y,z\n",
        '\ufeff"sep=;"\r\nslide;label;note\r\na;tumor;x,y,z\r\n',
        'sep=,\nslide,label,note\na,tumor,"x,y,z"\n',
        'sep=,,,\nslide,label,note\na,tumor,"x,y,z"\n',
        "SEP=\t\nslide\tlabel\tnote\na\ttumor\tx,y,z\n",
        "sep=\\t\nslide\tlabel\tnote\na\ttumor\tx,y,z\n",
        '"sep=\t"\nslide\tlabel\tnote\na\ttumor\tx,y,z\n',
        "sep=|\nslide|label|note\na|tumor|x,y,z\n",
    ],
)
def test_first_line_that_names_the_separator_is_no_row(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_bytes(text.encode())
    assert read_table(path) == [{"slide": "a", "label": "tumor", "note": "x,y,z"}]


def test_row_of_an_error_is_counted_with_the_line_that_names_the_separator(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(b"sep=;\nslide;label\na;b;c\n")
    with pytest.raises(ConfigError, match="row 3 has 3 cells"):
        read_table(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"sep=;", "needs a column"),
        (b"", "needs a column"),
        (b"file,label\na,b\n", "needs a column"),
        (b"slide,grade\na,b\n", "needs a column"),
        (b"slide,label\na,b,c\n", "row 2 has 3"),
        (b'slide,label\n"a,b\n', "not a CSV"),
        (b"slide,label\n\xff,b\n", "UTF-8"),
    ],
)
def test_table_that_cannot_be_used_is_one_clear_error(tmp_path, content, says):
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read_table(path)


def test_table_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        read_table(tmp_path / "none.csv")


def test_rows_match_names_with_and_without_suffix_but_prefer_the_exact_one(make_entry):
    entries = [make_entry("D0.tif"), make_entry("D0"), make_entry("d1.OME.TIFF")]
    rows = [{"slide": "D0", "label": "normal"}, {"slide": "D0.tif", "label": "tumor"}, {"slide": "D1", "label": "x"}]
    values, warnings = match_table(rows, entries, label_key="label")
    assert [values[entry.id]["label"] for entry in entries] == ["tumor", "normal", "x"]
    assert warnings == []


def test_a_dot_in_a_name_is_no_suffix(make_entry):
    entries = [make_entry("S1.2.svs"), make_entry("S1.3.svs")]
    values, _ = match_table([{"slide": "S1.2", "label": "tumor"}], entries, label_key="label")
    assert list(values) == [entries[0].id]


def test_unmatched_rows_and_entries_and_missing_labels_are_reported(make_entry):
    entries = [make_entry("a.tif"), make_entry("b.tif")]
    rows = [{"slide": "a", "label": "tumor"}, {"slide": "zzz", "label": "tumor"}, {"slide": "b", "label": ""}]
    values, warnings = match_table(rows, entries, label_key="label")
    assert list(values) == [entries[0].id]
    assert warnings == ["no entry is called 'zzz'", "'b' has no label in the table", "not in the table: b.tif"]


def test_the_same_row_twice_is_a_warning_and_contradiction_an_error(make_entry):
    entries = [make_entry("a.tif")]
    row = {"slide": "a", "label": "tumor"}
    assert "twice" in match_table([row, dict(row)], entries, label_key="label")[1][0]
    with pytest.raises(ConfigError, match="differ"):
        match_table([row, {"slide": "a.tif", "label": "normal"}], entries, label_key="label")
