"""An entry whose data file is gone, through every command that reads or writes its annotations."""

import json
from pathlib import Path

import pytest
from annotation_exchange import with_annotations
from shapely import box
from shapely.geometry import mapping

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.run import for_each_entry
from wsplf_cli.cohort.slide import prepare_cohort
from wsplf_cli.options import ProjectOptions, PseudolabelOptions, TrainOptions
from wsplf_cli.schema import Silent
from wsplf_cli.segmentation.prepare import TrainingCohort

LOST = "data.qpdata: the file is missing, but summary.json counts 11 annotations"


@pytest.fixture
def project(tiny_project: Path) -> Path:
    """Entry 1 had eleven annotations; its data.qpdata is gone."""
    with_annotations(tiny_project)
    (tiny_project.parent / "data" / "1" / "data.qpdata").unlink()
    return tiny_project


@pytest.fixture
def features(tmp_path: Path) -> Path:
    """A folder with the GeoJSON of entry 1, which is also its truth."""
    folder = tmp_path / "features"
    folder.mkdir()
    tumour = {"classification": {"name": "Tumor", "color": [200, 0, 0]}}
    feature = {"type": "Feature", "geometry": mapping(box(300, 300, 400, 400)), "properties": tumour}
    document = {"type": "FeatureCollection", "features": [feature]}
    (folder / "positive.geojson").write_text(json.dumps(document), encoding="utf-8")
    return folder


def state_of(project: Path) -> dict[Path, bytes]:
    folder = project.parent / "data" / "1"
    return {path: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("command", ["doctor", "export", "evaluate", "import", "report", "evaluate against it"])
def test_it_is_an_error_that_names_the_count(
    project: Path, features: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = {
        "doctor": ["doctor", project],
        "export": ["export", project, "--out", tmp_path / "out"],
        "evaluate": ["evaluate", project, "--truth", features],
        "evaluate against it": ["evaluate", project, "--truth", project],
        "import": ["import", project, features / "positive.geojson"],
        "report": ["report", project, "--out", tmp_path / "report.html"],
    }
    before = state_of(project)
    assert cli.main([str(argument) for argument in arguments[command]]) == 1
    out, err = capsys.readouterr()
    assert LOST in out + err
    assert not (tmp_path / "out" / "positive.tif.geojson").exists()
    assert state_of(project) == before


def test_import_goes_on_where_the_user_accepts_the_loss(
    project: Path, features: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state_of(project)
    assert cli.main(["import", str(project), str(features / "positive.geojson"), "--accept-missing-data"]) == 0
    assert "1 annotations added" in capsys.readouterr().err
    assert len(open_project(project, ProjectOptions()).annotations("1")) == 1
    assert cli.main(["undo", str(project)]) == 0
    assert state_of(project) == before


@pytest.mark.parametrize("command", ["doctor", "labels", "train", "evaluate", "benchmark", "report", "export"])
def test_commands_that_write_no_annotation_do_not_have_the_option(project: Path, command: str) -> None:
    assert cli.main([command, str(project), "--accept-missing-data"]) == 2


def test_pseudolabel_segment_and_train_leave_the_entry_out_and_go_on(project: Path) -> None:
    opened = open_project(project, ProjectOptions())
    prepared = prepare_cohort(opened, opened.entries(), ("Tumor",), PseudolabelOptions(), Silent())
    assert [result.status for result in prepared.results] == ["failed", "done", "done"]
    assert LOST in prepared.results[0].reason
    cohort = TrainingCohort(opened, ("Tumor",), TrainOptions(), Silent())
    results = for_each_entry(opened.entries(), cohort.add, tracker=Silent(), name="train")
    assert results[0].status == "failed"
    assert LOST in results[0].reason


def test_pseudolabel_uses_the_entry_where_the_user_accepts_the_loss(project: Path) -> None:
    opened = open_project(project, ProjectOptions(accept_missing_data=True))
    prepared = prepare_cohort(opened, opened.entries(), ("Tumor",), PseudolabelOptions(), Silent())
    assert [result.status for result in prepared.results] == ["done", "done", "done"]
