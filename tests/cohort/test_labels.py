"""Slide labels: where they come from, what their words mean, and what is refused."""

import pytest

from wsplf_cli.cohort.labels import classes_of, label_rows, label_word, require_both, resolve_labels
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import SlideLabel

LUNG = ProjectOptions(positive=("luad=LUAD", " LUSC = LUSC ", "acinar=LUAD"))


def read(entries, options=LUNG):
    return [row.entry.label and set(row.entry.label.classes) for row in label_rows(entries, options)]


def test_classes_are_the_distinct_ones_in_the_order_given():
    assert classes_of(LUNG) == ("LUAD", "LUSC")
    assert classes_of(ProjectOptions()) == ("Tumor",)
    mixed = ProjectOptions(positive=("x=Stroma", "a", "b"), path_class="Lesion")
    assert classes_of(mixed) == ("Stroma", "Lesion")


@pytest.mark.parametrize(
    ("value", "classes"),
    [
        ("luad", {"LUAD"}),
        ("Acinar", {"LUAD"}),
        ("luad;lusc", {"LUAD", "LUSC"}),
        (" lusc , LUAD ", {"LUAD", "LUSC"}),
        ("luad+acinar", {"LUAD"}),
        ("luad;", {"LUAD"}),
        ("normal", set()),
        ("luad;normal", None),
        ("luad;other", None),
        (";", None),
    ],
)
def test_a_label_names_one_class_or_several(make_entry, value, classes):
    entries = [make_entry(word=value)]
    assert read(entries) == [classes]
    assert label_rows(entries, LUNG)[0].unknown == (classes is None)


def test_a_value_that_is_a_word_as_a_whole_means_that_word(make_entry):
    options = ProjectOptions(positive=("mixed, nos=Mixed", "mixed=LUAD", "nos=LUSC"), negative=("no tumour; clean",))
    entries = [make_entry(word="Mixed, NOS"), make_entry(word="mixed,nos"), make_entry(word="no tumour; clean")]
    assert read(entries, options) == [{"Mixed"}, {"LUAD", "LUSC"}, set()]


def test_tags_of_two_classes_mean_both_and_other_tags_nothing(make_entry):
    tags = (["luad", "LUSC", "2019"], ["luad;lusc"], ["luad;2019"], ["luad", "normal"])
    entries = [make_entry(tags=some) for some in tags]
    assert read(entries) == [{"LUAD", "LUSC"}, {"LUAD", "LUSC"}, None, None]
    assert [row.meaning for row in label_rows(entries, LUNG)][2:] == ["unlabelled", "unknown"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"positive": ("=LUAD",)}, "'=LUAD': no word"),
        ({"positive": ("luad=",)}, "'luad=': no class"),
        ({"positive": (" ",)}, "no word"),
        ({"positive": ()}, "no word says"),
        ({"positive": ("a=X", "A=Y")}, "two classes"),
        ({"positive": ("a=X", "b=x")}, "'X' and 'x'"),
        ({"positive": ("a=X", "b=X: Y")}, "derived"),
        ({"positive": ("a=x:y", "b=X: Y: Z")}, "derived"),
        ({"positive": ("a=K\u00f6rnig", "b=Ko\u0308rnig")}, "are one to wsplf"),
        ({"positive": ("a=X",), "negative": ("A",)}, "both"),
        ({"positive": ("a=X",), "path_class": "Y"}, "--path-class Y has no effect"),
    ],
)
def test_words_that_cannot_be_used_are_one_clear_error(options, says):
    with pytest.raises(ConfigError, match=says):
        classes_of(ProjectOptions(**options))


def test_each_of_several_classes_needs_a_slide_with_it_and_one_without(make_entry):
    both = [make_entry(label=["LUAD"]), make_entry(label=["LUSC"])]
    require_both(both, ("LUAD", "LUSC"))
    with pytest.raises(ProjectError, match="class LUSC: only negative slides: 1 negative, 0 positive") as caught:
        require_both([both[0], make_entry()], ("LUSC", "LUAD"))
    assert "--positive WORD=LUSC" in caught.value.hint
    with pytest.raises(ProjectError, match="class LUAD: only positive slides: 2 positive, 0 negative"):
        require_both([both[0], make_entry(label=["LUAD", "LUSC"])], ("LUAD", "LUSC"))


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


def test_a_label_is_shown_in_the_words_of_the_project(make_entry):
    entries = [make_entry(word=word) for word in ("lusc;luad", "luad", "normal")]
    assert [label_word(row.entry, LUNG) for row in label_rows(entries, LUNG)] == ["luad;LUSC", "luad", "normal"]


def test_a_label_word_is_known_in_any_unicode_form(make_entry):
    options = ProjectOptions(positive=("t\u00fcmor=Tumor",), negative=("ge\u0301sund",))
    assert read([make_entry(word="tu\u0308mor"), make_entry(word="G\u00c9SUND")], options) == [{"Tumor"}, set()]


def test_a_slide_label_holds_its_classes_in_any_spelling_and_their_base_classes():
    label = SlideLabel(frozenset({"Tumor: Necrotic"}))
    assert [label.holds(name) for name in ("tumor", "Tumor:necrotic", "Stroma", "Tumor: Other")] == [
        True,
        True,
        False,
        False,
    ]
