"""The stage with its real parts but for the classifier: its CAMs are given, so that the rest can be judged."""

from dataclasses import replace as changed
from uuid import uuid4

import numpy as np
import pytest
import torch
from shapely import box, union_all

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.config import ProjectOptions, PseudolabelOptions, RunOptions
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.geometry import rasterise
from wsplf_cli.models.backbone import build_backbone
from wsplf_cli.models.mil import MilNetwork
from wsplf_cli.prediction.cams import HeatMap, cells_of
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import REVIEW_KEY, REVIEWED_KEY, Annotation
from wsplf_cli.stages import _cams, _rounds
from wsplf_cli.stages import pseudolabel as stage
from wsplf_cli.stages._review import Review, write_polygons
from wsplf_cli.stages.labels import resolve_labels
from wsplf_cli.stages.pseudolabel import pseudolabel
from wsplf_cli.synthetic.pyramid import write_pyramid

SIDE = 640
TUMOUR = box(180, 200, 420, 440)


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    rng = np.random.default_rng(0)
    rgb = np.full((SIDE, SIDE, 3), 244, np.uint8)
    rgb[60:580, 60:580] = (226, 160, 200)
    dots = rng.random((SIDE, SIDE)) < 0.08
    dots[200:440, 180:420] |= rng.random((240, 240)) < 0.3
    dots[:60] = dots[580:] = dots[:, :60] = dots[:, 580:] = False
    rgb[dots] = (90, 50, 130)
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_pyramid(path, rgb, mpp=1.0)
    return path


@pytest.fixture
def cohort(tmp_path, slide):
    """A project with two positive, two negative, one unlabelled and one held-out entry, all on one slide."""
    words = {
        "p1": {"label": "tumor"},
        "p2": {"label": "tumor"},
        "n1": {"label": "normal"},
        "n2": {"label": "normal"},
        "unlabelled": {},
        "held": {"label": "tumor", "split": "test"},
    }
    levels = [(1.0, SIDE, SIDE)]
    images = [Image(slide, f"{name}.tif", SIDE, SIDE, 1.0, levels, metadata) for name, metadata in words.items()]
    return create_project(tmp_path / "project", images, classes=[])


