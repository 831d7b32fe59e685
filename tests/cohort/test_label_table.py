"""Slide labels: where they come from, what is refused, and tables of them."""

import pytest

from wsplf_cli.cohort.label_table import match_table, read_table
from wsplf_cli.cohort.labels import label_rows, require_both, resolve_labels
from wsplf_cli.cohort.names import select_entries
from wsplf_cli.commands.labels import labels
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import LabelsOptions, ProjectOptions

OPTIONS = ProjectOptions()


def meanings(entries, options=OPTIONS):
    return [row.meaning for row in label_rows(entries, options)]


def test_metadata_word_decides_whatever_its_case_and_spaces(make_entry):
    entries = [make_entry(word=" Tumor "), make_entry(word="NORMAL"), make_entry()]
    assert meanings(entries) == ["positive", "negative", "unlabelled"]


def test_positive_label_holds_the_path_class_and_negative_is_empty(make_entry, memory_project):
    entries = [make_entry(word="tumor"), make_entry(word="normal"), make_entry()]
    resolved = resolve_labels(entries, ProjectOptions(path_class="Lesion"))
    assert [entry.label and entry.label.classes for entry in resolved] == [{"Lesion"}, frozenset(), None]


def test_metadata_is_stronger_than_tags_and_other_tags_do_not_matter(make_entry):
    entries = [make_entry(word="normal", tags=["tumor"]), make_entry(tags=["2019", "Tumor"]), make_entry(tags=["x"])]
    assert meanings(entries) == ["negative", "positive", "unlabelled"]


def test_empty_metadata_value_falls_back_to_tags(make_entry):
    assert meanings([make_entry(word="  ", tags=["normal"])]) == ["negative"]


def test_tags_that_contradict_each_other_are_unknown(make_entry):
    assert meanings([make_entry(tags=["tumor", "normal"])]) == ["unknown"]


def test_unknown_word_is_refused_with_the_word_and_the_option(make_entry, memory_project):
    entries = [make_entry(word="tumor"), make_entry(word="tumour?"), make_entry(word="normal")]
    with pytest.raises(ProjectError, match="'tumour\\?' \\(1\\)") as caught:
        resolve_labels(entries, OPTIONS)
    assert "--positive 'tumour?'" in caught.value.hint


def test_several_words_can_mean_positive(make_entry):
    options = ProjectOptions(positive=("DCIS", "IDC"), negative=("benign",))
    assert meanings([make_entry(word="idc"), make_entry(word="dcis"), make_entry(word="Benign")], options) == [
        "positive",
        "positive",
        "negative",
    ]


def test_one_word_cannot_mean_both(make_entry):
    with pytest.raises(ConfigError, match="both"):
        label_rows([make_entry()], ProjectOptions(positive=("a",), negative=("A ",)))


def test_no_labels_at_all_says_which_keys_and_tags_there_are(make_entry):
    entries = [make_entry(metadata={"diagnosis": "x"}, tags=["good"])]
    with pytest.raises(ProjectError, match="none of 1 entries") as caught:
        require_both(entries)
    assert "diagnosis" in caught.value.message
    assert "good" in caught.value.message
    assert "--csv" in caught.value.hint


@pytest.mark.parametrize(("label", "lacks"), [(["Tumor"], "negative"), ([], "positive")])
def test_one_class_only_says_which_is_missing(make_entry, label, lacks):
    with pytest.raises(ProjectError, match=f"0 {lacks}"):
        require_both([make_entry(label=label), make_entry()])


def test_both_classes_pass(make_entry):
    require_both([make_entry(label=["Tumor"]), make_entry(label=[])])


def test_split_comes_from_metadata(make_entry):
    assert label_rows([make_entry(metadata={"split": "test"})], OPTIONS)[0].entry.split == "test"


def test_images_selects_by_regular_expression(make_entry):
    entries = [make_entry("D00.tif"), make_entry("E00.tif")]
    assert [entry.name for entry in select_entries(entries, ProjectOptions(images="^D"))] == ["D00.tif"]
    assert len(select_entries(entries, OPTIONS)) == 2


def test_images_that_find_nothing_are_an_error(make_entry):
    with pytest.raises(ConfigError, match="finds none of 1"):
        select_entries([make_entry("D00.tif")], ProjectOptions(images="X"))


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
    ("content", "says"),
    [
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


def test_csv_is_written_into_the_metadata_under_the_label_key(tmp_path, make_entry, memory_project, recorder):
    path = tmp_path / "labels.csv"
    path.write_text("slide,label,patient,split\na,tumor,P1,train\nb,normal,P2,\n")
    entries = [make_entry("a.tif"), make_entry("b.tif")]
    project = memory_project(entries)
    options = LabelsOptions(project=ProjectOptions(label_key="truth"), csv=path)
    found = labels(project, entries, options, recorder)
    assert project.metadata == {
        entries[0].id: {"truth": "tumor", "patient": "P1", "split": "train"},
        entries[1].id: {"truth": "normal", "patient": "P2"},
    }
    assert found.written == 2
    assert found.counts["positive"] == found.counts["negative"] == 1
    assert found.problems == ()


def test_dry_run_shows_what_the_csv_would_do_and_writes_nothing(tmp_path, make_entry, memory_project, recorder):
    path = tmp_path / "labels.csv"
    path.write_text("slide,label\na,tumor\n")
    entries = [make_entry("a.tif")]
    project = memory_project(entries)
    found = labels(project, entries, LabelsOptions(csv=path, dry_run=True), recorder)
    assert project.metadata == {}
    assert found.written == 0
    assert found.counts["positive"] == 1


def test_csv_in_which_nothing_matches_is_an_error(tmp_path, make_entry, memory_project, recorder):
    path = tmp_path / "labels.csv"
    path.write_text("slide,label\nzzz,tumor\n")
    entries = [make_entry("a.tif")]
    with pytest.raises(ConfigError, match="no row belongs"):
        labels(memory_project(entries), entries, LabelsOptions(csv=path), recorder)
