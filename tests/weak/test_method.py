"""The stage with its real parts but for the classifier: its CAMs are given, so that the rest can be judged."""

import json
from dataclasses import dataclass, field
from dataclasses import replace as changed
from uuid import uuid4

import numpy as np
import pytest
from qupath_objects import delete_annotations
from shapely import box, union_all
from wsplf_cli.weak.dense import LogitMap, cells_of

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.geometry import rasterise
from wsplf_cli.options import ProjectOptions, PseudolabelOptions, RunOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.review.memory import Review, write_polygons
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import REVIEW_KEY, REVIEWED_KEY, Annotation
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.weak import cam as _cams
from wsplf_cli.weak import method as stage
from wsplf_cli.weak.features import FittedProbes, SampledInstances
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.method import pseudolabel
from wsplf_cli.weak.sam import rounds as _rounds

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


@dataclass
class Given:
    learned: dict[str, list[str]] = field(default_factory=dict)
    doubted: dict[str, str] = field(default_factory=dict)


@pytest.fixture
def given_cams(monkeypatch):
    """In place of the classifiers: noise, and on positive slides high logits on the tumour.

    Gives the names of the slides from which each kind learned, and takes by name those whose label is to be doubted.
    """
    given = Given()

    def sample_instances(views, backbone, *, looking, rng, tracker):
        return SampledInstances([{} for _ in views], [])

    def fit_probes(prepared, places, *, results, layer, rng, tracker):
        given.learned["places"] = [one.entry.name for one in prepared]
        judges = {one.entry.id: LinearProbe(np.zeros(1, np.float32), 0.0) for one in prepared}
        doubted = {one.entry.id: given.doubted[one.entry.name] for one in prepared if one.entry.name in given.doubted}
        return FittedProbes(judges, doubted)

    def fit_ensemble(prepared, sources, networks, **rest):
        given.learned["mil"] = [one.entry.name for one in prepared]
        return _cams.MilEnsemble({one.entry.id: 0 for one in prepared}, [])

    def look(views, learnt, *, options, device, tracker):
        (prepared,), (learnt,) = views, learnt
        assert (learnt.judged is not None) == (options.recipe.backbone_mode != "fine-tuned")
        assert (learnt.committee is not None) == (options.recipe.backbone_mode != "frozen")
        heat = {}
        for number, one in enumerate(prepared):
            rng = np.random.default_rng(number)
            shape = (SIDE // 8, SIDE // 8)
            logits = rng.normal(-3, 0.5, shape)
            if one.positive:
                logits[rasterise([TUMOUR], origin_px0=(0, 0), downsample=8.0, size_px=shape)] += 6
            logits[~cells_of(one.tissue, shape=shape, downsample=8.0)] = np.nan
            found = LogitMap(logits[None].astype(np.float32), 8.0)
            heat[one.entry.id] = _cams.SlideLogits(found, found, found)
        return [heat], []

    for stand_in in (sample_instances, fit_probes, fit_ensemble, look):
        monkeypatch.setattr(stage, stand_in.__name__, stand_in)
    return given


def run(path, tracker, **options):
    project = open_project(path, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
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
    delete_annotations(project, ids["p1"], [own.id])
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
    delete_annotations(project, ids["p1"], [first.id])
    project.replace(ids["p1"], origin="human", annotations=[rejected])
    run(cohort, recorder)
    after = shapes(cohort, ids["p1"])
    assert [one.review for one in after if one.id == first.id] == ["rejected"]
    assert sum(one.shape.intersection(first.shape).area for one in after if one.review == "pending") < 1


def delete(path, entry_id, *, but=()):
    """A person deletes the polygons that lie in the tumour; returns what they covered."""
    project = open_project(path, ProjectOptions())
    gone = [one for one in project.annotations(entry_id) if one.shape.intersects(TUMOUR) and one.id not in but]
    delete_annotations(project, entry_id, [one.id for one in gone])
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


@pytest.mark.parametrize(("classifier", "learner"), [("places", "fit_probes"), ("mil", "fit_ensemble")])
def test_the_classifier_is_told_what_a_person_decided(cohort, given_cams, recorder, monkeypatch, classifier, learner):
    project = open_project(cohort, ProjectOptions())
    ids = {entry.name.removesuffix(".tif"): entry.id for entry in project.entries()}
    drawn = [Annotation(uuid4(), TUMOUR, "Tumor"), Annotation(uuid4(), box(430, 60, 580, 580), "Stroma")]
    project.replace(ids["p1"], origin="human", annotations=drawn)
    told = {}
    before = getattr(stage, learner)

    def learn(prepared, *rest, **options):
        told.update({one.entry.id: one for one in prepared})
        return before(prepared, *rest, **options)

    monkeypatch.setattr(stage, learner, learn)
    run(cohort, recorder, classifier=classifier)
    one = told[ids["p1"]]
    layers = one.known(np.arange(len(one.grid.xy_px0)))
    assert layers[:, 0].any()
    assert layers[:, 1].any()
    assert told[ids["p2"]].known is None
    assert len(one.review.regions.positive) == len(one.review.regions.negative) == 1
    assert told[ids["p2"]].review.regions == ReviewRegions()


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
    entries = resolve_labels(project.entries(), ProjectOptions())
    entries[0] = changed(entries[0], slide_path=None, problem="slide not found")
    report = pseudolabel(project, entries, PseudolabelOptions(), recorder)
    assert [(entry.name, entry.status) for entry in report.entries if entry.status != "done"] == [("p1.tif", "failed")]
    assert project.annotations(entries[1].id)


def test_nothing_to_learn_from_is_said_before_any_work(cohort, recorder):
    project = open_project(cohort, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    with pytest.raises(ProjectError):
        pseudolabel(project, [entry for entry in entries if entry.name != "n1.tif"][:2], PseudolabelOptions(), recorder)
    with pytest.raises(ConfigError, match="unknown head"):
        pseudolabel(project, entries, PseudolabelOptions(classifier="mil", head="nonsense"), recorder)
    with pytest.raises(ConfigError, match="nonsense"):
        pseudolabel(project, entries, PseudolabelOptions(backbone="nonsense"), recorder)
    assert not (cohort.parent / "wsplf").exists()


def test_what_a_negative_slide_would_get_is_counted_and_not_drawn(cohort, given_cams, recorder, monkeypatch):
    look = stage.look

    def swapped(views, *args, **rest):
        (heat,), results = look(views, *args, **rest)
        ids = {one.entry.name: one.entry.id for one in views[0]}
        return [heat | {ids["n2.tif"]: heat[ids["p1.tif"]]}], results

    monkeypatch.setattr(stage, "look", swapped)
    monkeypatch.setattr(stage, "keep_components_with_peak", lambda cam, *, least: cam)
    monkeypatch.setattr(stage, "calibrate", lambda positives, negatives, *, least: AtZero())
    ids, report = run(cohort, recorder)
    counts = {one.name: one.counts for one in report.entries}
    assert counts["n2.tif"]["suppressed_um2"] > 0.5 * TUMOUR.area
    assert counts["n1.tif"]["suppressed_um2"] == counts["p1.tif"]["suppressed_um2"] == 0
    assert shapes(cohort, ids["n2"]) == []


class AtZero:
    """A calibration with its threshold at 0."""

    threshold = 0.0
    tumour_share = called_share = expected_dice = false_positive_share = 0.1

    def match_positive_rate(self, positives, negatives):
        return self

    def cam(self, logits):
        return np.nan_to_num(1 / (1 + np.exp(-np.clip(logits, -30, 30))), nan=0.0).astype(np.float32)


@pytest.mark.parametrize("refiner", ["none", "slic", "sam-only"])
def test_every_refiner_draws_the_tumour(cohort, given_cams, recorder, refiner):
    ids, _ = run(cohort, recorder, refiner=refiner)
    found = union_all([one.shape for one in shapes(cohort, ids["p1"])])
    assert found.intersection(TUMOUR).area / found.union(TUMOUR).area > (0.4 if refiner == "sam-only" else 0.7)


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


def test_what_has_no_effect_is_refused_before_any_work(cohort, recorder):
    with pytest.raises(ConfigError, match="rounds"):
        run(cohort, recorder, rounds=1, refiner="slic")
    with pytest.raises(ConfigError, match="--epochs 3 is of MIL networks"):
        run(cohort, recorder, epochs=3)
    assert not (cohort.parent / "wsplf").exists()


def test_what_was_learned_once_serves_runs_that_differ_only_in_the_drawing(cohort, given_cams, recorder, monkeypatch):
    fits = []
    fit = stage.fit_probes
    monkeypatch.setattr(stage, "fit_probes", lambda *args, **rest: fits.append(1) or fit(*args, **rest))
    project = open_project(cohort, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    memory = {}
    for options in (
        {"refiner": "none"},
        {"refiner": "slic"},
        {"refiner": "none", "alpha": 0.05},
        {"refiner": "none", "turns": 4},
    ):
        pseudolabel(project, entries, PseudolabelOptions(**options), recorder, memory=memory)
    assert len(fits) == 2
    assert len(memory) == 2


@pytest.mark.parametrize(
    ("classifier", "kinds"), [("places", {"places"}), ("mil", {"mil"}), ("both", {"places", "mil"})]
)
def test_the_classifier_that_is_asked_for_learns_from_all_labelled_slides(
    cohort, given_cams, recorder, classifier, kinds
):
    ids, report = run(cohort, recorder, classifier=classifier, refiner="none")
    assert given_cams.learned == {kind: ["p1.tif", "p2.tif", "n1.tif", "n2.tif"] for kind in kinds}
    assert set(report.details["folds"]) == (
        {ids[name] for name in ("p1", "p2", "n1", "n2")} if "mil" in kinds else set()
    )
    assert report.details["suspects"] == {}
    assert shapes(cohort, ids["p1"])


def test_a_doubted_label_is_said_and_kept_in_the_run(cohort, given_cams, recorder):
    given_cams.doubted = {
        "n2.tif": "labelled negative, looks otherwise",
        "p2.tif": "labelled positive, looks otherwise",
    }
    ids, report = run(cohort, recorder, refiner="none")
    expected = {
        ids[name.removesuffix(".tif")]: {"name": name, "reason": why} for name, why in given_cams.doubted.items()
    }
    assert report.details["suspects"] == expected
    written = json.loads((cohort.parent / "wsplf" / "runs" / report.run_id / "run.json").read_text(encoding="utf-8"))
    assert written["details"]["suspects"] == expected
    for name, why in given_cams.doubted.items():
        assert any(line.startswith(f"{name}: {why}") and "check its label" in line for line in recorder.said)
    assert shapes(cohort, ids["p2"]), "a doubted label counts all the same for what is drawn"
    assert shapes(cohort, ids["n2"]) == []


def test_doubted_slides_are_left_out_of_fit_and_calibration(cohort, given_cams, recorder, monkeypatch):
    given_cams.doubted = {"n2.tif": "looks otherwise", "p2.tif": "looks otherwise"}
    counts = []
    calibrate, core = stage.calibrate, stage.core
    monkeypatch.setattr(stage, "calibrate", lambda *kinds, **rest: counts.append(kinds) or calibrate(*kinds, **rest))
    monkeypatch.setattr(stage, "core", lambda some, **rest: counts.append([some]) or core(some, **rest))
    _, report = run(cohort, recorder, classifier="both", refiner="none")
    assert given_cams.learned == {"places": ["p1.tif", "p2.tif", "n1.tif", "n2.tif"], "mil": ["p1.tif", "n1.tif"]}
    assert [[len(slides) for slides in given] for given in counts] == [[1, 1], [1]]
    assert len(report.details["folds"]) == 4, "every slide is looked at by some network"
