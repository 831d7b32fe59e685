"""Several classes in one project: what words and labels mean, and what is refused."""

import pytest

from wsplf_cli.cli.command import main
from wsplf_cli.cohort.labels import classes_of, label_rows, label_word, require_both
from wsplf_cli.commands.doctor import check_project
from wsplf_cli.commands.labels import labels
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import DoctorOptions, LabelsOptions, ProjectOptions

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


def test_labels_show_the_classes(make_entry, memory_project, recorder):
    entries = [make_entry(word=word) for word in ("lusc;luad", "luad", "normal")]
    found = labels(memory_project(), entries, LabelsOptions(project=LUNG), recorder).document
    assert found["classes"] == {"LUAD": 2, "LUSC": 1}
    assert [one["classes"] for one in found["entries"]] == [["LUAD", "LUSC"], ["LUAD"], []]
    assert found["problems"] == []
    assert [label_word(row.entry, LUNG) for row in label_rows(entries, LUNG)] == ["luad;LUSC", "luad", "normal"]


def test_doctor_shows_the_classes(tiny_project):
    from wsplf_cli.backends.embedded import open_project

    project = open_project(tiny_project, ProjectOptions())
    options = ProjectOptions(positive=("tumor=LUAD", "lusc=LUSC"))
    entries = project.entries()
    checks = check_project(project, entries, DoctorOptions(project=options))
    assert any("positive for LUAD" in one.message for one in checks)
    assert any("class LUSC: only negative slides" in one.message for one in checks)
    project.set_metadata({entries[2].id: {"label": "lusc"}})
    checks = check_project(project, project.entries(), DoctorOptions(project=options))
    assert checks[-1].message == "2 positive, 1 negative; 1 LUAD, 1 LUSC"


def test_the_command_line_and_the_settings_file_take_classes(tiny_project, capsys):
    assert main(["labels", str(tiny_project), "--positive", "tumor=LUAD", "--positive", "lusc=LUSC"]) == 1
    out, err = capsys.readouterr()
    assert "1 LUAD, 0 LUSC" in out
    assert "class LUSC: only negative slides" in err
    (tiny_project.parent / "wsplf.toml").write_text('positive = ["tumor=LUAD", "normal=LUSC"]\nnegative = ["none"]\n')
    assert main(["labels", str(tiny_project)]) == 0
    assert "1 LUAD, 1 LUSC" in capsys.readouterr().out
    assert main(["labels", str(tiny_project), "--positive", "=LUAD"]) == 2
    assert "'=LUAD': no word" in capsys.readouterr().err
