"""wsplf labels: what it shows, and labels from a table."""

import pytest

from wsplf_cli.cli.command import main
from wsplf_cli.commands.labels import labels
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import LabelsOptions, ProjectOptions

LUNG = ProjectOptions(positive=("luad=LUAD", " LUSC = LUSC ", "acinar=LUAD"))


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


def test_a_column_that_only_new_projects_use_is_named(tmp_path, make_entry, memory_project, recorder):
    path = tmp_path / "labels.csv"
    path.write_text("slide,label,mpp\na,tumor,0.5\n")
    entries = [make_entry("a.tif")]
    found = labels(memory_project(entries), entries, LabelsOptions(csv=path), recorder)
    assert "the column mpp is read by project create alone; set pixel sizes in QuPath" in found.warnings


def test_csv_in_which_nothing_matches_is_an_error(tmp_path, make_entry, memory_project, recorder):
    path = tmp_path / "labels.csv"
    path.write_text("slide,label\nzzz,tumor\n")
    entries = [make_entry("a.tif")]
    with pytest.raises(ConfigError, match="no row belongs"):
        labels(memory_project(entries), entries, LabelsOptions(csv=path), recorder)


def test_labels_show_the_classes(make_entry, memory_project, recorder):
    entries = [make_entry(word=word) for word in ("lusc;luad", "luad", "normal")]
    found = labels(memory_project(), entries, LabelsOptions(project=LUNG), recorder).document
    assert found["classes"] == {"LUAD": 2, "LUSC": 1}
    assert [one["classes"] for one in found["entries"]] == [["LUAD", "LUSC"], ["LUAD"], []]
    assert found["problems"] == []


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


def test_a_table_names_slides_of_all_entries_whatever_images_chooses(tmp_path, make_entry, memory_project, recorder):
    path = tmp_path / "labels.csv"
    path.write_text("slide,label\nA/s.tif,tumor\nB/s.tif,normal\n")
    entries = [make_entry("s.tif", slide_path=tmp_path / folder / "s.tif") for folder in "AB"]
    project = memory_project(entries)
    assert labels(project, entries[1:], LabelsOptions(csv=path), recorder).warnings == ()
    assert project.metadata == {"2": {"label": "normal"}}
    path.write_text("slide,label\ns,tumor\n")
    with pytest.raises(ConfigError, match="'s' could be any of 2 slides"):
        labels(project, entries[1:], LabelsOptions(csv=path), recorder)