@pytest.fixture
def given_cams(monkeypatch):
    """In place of the classifier: noise, and on positive slides high logits on the tumour."""

    def committee(prepared, sources, networks, **rest):
        return _cams.Committee({one.entry.id: 0 for one in prepared}, [])

    def look(prepared, committees, *, options, device, tracker):
        heat = {}
        for number, one in enumerate(prepared):
            rng = np.random.default_rng(number)
            shape = (SIDE // 8, SIDE // 8)
            logits = rng.normal(-3, 0.5, shape)
            if one.positive:
                logits[rasterise([TUMOUR], origin_px0=(0, 0), downsample=8.0, size_px=shape)] += 6
            logits[~cells_of(one.tissue, shape=shape, downsample=8.0)] = np.nan
            found = HeatMap(logits[None].astype(np.float32), 8.0)
            heat[one.entry.id] = _cams.Looked(found, found, found)
        return heat, []

    monkeypatch.setattr(stage, "fit_committee", committee)
    monkeypatch.setattr(stage, "place_committee", committee)
    monkeypatch.setattr(stage, "look", look)


def run(path, tracker, **options):
    project = open_project(path, ProjectOptions())
    entries = resolve_labels(project, project.entries(), ProjectOptions())
    report = pseudolabel(project, entries, PseudolabelOptions(**options), tracker)
    return {entry.name.removesuffix(".tif"): entry.id for entry in entries}, report


def shapes(path, entry_id):
    return open_project(path, ProjectOptions()).annotations(entry_id)


def test_positive_slides_get_the_tumour_and_no_other_slide_gets_a_polygon(cohort, given_cams, recorder):
    ids, report = run(cohort, recorder)
    assert report.failed == 0
    for name in ("p1", "p2"):
        found = union_all([one.shape for one in shapes(cohort, ids[name])])
        assert found.intersection(TUMOUR).area / found.union(TUMOUR).area > 0.7
    for name in ("n1", "n2", "unlabelled", "held"):
        assert shapes(cohort, ids[name]) == []


def test_polygons_say_where_they_come_from(cohort, given_cams, recorder):
    ids, report = run(cohort, recorder)
    for one in shapes(cohort, ids["p1"]):
        assert (one.origin, one.review, one.run_id, one.path_class) == (
            "pseudolabel",
            "pending",
            report.run_id,
            "Tumor",
        )
        assert 0.5 <= one.measurements["wsplf: confidence"] <= 1
        assert one.measurements["wsplf: area um^2"] == pytest.approx(one.shape.area, rel=0.01)
        assert not one.edited


def test_twice_gives_the_same_polygons_and_not_twice_as_many(cohort, given_cams, recorder):
    ids, _ = run(cohort, recorder)
    first = [one.shape for one in shapes(cohort, ids["p1"])]
    run(cohort, recorder)
    second = [one.shape for one in shapes(cohort, ids["p1"])]
    assert first
    assert [shape.wkb for shape in first] == [shape.wkb for shape in second]


def test_what_a_person_drew_or_edited_stays_as_it_is_and_is_not_drawn_again(cohort, given_cams, recorder):
    ids, _ = run(cohort, recorder)
    project = open_project(cohort, ProjectOptions())
    own = project.annotations(ids["p1"])[0]
    edited = changed(own, shape=own.shape.buffer(-20))
    drawn = Annotation(uuid4(), box(500, 500, 560, 560), "Stroma", name="mine")
    project.remove(ids["p1"], [own.id])
    project.replace(ids["p1"], origin="human", annotations=[edited, drawn])
    before = {one.id: one.shape.wkb for one in shapes(cohort, ids["p1"])}
    run(cohort, recorder)
    after = shapes(cohort, ids["p1"])
    assert before.items() <= {one.id: one.shape.wkb for one in after}.items()


def test_a_rejected_area_is_not_drawn_again(cohort, given_cams, recorder):
    ids, _ = run(cohort, recorder)
    project = open_project(cohort, ProjectOptions())
    (first, *_) = sorted(project.annotations(ids["p1"]), key=lambda one: -one.shape.area)
    rejected = changed(first, metadata=dict(first.metadata) | {REVIEW_KEY: "rejected"})
    project.remove(ids["p1"], [first.id])
    project.replace(ids["p1"], origin="human", annotations=[rejected])
    run(cohort, recorder)
    after = shapes(cohort, ids["p1"])
    assert [one.review for one in after if one.id == first.id] == ["rejected"]
    assert sum(one.shape.intersection(first.shape).area for one in after if one.review == "pending") < 1


def delete(path, entry_id, *, but=()):
    """A person deletes the polygons that lie in the tumour; returns what they covered."""
    project = open_project(path, ProjectOptions())
    gone = [one for one in project.annotations(entry_id) if one.shape.intersects(TUMOUR) and one.id not in but]
    project.remove(entry_id, [one.id for one in gone])
    return union_all([one.shape for one in gone])


def test_a_deleted_area_is_not_drawn_again_however_often_it_is_run(cohort, given_cams, recorder):
    ids, _ = run(cohort, recorder)
    project = open_project(cohort, ProjectOptions())
    own = project.annotations(ids["p1"])[0]
    elsewhere = changed(own, id=uuid4(), shape=box(480, 480, 560, 560))
    review = Review(ids["p1"])
    write_polygons(project, review, annotations=[own, elsewhere], origin="pseudolabel", run_id=own.run_id)
    gone = delete(cohort, ids["p1"])
    for _ in range(3):
        run(cohort, recorder)
        after = shapes(cohort, ids["p1"])
        assert sum(one.shape.intersection(gone).area for one in after) < 1
    assert union_all([one.shape for one in shapes(cohort, ids["p2"])]).intersects(TUMOUR)


def test_an_image_that_was_saved_over_the_run_rejects_nothing(cohort, given_cams, recorder):
    ids, _ = run(cohort, recorder)
    gone = delete(cohort, ids["p1"])
    run(cohort, recorder)
    drawn = union_all([one.shape for one in shapes(cohort, ids["p1"])])
    assert drawn.intersection(gone).area == pytest.approx(gone.area, rel=0.01)
    assert any("nothing is left of" in line and "p1" in line for line in recorder.said)


def test_what_a_person_drew_is_not_drawn_over(cohort, given_cams, recorder):
    project = open_project(cohort, ProjectOptions())
    ids = {entry.name.removesuffix(".tif"): entry.id for entry in project.entries()}
    half = box(180, 200, 300, 440)
    project.replace(ids["p1"], origin="human", annotations=[Annotation(uuid4(), half, "Tumor")])
    run(cohort, recorder)
    new = [one.shape for one in shapes(cohort, ids["p1"]) if one.origin == "pseudolabel"]
    assert new
    assert union_all(new).intersection(half).area < 1


def test_a_reviewed_image_is_left_as_it_is(cohort, given_cams, recorder):
    ids, _ = run(cohort, recorder)
    before = [(one.id, one.shape.wkb) for one in shapes(cohort, ids["p1"])]
    open_project(cohort, ProjectOptions()).set_metadata({ids["p1"]: {REVIEWED_KEY: "2026-01-31 A. Person"}})
    _, report = run(cohort, recorder)
    assert [(one.id, one.shape.wkb) for one in shapes(cohort, ids["p1"])] == before
    (result,) = [entry for entry in report.entries if entry.id == ids["p1"]]
    assert (result.status, result.reason) == ("skipped", "reviewed by a person: left as it is")


def test_the_classifier_is_told_what_a_person_decided(cohort, given_cams, recorder, monkeypatch):
    project = open_project(cohort, ProjectOptions())
    ids = {entry.name.removesuffix(".tif"): entry.id for entry in project.entries()}
    drawn = [Annotation(uuid4(), TUMOUR, "Tumor"), Annotation(uuid4(), box(430, 60, 580, 580), "Stroma")]
    project.replace(ids["p1"], origin="human", annotations=drawn)
    told = {}
    before = stage.fit_committee

    def fit(prepared, *rest, **options):
        told.update({one.entry.id: one for one in prepared})
        return before(prepared, *rest, **options)

    monkeypatch.setattr(stage, "fit_committee", fit)
    run(cohort, recorder)
    one = told[ids["p1"]]
    layers = one.known(np.arange(len(one.grid.xy_px0)))
    assert layers[:, 0].any()
    assert layers[:, 1].any()
    assert told[ids["p2"]].known is None


def test_dry_run_writes_nothing(cohort, given_cams, recorder):
    before = {path: path.read_bytes() for path in cohort.parent.rglob("*") if path.is_file()}
    _, report = run(cohort, recorder, run=RunOptions(dry_run=True))
    assert sum(entry.counts.get("polygons", 0) for entry in report.entries) > 0
    assert {path: path.read_bytes() for path in cohort.parent.rglob("*") if path.is_file()} == before


def test_a_run_leaves_its_cams_and_what_it_estimated(cohort, given_cams, recorder):
    ids, report = run(cohort, recorder)
    cams = cohort.parent / "wsplf" / "runs" / report.run_id / "cams"
    assert {path.stem for path in cams.iterdir()} == {ids[name] for name in ("p1", "p2", "n1", "n2")}
    truth = TUMOUR.area / 520**2
    assert report.details["tumour_share"] == pytest.approx(truth, abs=0.05)


def test_one_slide_that_is_missing_is_named_and_the_others_go_on(cohort, slide, given_cams, recorder):
    project = open_project(cohort, ProjectOptions())
    entries = resolve_labels(project, project.entries(), ProjectOptions())
    entries[0] = changed(entries[0], slide_path=None, problem="slide not found")
    report = pseudolabel(project, entries, PseudolabelOptions(), recorder)
    assert [(entry.name, entry.status) for entry in report.entries if entry.status != "done"] == [("p1.tif", "failed")]
    assert project.annotations(entries[1].id)


def test_nothing_to_learn_from_is_said_before_any_work(cohort, recorder):
    project = open_project(cohort, ProjectOptions())
    entries = resolve_labels(project, project.entries(), ProjectOptions())
    with pytest.raises(ProjectError):
        pseudolabel(project, [entry for entry in entries if entry.name != "n1.tif"][:2], PseudolabelOptions(), recorder)
    with pytest.raises(ConfigError, match="unknown head"):
        pseudolabel(project, entries, PseudolabelOptions(head="nonsense"), recorder)
    assert not (cohort.parent / "wsplf").exists()


def test_what_a_negative_slide_would_get_is_counted_and_not_drawn(cohort, given_cams, recorder, monkeypatch):
    look = stage.look

    def swapped(prepared, *args, **rest):
        heat, results = look(prepared, *args, **rest)
        ids = {one.entry.name: one.entry.id for one in prepared}
        return heat | {ids["n2.tif"]: heat[ids["p1.tif"]]}, results

    monkeypatch.setattr(stage, "look", swapped)
    monkeypatch.setattr(stage, "cored", lambda cam, *, least: cam)
    monkeypatch.setattr(stage, "calibrate", lambda positives, negatives: Given())
    ids, report = run(cohort, recorder)
    counts = {one.name: one.counts for one in report.entries}
    assert counts["n2.tif"]["suppressed_um2"] > 0.5 * TUMOUR.area
    assert counts["n1.tif"]["suppressed_um2"] == counts["p1.tif"]["suppressed_um2"] == 0
    assert shapes(cohort, ids["n2"]) == []


class Given:
    """A calibration with its threshold at 0."""

    threshold = 0.0
    tumour_share = called_share = expected_dice = false_positive_share = 0.1

    def carried_to(self, positives, negatives):
        return self

    def cam(self, logits):
        return np.nan_to_num(1 / (1 + np.exp(-np.clip(logits, -30, 30))), nan=0.0).astype(np.float32)


@pytest.mark.parametrize("refiner", ["none", "slic", "sam-alone"])
def test_every_refiner_draws_the_tumour(cohort, given_cams, recorder, refiner):
    ids, _ = run(cohort, recorder, refiner=refiner)
    found = union_all([one.shape for one in shapes(cohort, ids["p1"])])
    assert found.intersection(TUMOUR).area / found.union(TUMOUR).area > (0.4 if refiner == "sam-alone" else 0.7)


@pytest.mark.parametrize("selection", ["agreement", "ids"])
def test_rounds_tune_the_decoder_and_reuse_the_embeddings(cohort, given_cams, recorder, selection, monkeypatch):
    monkeypatch.setattr(_rounds, "MOST_WINDOWS", 6)
    options = {"rounds": 2, "selection": selection}
    ids, report = run(cohort, recorder, **options)
    assert len(report.details["round_windows"]) == 2
    assert report.details["round_windows"][0] > 0
    assert report.details["embedded"] > 0
    found = union_all([one.shape for one in shapes(cohort, ids["p1"])])
    assert found.intersection(TUMOUR).area / found.union(TUMOUR).area > 0.7
    curves = (cohort.parent / "wsplf" / "runs" / report.run_id / "curves.json").read_text()
    assert "SAM decoder loss" in curves
    _, again = run(cohort, recorder)
    assert again.details["embedded"] == 0


def test_the_cache_is_bounded_and_can_be_left_out(cohort, given_cams, recorder):
    run(cohort, recorder, cache_gb=0.0)
    cache = cohort.parent / "wsplf" / "cache"
    assert not cache.exists()
    run(cohort, recorder, cache_gb=2e-4)
    kept = sum(path.stat().st_size for path in cache.rglob("*.npy"))
    assert 0 < kept <= 200_000


def test_rounds_without_sam_are_refused_before_any_work(cohort, recorder):
    with pytest.raises(ConfigError, match="rounds"):
        run(cohort, recorder, rounds=1, refiner="slic")
    assert not (cohort.parent / "wsplf").exists()


def test_what_was_learned_once_serves_runs_that_differ_only_in_the_drawing(cohort, given_cams, recorder, monkeypatch):
    fits = []
    fit = stage.fit_committee
    monkeypatch.setattr(stage, "fit_committee", lambda *args, **rest: fits.append(1) or fit(*args, **rest))
    project = open_project(cohort, ProjectOptions())
    entries = resolve_labels(project, project.entries(), ProjectOptions())
    memory = {}
    for options in ({"refiner": "none"}, {"refiner": "slic"}, {"prompts": "boxes"}, {"adl": False}):
        pseudolabel(project, entries, PseudolabelOptions(**options), recorder, memory=memory)
    assert len(fits) == 2
    assert len(memory) == 2


@pytest.mark.parametrize("tile_px", [32, 64, 100, 192, 513])
def test_blocks_are_large_enough_for_tiles_of_any_size(tile_px):
    side = _cams.block_side(tile_px)
    assert side % 32 == 0
    assert side >= max(256, 2 * tile_px)


def test_a_place_is_judged_by_the_mean_of_both_committees_and_unseen_by_its_own_fold(cohort, recorder):
    project = open_project(cohort, ProjectOptions())
    entries = resolve_labels(project, project.entries(), ProjectOptions())[:4]
    options = PseudolabelOptions()
    prepared, _ = stage._tile(project, entries, options, recorder)
    fold_of = {one.entry.id: number % 2 for number, one in enumerate(prepared)}
    torch.manual_seed(0)
    committees = [_committee(fold_of, classes=[1, 1]), _committee(fold_of, classes=[2])]
    device = torch.device("cpu")
    alone = [_cams.look(prepared, [one], options=options, device=device, tracker=recorder)[0] for one in committees]
    together, results = _cams.look(prepared, committees, options=options, device=device, tracker=recorder)
    assert [result.status for result in results] == ["done"] * 4
    for one in prepared:
        for which in ("mean", "unseen"):
            first, second, both = (getattr(looked[one.entry.id], which).logits[0] for looked in (*alone, together))
            np.testing.assert_allclose((first + second) / 2, both, rtol=1e-3, atol=1e-3)
            assert np.isfinite(both[~np.isnan(both)]).all()
    first, second = prepared[:2]
    assert not np.allclose(
        together[first.entry.id].unseen.logits, together[second.entry.id].unseen.logits, equal_nan=True
    ), "the same slide, judged by other folds"


def _committee(fold_of, *, classes):
    networks = []
    for count in classes:
        backbone = build_backbone("small").eval()
        networks.append(MilNetwork(backbone, torch.nn.Linear(backbone.channels, count)).eval())
    return _cams.Committee(fold_of, networks)
