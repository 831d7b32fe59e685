"""The command on a small cohort, with all of its parts as they are: one run for most tests, one more after a review."""

import json
from dataclasses import dataclass, replace
from functools import partial
from uuid import uuid4

import numpy as np
import pytest
from pseudolabel_runs import (
    AREA,
    CONFIDENCE,
    Done,
    area,
    copy,
    make_project,
    overlap,
    paint,
    run_pseudolabel,
    use_small_fits,
)
from qupath_objects import delete_annotations
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.pseudolabel import pseudolabel
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ProjectOptions, PseudolabelOptions, RunOptions
from wsplf_cli.recipes import Recipe
from wsplf_cli.review.memory import Review, write_polygons
from wsplf_cli.schema import REVIEW_KEY, REVIEWED_KEY, Annotation, Silent
from wsplf_cli.weak import method
from wsplf_cli.weak.mil import ensemble
from wsplf_cli.weak.mil.training import MilSettings
from wsplf_cli.weak.sam import rounds

TUMOUR = box(140, 160, 320, 340)
POSITIVE, NEGATIVE = {"label": "tumor"}, {"label": "normal"}
#: The slide called "wrong" holds tumour, and its label says that it does not.
POSITIVES = ["edited", "rejected", "drawn", "reviewed", "deleted", "saved over"]
METADATA = dict.fromkeys(POSITIVES, POSITIVE) | {
    "n1": NEGATIVE,
    "n2": NEGATIVE,
    "n3": NEGATIVE,
    "wrong": NEGATIVE,
    "unlabelled": {},
    "held out": POSITIVE | {"split": "test"},
}


@pytest.fixture(scope="module", autouse=True)
def small_fits():
    with pytest.MonkeyPatch.context() as patch:
        use_small_fits(patch)
        yield


def run(path, *, only=None, memory=None, recipe=None, **options):
    recipe = Recipe(**(recipe or {}))
    return run_pseudolabel(path, PseudolabelOptions(recipe=recipe, **options), only=only, memory=memory)


@pytest.fixture(scope="module")
def unrun(tmp_path_factory):
    slides = {
        name: (paint(None if name.startswith("n") else TUMOUR, seed=seed), metadata)
        for seed, (name, metadata) in enumerate(METADATA.items())
    }
    return make_project(tmp_path_factory.mktemp("cohort"), slides)


@pytest.fixture(scope="module")
def first(unrun, tmp_path_factory):
    """The first run of the default recipe."""
    return run(copy(unrun, tmp_path_factory.mktemp("first")))


def test_positive_slides_get_the_tumour_and_no_other_slide_gets_a_polygon(first):
    assert first.report.failed == 0
    for name in POSITIVES:
        assert overlap(first.annotations(name), TUMOUR) > 0.8
    for name in METADATA.keys() - set(POSITIVES):
        assert first.annotations(name) == []


def test_polygons_say_where_they_come_from(first):
    for annotation in first.annotations("edited"):
        assert (annotation.origin, annotation.review, annotation.path_class) == ("pseudolabel", "pending", "Tumor")
        assert annotation.run_id == first.report.run_id
        assert not annotation.edited
        assert 0.5 <= annotation.measurements[CONFIDENCE] <= 1
        assert annotation.measurements[AREA] == pytest.approx(annotation.shape.area, rel=1e-3)
        assert all(np.isfinite(value) for value in annotation.measurements.values())


def test_slides_that_are_left_out_are_counted(first):
    assert "10 labelled slides (6 positive, 4 negative); left out: 1 without label, 1 held out" in first.said
    assert set(first.results()) == METADATA.keys() - {"unlabelled", "held out"}


def test_a_suspected_label_error_is_said_and_kept_in_the_run(first):
    reason = "labelled negative; without it, positive and negative slides are separated far better"
    expected = {first.ids["wrong"]: {"name": "wrong.tif", "reason": reason}}
    assert first.report.details["suspected_label_errors"] == expected
    written = json.loads((first.run_folder / "run.json").read_text(encoding="utf-8"))
    assert written["details"]["suspected_label_errors"] == expected
    assert f"wrong.tif: {reason}; not learned from, please check its label" in first.said
    assert any("of 3 negative slides" in line for line in first.said), "its logits count for no threshold"


