"""What each run wrote into an entry is found again."""

import math
from uuid import uuid4

import kills
import pytest
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.undo import undo
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import ProjectOptions, UndoOptions
from wsplf_cli.runs.record import start_run
from wsplf_cli.runs.written import keep, written
from wsplf_cli.schema import Annotation, Silent


@pytest.fixture
def project(tmp_path):
    """A project of three entries; two hold annotations of people."""
    return kills.make_project(tmp_path / "study", people=3)


def _run(project, side, *, kept=True):
    opened = open_project(project, ProjectOptions())
    measurements = {"wsplf: confidence": 0.5, "b": math.nan}
    with start_run(opened, "pseudolabel", options=None, seed=0) as run:
        polygon = Annotation(uuid4(), box(0, 0, side, side), "Tumor", run_id=run.id, measurements=measurements)
        opened.replace("1", origin="pseudolabel", annotations=[polygon])
        if kept:
            keep(run.folder, "1", origin="pseudolabel", annotations=[polygon])
        run.finish([])
    return polygon


def test_newest_run_counts_with_its_ids_shapes_and_figures(project):
    _run(project, 10)
    polygon = _run(project, 20)
    (found,) = written(project.parent, "1", origin="pseudolabel")
    assert (found.id, found.path_class, found.run_id) == (polygon.id, "Tumor", polygon.run_id)
    assert found.shape.equals(polygon.shape)
    assert found.measurements["wsplf: confidence"] == 0.5
    assert "b" not in found.measurements
    assert written(project.parent, "1", origin="prediction") is None
    assert written(project.parent, "2", origin="pseudolabel") is None


def test_undone_run_does_not_count_and_a_redone_one_does(project):
    first, second = _run(project, 10), _run(project, 20)
    undone = undo(project, None, UndoOptions(), Silent())
    assert [annotation.id for annotation in written(project.parent, "1", origin="pseudolabel")] == [first.id]
    undo(project, undone.run_id, UndoOptions(), Silent())
    assert [annotation.id for annotation in written(project.parent, "1", origin="pseudolabel")] == [second.id]
    undo(project, second.run_id, UndoOptions(), Silent())
    undo(project, first.run_id, UndoOptions(), Silent())
    assert written(project.parent, "1", origin="pseudolabel") is None


def test_runs_of_one_second_are_told_apart(project):
    polygons = [_run(project, side) for side in range(10, 18)]
    assert written(project.parent, "1", origin="pseudolabel")[0].id == polygons[-1].id


def test_damaged_record_is_one_clear_line(project):
    _run(project, 10)
    (path,) = project.parent.glob("wsplf/runs/*/written/1-pseudolabel.json.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ProjectError, match="not a record of what a run wrote"):
        written(project.parent, "1", origin="pseudolabel")
