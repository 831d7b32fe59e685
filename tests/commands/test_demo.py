"""wsplf demo: the loop, with stand-ins for the three commands that learn."""

import json
from pathlib import Path
from uuid import uuid4

import pytest

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.demo_folder import MARK
from wsplf_cli.commands.demo import Size, demo
from wsplf_cli.errors import WsplfError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.recipes import Recipe
from wsplf_cli.schema import Annotation, EntryResult, StageReport

SMALL = Size(train=(2, 2), test=(1, 1), size_px=512)


@pytest.fixture
def stages(monkeypatch):
    """Stand-ins for the stages that learn: they write the truth, pseudo-labels a bit too small. Gives who got what."""
    given = {}

    def stage(name, origin):
        def work(project, entries, options, tracker):
            given[name] = [entry.name for entry in entries], options
            for entry in entries if origin else ():
                found = geojson.read(project.folder.parent / "truth" / f"{Path(entry.name).stem}.geojson")
                shapes = [one.shape if name == "segment" else one.shape.buffer(-4) for one in found]
                annotations = [Annotation(uuid4(), shape, "Tumor", origin=origin) for shape in shapes]
                project.replace(entry.id, origin=origin, annotations=annotations)
            results = tuple(EntryResult(entry.id, entry.name, "done") for entry in entries)
            return StageReport(name, "run", results, 0.0)

        monkeypatch.setattr(f"wsplf_cli.commands.demo.{name}", work)

    stage("pseudolabel", "pseudolabel")
    stage("train", None)
    stage("segment", "prediction")
    return given


def run(out, recorder):
    return demo(out, seed=0, device="cpu", tracker=recorder, size=SMALL)


def made_before(folder):
    """What is left of an earlier demo that was stopped early."""
    for name in ("slides", "truth"):
        (folder / name).mkdir(parents=True)
    (folder / MARK).write_text("")
    (folder / "slides" / "S99.tif").write_bytes(b"")
    (folder / "truth" / "S99.geojson").write_text("{}")
    return folder


@pytest.mark.slow
def test_demo_measures_every_stage_and_leaves_what_it_made(tmp_path, recorder, stages, capfd):
    out = made_before(tmp_path / "demo")
    results = run(out, recorder)
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [MARK, "project", "slides", "truth", "report.html", "results.json"]
    )
    assert sorted(path.name for path in (out / "slides").iterdir()) == [f"S0{n}.tif" for n in range(1, 7)]
    assert not (out / "truth" / "S99.geojson").exists()
    written = json.loads((out / "results.json").read_text())
    assert written == {name: value for name, value in results.items() if name not in ("project", "report")}
    assert written["seconds"] > 0
    assert [row["name"] for row in written["pseudolabel"]["entries"]] == [f"S0{n}.tif" for n in range(1, 5)]
    assert 0.8 < written["pseudolabel"]["mean_dice"] < 0.99
    assert written["prediction"]["mean_dice"] == pytest.approx(1.0, abs=1e-3)
    assert 0 < written["threshold"]["mean_dice"] < 0.9
    for stage in ("prediction", "threshold"):
        assert [row["name"] for row in written[stage]["entries"]] == ["S05.tif", "S06.tif"]
        assert [row["label"] for row in written[stage]["entries"]] == ["tumor", "normal"]
    assert "S05.tif" in (out / "report.html").read_text()
    assert capfd.readouterr().out == ""
    training, testing = [f"S0{n}.tif" for n in range(1, 5)], ["S05.tif", "S06.tif"]
    assert [stages[name][0] for name in ("pseudolabel", "train", "segment")] == [training, training, testing]
    assert stages["pseudolabel"][1].recipe == Recipe(tile_px=SMALL.tile_px)
    assert stages["train"][1].epochs == SMALL.segmenter_epochs


@pytest.mark.slow
def test_demo_that_is_run_again_is_made_anew(tmp_path, recorder, stages):
    first, second = run(tmp_path, recorder), run(tmp_path, recorder)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}
    entries = open_project(tmp_path / "project" / "project.qpproj", ProjectOptions()).entries()
    assert [entry.metadata["split"] for entry in entries] == ["train"] * 4 + ["test"] * 2
    assert len({entry.metadata["patient"] for entry in entries}) == 6


@pytest.mark.slow
def test_demo_says_which_slide_a_stage_failed_on(tmp_path, recorder, stages, monkeypatch):
    failed = EntryResult("1", "S01.tif", "failed", reason="S01.tif: cannot be read")
    monkeypatch.setattr(
        "wsplf_cli.commands.demo.train", lambda *given: StageReport("train", "run", (failed,), seconds=0.0)
    )
    with pytest.raises(WsplfError, match="train failed on S01"):
        run(tmp_path / "demo", recorder)