def test_what_a_negative_slide_would_get_is_counted_and_not_drawn(first):
    suppressed = {name: result.counts["suppressed_um2"] for name, result in first.results().items()}
    assert suppressed.pop("wrong") == pytest.approx(TUMOUR.area, rel=0.2)
    assert not any(suppressed.values())
    assert first.annotations("wrong") == []


def test_a_run_leaves_its_cams_and_what_it_estimated(first):
    assert {path.stem for path in (first.run_folder / "cams").iterdir()} == {
        first.ids[name] for name in first.results()
    }
    assert {path.name for path in (first.run_folder / "fits").iterdir()} == {"fit.safetensors"}
    assert {path.name.split(".")[0] for path in (first.run_folder / "prompts").iterdir()} == {
        first.ids[name] for name in first.results()
    }
    details = first.report.details
    assert details["search_in"] == "epithelium"
    assert 0 < details["positive_rate"] <= 1
    assert details["negative_rate"] < 0.01
    assert details["peak"]["slides"] == 3
    assert details["folds"] == {}
    assert details["embedded"] > 0
    assert details["learn_seconds"] > 0


@pytest.mark.slow
def test_another_run_gives_the_same_polygons_and_replaces_those_before(first, tmp_path):
    again = run(copy(first.path, tmp_path))
    for name in POSITIVES:
        before, after = first.annotations(name), again.annotations(name)
        assert [annotation.shape.wkb for annotation in before] == [annotation.shape.wkb for annotation in after]
        assert {annotation.id for annotation in before}.isdisjoint(annotation.id for annotation in after)
        assert {annotation.run_id for annotation in after} == {again.report.run_id}
    assert again.report.details["embedded"] == 0, "the embeddings are kept beside the project"


@dataclass
class Reviewed:
    """What a person decided after the first run, and the project after one and two more runs."""

    edited: Annotation
    stroma: Annotation
    rejected: Annotation
    half: Annotation
    deleted: Annotation
    before: dict[str, list[Annotation]]
    once: Done
    twice: dict[str, list[Annotation]]


@pytest.fixture(scope="module")
def after_review(first, tmp_path_factory):
    path = copy(first.path, tmp_path_factory.mktemp("review"))
    project, ids = open_project(path, ProjectOptions()), first.ids

    def largest(name):
        return max(project.annotations(ids[name]), key=lambda annotation: annotation.shape.area)

    def change(name, annotation, **fields):
        delete_annotations(project, ids[name], [annotation.id])
        changed = replace(annotation, **fields)
        project.replace(ids[name], origin="human", annotations=[changed])
        return changed

    edited = change("edited", largest("edited"), shape=largest("edited").shape.buffer(-20))
    stroma = Annotation(uuid4(), box(400, 400, 460, 460), "Stroma", name="mine")
    project.replace(ids["edited"], origin="human", annotations=[stroma])
    rejected = largest("rejected")
    change("rejected", rejected, metadata=dict(rejected.metadata) | {REVIEW_KEY: "rejected"})
    half = Annotation(uuid4(), box(100, 100, 230, 400), "Tumor")
    project.replace(ids["drawn"], origin="human", annotations=[half])
    project.set_metadata({ids["reviewed"]: {REVIEWED_KEY: "2026-01-31 A. Person"}})
    deleted = largest("deleted")
    elsewhere = replace(deleted, id=uuid4(), shape=box(380, 380, 450, 450))
    written = {"annotations": [deleted, elsewhere], "origin": "pseudolabel", "run_id": deleted.run_id}
    write_polygons(project, Review(ids["deleted"]), **written)
    for name in ("deleted", "saved over"):
        over_tumour = [drawn.id for drawn in project.annotations(ids[name]) if drawn.shape.intersects(TUMOUR)]
        delete_annotations(project, ids[name], over_tumour)
    before = {name: project.annotations(ids[name]) for name in POSITIVES}
    once = run(path, only=[*POSITIVES, "n1", "n2"])
    once_path = copy(path, tmp_path_factory.mktemp("once"))
    run(path, only=["deleted", "saved over", "n1", "n2"], recipe={"refiner": "none"})
    twice = {name: open_project(path, ProjectOptions()).annotations(ids[name]) for name in POSITIVES}
    return Reviewed(edited, stroma, rejected, half, deleted, before, replace(once, path=once_path), twice)


