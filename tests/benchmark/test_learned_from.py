"""Which of the measured slides a model learned from."""

import pytest

from wsplf_cli.benchmark.learned_from import learned_from
from wsplf_cli.files import write_json
from wsplf_cli.runs.layout import run_file, run_folder


@pytest.fixture
def entries(make_entry):
    """Ids 1 to 4; the first two are of one patient, the last names none."""
    patients = ("P1", "P1", "P2", "")
    return [make_entry(f"{index}.tif", metadata={"patient": patient}) for index, patient in enumerate(patients, 1)]


@pytest.fixture
def project(memory_project, entries):
    project = memory_project(entries)
    folder = run_folder(project.folder, "r1")
    folder.mkdir(parents=True)
    results = [{"id": "1", "status": "done"}, {"id": "3", "status": "skipped"}, {"id": "4", "status": "failed"}]
    write_json(run_file(folder), {"stage": "train", "entries": results})
    return project


def test_slides_of_the_training_and_of_its_patients_are_named(project, entries):
    learned = learned_from(project, entries, {"r1"})
    assert (learned.slides, learned.of_patients, learned.unknown_models) == (("1.tif",), ("2.tif",), ())
    these, others = learned.warnings
    assert these == "warning: the model learned from these slides: 1.tif; scores of new slides may be lower"
    assert "from other slides of their patients: 2.tif" in others


def test_new_slides_need_no_warning(project, entries):
    assert learned_from(project, entries[2:], {"r1"}).warnings == []
    assert learned_from(project, entries, set()).warnings == []


@pytest.mark.parametrize("record", [None, "nonsense", '{"stage": "train"}', '{"stage": "segment", "entries": []}'])
def test_a_training_that_is_not_known_here_is_said(project, entries, record):
    if record is not None:
        folder = run_folder(project.folder, "r2")
        folder.mkdir(parents=True)
        run_file(folder).write_text(record, encoding="utf-8")
    learned = learned_from(project, entries, {"r2"})
    assert (learned.slides, learned.unknown_models) == ((), ("r2",))
    assert "not recorded in this project" in learned.warnings[0]


def test_without_a_prediction_the_model_of_the_last_segmentation_is_meant(project, entries):
    for name, details in (("r3", {"model_run": "r0"}), ("r4", {"model_run": "r1"})):
        folder = run_folder(project.folder, name)
        folder.mkdir(parents=True)
        write_json(run_file(folder), {"stage": "segment", "status": "done", "details": details})
    assert learned_from(project, entries, set()).slides == ("1.tif",)
