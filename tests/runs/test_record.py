"""The record of a run."""

import json
import logging

import pytest

from wsplf_cli.errors import ProjectError
from wsplf_cli.options import TrainOptions
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import EntryResult


def test_a_finished_run_has_its_record_curves_and_log(memory_project):
    project = memory_project()
    with start_run(project, "train", options=TrainOptions(), seed=3, device="cpu") as run:
        logging.getLogger("wsplf_cli.segmentation").info("epoch 1")
        run.curve("loss", x=[0, 1], y={"train": [1.0, float("nan")]})
        assert json.loads((run.folder / "run.json").read_text())["status"] == "running"
        report = run.finish([EntryResult("1", "a", "done")], details={"best": 0.5})
    assert run.folder.parent == project.folder / "wsplf" / "runs"
    record = json.loads((run.folder / "run.json").read_text())
    assert record["status"] == "done"
    assert record["options"]["tiles"]["tile_px"] == TrainOptions().tiles.tile_px
    assert (record["stage"], record["seed"], record["device"], record["run_id"]) == ("train", 3, "cpu", run.id)
    assert record["entries"][0]["name"] == "a"
    assert record["details"] == {"best": 0.5}
    assert json.loads((run.folder / "curves.json").read_text()) == {"loss": {"x": [0, 1], "y": {"train": [1.0, None]}}}
    assert "epoch 1" in (run.folder / "log.txt").read_text()
    assert (report.stage, report.run_id, report.failed) == ("train", run.id, 0)


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt("2 of 3"), "stopped"), (ProjectError("x"), "failed")])
def test_a_run_that_ends_early_says_why(memory_project, error, status):
    with (
        pytest.raises(type(error)),
        start_run(memory_project(), "train", options=TrainOptions(), seed=0) as run,
    ):
        raise error
    record = json.loads((run.folder / "run.json").read_text())
    assert record["status"] == status
    assert str(error) in record["error"]


def test_a_dry_run_writes_nothing(memory_project):
    project = memory_project()
    with start_run(project, "train", options=TrainOptions(), seed=0, dry_run=True) as run:
        run.curve("loss", x=[0], y={"train": [1.0]})
        report = run.finish([])
    assert report.run_id == run.id
    assert list(project.folder.iterdir()) == []


def test_run_ids_are_unique_and_sort_by_time(memory_project):
    ids = [start_run(memory_project(), "train", options=TrainOptions(), seed=0).id for _ in range(20)]
    assert len(set(ids)) == 20
    assert [one[:16] for one in ids] == sorted(one[:16] for one in ids)


def test_a_folder_that_cannot_be_written_is_one_clear_error(memory_project):
    project = memory_project()
    (project.folder / "wsplf").write_text("a file where the folder should be")
    with (
        pytest.raises(ProjectError, match="cannot write the run folder"),
        start_run(project, "train", options=TrainOptions(), seed=0),
    ):
        pytest.fail("the run began")


def test_the_log_of_a_run_ends_with_it(memory_project):
    with start_run(memory_project(), "train", options=TrainOptions(), seed=0) as run:
        run.finish([])
    logging.getLogger("wsplf_cli").warning("afterwards")
    assert "afterwards" not in (run.folder / "log.txt").read_text()