def test_what_a_person_drew_or_edited_stays_as_it_is(after_review):
    before = {annotation.id: annotation.shape.wkb for annotation in after_review.before["edited"]}
    after = {annotation.id: annotation.shape.wkb for annotation in after_review.once.annotations("edited")}
    assert {after_review.edited.id, after_review.stroma.id} == before.keys()
    assert before.items() <= after.items()
    new = [drawn for drawn in after_review.once.annotations("edited") if drawn.id not in before]
    assert all(drawn.shape.intersection(after_review.edited.shape).area < 1 for drawn in new), "and is not drawn again"


def test_a_rejected_area_is_not_drawn_again(after_review):
    after = after_review.once.annotations("rejected")
    (kept,) = [annotation for annotation in after if annotation.id == after_review.rejected.id]
    assert kept.review == "rejected"
    pending = area(annotation for annotation in after if annotation.review == "pending")
    assert pending.intersection(after_review.rejected.shape).area < 1


def test_a_pseudo_label_beside_what_a_person_drew_is_measured_as_it_is(after_review):
    after = after_review.once.annotations("drawn")
    (human,) = [annotation for annotation in after if annotation.origin == "human"]
    assert human.id == after_review.half.id
    new = [annotation for annotation in after if annotation.origin == "pseudolabel"]
    assert area(new).intersection(human.shape).area < 1
    assert 0.3 * TUMOUR.area < area(new).area < 0.7 * TUMOUR.area
    for annotation in new:
        assert annotation.measurements[AREA] == pytest.approx(annotation.shape.area, rel=1e-3)


def test_a_reviewed_image_is_left_as_it_is(after_review):
    shapes = [
        [(annotation.id, annotation.shape.wkb) for annotation in annotations]
        for annotations in (after_review.before["reviewed"], after_review.once.annotations("reviewed"))
    ]
    assert shapes[0] == shapes[1] != []
    result = after_review.once.results()["reviewed"]
    assert (result.status, result.reason) == ("skipped", "reviewed by a person: left as it is")


def test_a_deleted_area_is_not_drawn_again_in_any_later_run(after_review):
    for annotations in (after_review.once.annotations("deleted"), after_review.twice["deleted"]):
        assert area(annotations).intersection(after_review.deleted.shape).area < 1


def test_an_image_that_was_saved_over_the_run_rejects_nothing(first, after_review):
    deleted = area(first.annotations("saved over"))
    drawn_again = area(after_review.once.annotations("saved over"))
    assert drawn_again.intersection(deleted).area > 0.9 * deleted.area
    assert any("nothing is left of" in line and "saved over" in line for line in after_review.once.said)


def test_dry_run_counts_and_writes_nothing(unrun, tmp_path):
    path = copy(unrun, tmp_path)
    before = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    dry = run(path, only=["edited", "rejected", "n1", "n2"], recipe={"refiner": "none"}, run=RunOptions(dry_run=True))
    assert sum(result.counts.get("polygons", 0) for result in dry.report.entries) > 0
    assert {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()} == before


