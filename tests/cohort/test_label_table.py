"""A table of slide labels: what is read, and which entries its rows match."""

from pathlib import Path

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


@pytest.fixture
def slides_of_one_name(make_entry):
    return [make_entry("slide1.tif", slide_path=Path(f"/data/{folder}/slide1.tif")) for folder in "AB"]


def test_two_slides_of_one_name_are_labelled_by_their_folder(slides_of_one_name):
    rows = [{"slide": "A/slide1.tif", "label": "tumor"}, {"slide": "B\\slide1", "label": "normal"}]
    values, warnings = match_table(rows, slides_of_one_name, label_key="label")
    assert [values[entry.id]["label"] for entry in slides_of_one_name] == ["tumor", "normal"]
    assert warnings == []


@pytest.mark.parametrize("name", ["slide1.tif", "SLIDE1", ""])
def test_two_slides_of_one_name_are_labelled_by_the_id_of_their_entry(slides_of_one_name, name):
    rows = [{"slide": name, "id": entry.id, "label": entry.id} for entry in reversed(slides_of_one_name)]
    values, warnings = match_table(rows, slides_of_one_name, label_key="label")
    assert {entry_id: of_entry["label"] for entry_id, of_entry in values.items()} == {"1": "1", "2": "2"}
    assert warnings == []


def test_a_table_of_ids_and_labels_is_read(tmp_path, slides_of_one_name):
    path = tmp_path / "labels.csv"
    path.write_text("ID,label\n2,tumor\n9,normal\n")
    values, warnings = match_table(read_table(path), slides_of_one_name, label_key="label")
    assert values == {"2": {"label": "tumor"}}
    assert "no entry is called '9'" in warnings


@pytest.mark.parametrize("more", [{}, {"id": "2"}])
def test_a_row_that_could_mean_two_slides_is_refused_and_says_what_to_write(slides_of_one_name, make_entry, more):
    entries = [*slides_of_one_name, make_entry("other.tif")]
    # an id column that counts the rows is none of entries: "other.tif" is not entry 1
    rows = [{"slide": "other.tif", "label": "x"} | (more and {"id": "1"}), {"slide": "slide1", "label": "tumor"} | more]
    with pytest.raises(
        ConfigError, match=r"'slide1' could be any of 2 slides: /data/A/slide1\.tif \(id 1\), /data/B"
    ) as error:
        match_table(rows, entries, label_key="label")
    assert "FOLDER/NAME" in error.value.hint
    assert "column id" in error.value.hint


def test_all_entries_of_one_slide_get_its_label(make_entry):
    path = Path("/data/scan.tif")
    entries = [make_entry("scan.tif", slide_path=path), make_entry("scan.tif - turned", slide_path=path)]
    values, warnings = match_table([{"slide": "scan", "label": "tumor"}], entries, label_key="label")
    assert [values[entry.id]["label"] for entry in entries] == ["tumor", "tumor"]
    assert "2 entries show the slide" in warnings[0]


def test_names_are_looked_up_among_all_entries_and_only_the_chosen_ones_are_labelled(slides_of_one_name, make_entry):
    other = make_entry("other.tif")
    everything = [*slides_of_one_name, other]
    rows = [{"slide": "other", "label": "tumor"}, {"slide": "A/slide1", "label": "normal"}]
    values, warnings = match_table(rows, everything[:1], label_key="label", all_entries=everything)
    assert (values, warnings) == ({"1": {"label": "normal"}}, [])
    with pytest.raises(ConfigError, match="any of 2 slides"):
        match_table([{"slide": "slide1", "label": "x"}], everything[:1], label_key="label", all_entries=everything)


def test_a_table_in_another_unicode_form_matches(make_entry):
    entries = [make_entry("Mu\u0308ller.svs")]
    values, _ = match_table([{"slide": "M\u00fcller", "label": "tumor"}], entries, label_key="label")
    assert values == {"1": {"label": "tumor"}}