def test_a_slide_that_is_missing_is_named_and_the_others_go_on(unrun, tmp_path):
    project = open_project(copy(unrun, tmp_path), ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    chosen = [entry for entry in entries if entry.name.split(".")[0] in ("edited", "rejected", "n1", "n2")]
    chosen[0] = replace(chosen[0], slide_path=None, problem="slide not found")
    report = pseudolabel(project, chosen, PseudolabelOptions(recipe=Recipe(refiner="none")), Silent())
    failed = [(entry.name, entry.status) for entry in report.entries if entry.status != "done"]
    assert failed == [("edited.tif", "failed")]
    assert project.annotations(chosen[1].id)


def test_what_cannot_work_is_refused_before_any_work(unrun, tmp_path):
    path = copy(unrun, tmp_path)
    with pytest.raises(ProjectError):
        run(path, only=["edited", "rejected"])
    with pytest.raises(ConfigError, match="unknown head"):
        run(path, recipe={"backbone_mode": "fine-tuned", "head": "nonsense"})
    with pytest.raises(ConfigError, match="nonsense"):
        run(path, backbone="nonsense")
    assert not (path.parent / "wsplf").exists()


@pytest.mark.parametrize("refiner", ["none", pytest.param("slic", marks=pytest.mark.slow), "sam-only"])
def test_every_refiner_draws_the_tumour_from_what_was_learned_once(first, tmp_path, refiner):
    drawn = run(copy(first.path, tmp_path), memory=first.memory, recipe={"refiner": refiner})
    assert len(first.memory) == 1
    assert drawn.report.details["learn_seconds"] == first.report.details["learn_seconds"]
    for name in POSITIVES:
        assert overlap(drawn.annotations(name), TUMOUR) > (0.4 if refiner == "sam-only" else 0.6)


IDS = pytest.param({"selection": "ids", "first_round": "cam"}, marks=pytest.mark.slow)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [{"selection": "agreement"}, IDS])
def test_rounds_tune_the_decoder_and_reuse_the_embeddings(first, tmp_path, monkeypatch, recipe):
    monkeypatch.setattr(rounds, "MOST_WINDOWS", 6)
    tuned = run(copy(first.path, tmp_path), memory=first.memory, recipe={"rounds": 2} | recipe)
    windows = tuned.report.details["round_windows"]
    assert len(windows) == 2
    assert windows[0] > 0
    assert tuned.report.details["embedded"] == 0
    assert overlap(tuned.annotations("edited"), TUMOUR) > 0.7
    curves = json.loads((tuned.run_folder / "curves.json").read_text(encoding="utf-8"))
    assert set(curves["SAM decoder loss"]["y"]) == {"round 1", "round 2"}


@pytest.mark.slow
def test_the_cache_is_bounded_and_can_be_left_out(unrun, first, tmp_path):
    path = copy(unrun, tmp_path)
    run(path, memory=first.memory, cache_gb=0.0)
    cache = path.parent / "wsplf" / "cache"
    assert not cache.exists()
    run(path, memory=first.memory, cache_gb=1e-3)
    assert 0 < sum(file.stat().st_size for file in cache.rglob("*.npy")) <= 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize("backbone_mode", ["fine-tuned", "both"])
def test_fine_tuned_networks_do_not_learn_from_a_slide_with_a_suspected_label(
    unrun, tmp_path, monkeypatch, backbone_mode
):
    learned, fit_ensemble = [], method.fit_ensemble

    def recorded(tiles, *args, **options):
        learned.extend(of_slide.slide.entry.name.removesuffix(".tif") for of_slide in tiles)
        return fit_ensemble(tiles, *args, **options)

    monkeypatch.setattr(method, "fit_ensemble", recorded)
    monkeypatch.setattr(ensemble, "MilSettings", partial(MilSettings, tiles_per_bag=2, least_steps=2))
    names = ["edited", "rejected", "drawn", "n1", "n2", "n3", "wrong"]
    recipe = {"backbone_mode": backbone_mode, "refiner": "none", "epochs": 1, "folds": 1, "tile_px": 64}
    done = run(copy(unrun, tmp_path), only=names, recipe=recipe)
    assert done.report.failed == 0
    suspected = set() if backbone_mode == "fine-tuned" else {"wrong"}
    assert learned == [name for name in names if name not in suspected]
    assert set(done.report.details["folds"]) == {done.ids[name] for name in names}, "all have a CAM"
    assert {done.ids[name] for name in suspected} == set(done.report.details["suspected_label_errors"])
    assert done.annotations("wrong") == []
