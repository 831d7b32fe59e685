"""Pseudo-labels of several classes: each against the rest, no place twice, and none that a label lacks."""

import json
from dataclasses import replace as changed
from uuid import uuid4

import numpy as np
import pytest
from shapely import box, union_all
from wsplf_cli.weak.dense import LogitMap, cells_of

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.geometry import rasterise
from wsplf_cli.options import ProjectOptions, PseudolabelOptions, RunOptions, TileOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Annotation
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.weak import cam as _cams
from wsplf_cli.weak import features as _places
from wsplf_cli.weak import method as stage
from wsplf_cli.weak.calibration import Calibration, PeakThreshold
from wsplf_cli.weak.features import FittedProbes, SampledInstances
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.method import pseudolabel
from wsplf_cli.weak.overlap import apart, share
from wsplf_cli.weak.sam import rounds as _rounds

SIDE = 512
AREAS = {"LUAD": box(80, 80, 300, 300), "LUSC": box(240, 200, 430, 430)}
WORDS = {"a1": "luad", "a2": "luad", "b1": "lusc", "b2": "lusc", "ab": "luad;lusc", "n1": "normal", "n2": "normal"}
LUNG = ProjectOptions(positive=("luad=LUAD", "lusc=LUSC"))
OPTIONS = PseudolabelOptions(project=LUNG, tiles=TileOptions(tile_px=64), refiner="none", min_area_um2=500.0)


def paint(*areas, seed=0):
    """Pink tissue with small dots; the first area is full of them, the second is dark blue."""
    rng = np.random.default_rng(seed)
    rgb = np.full((SIDE, SIDE, 3), 244, np.uint8)
    rgb[40:472, 40:472] = (226, 160, 200)
    dots = rng.random((SIDE, SIDE)) < 0.06
    for name in areas:
        left, top, right, bottom = map(int, AREAS[name].bounds)
        part = np.s_[top:bottom, left:right]
        if name == "LUAD":
            dots[part] |= rng.random((bottom - top, right - left)) < 0.45
        else:
            rgb[part] = (120, 130, 200)
    dots[:40] = dots[472:] = dots[:, :40] = dots[:, 472:] = False
    rgb[dots] = (90, 50, 130)
    return rgb


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slides")
    for number, (name, word) in enumerate(WORDS.items()):
        held = [area for area in AREAS if area.lower() in word]
        write_pyramid(folder / f"{name}.tif", paint(*held, seed=number), mpp=1.0)
    return folder


@pytest.fixture
def cohort(tmp_path, slides):
    """A project with slides of two classes, one of both, and two of none."""
    images = [
        Image(slides / f"{name}.tif", f"{name}.tif", SIDE, SIDE, 1.0, [(1.0, SIDE, SIDE)], {"label": word})
        for name, word in WORDS.items()
    ]
    return create_project(tmp_path / "project", images, classes=[])


@pytest.fixture
def given_cams(monkeypatch):
    """In place of the classifiers: each class is seen in its area on every slide, LUSC more surely than LUAD.

    Says which slides each class learned from as positive ones.
    """
    learned = {}

    def sample_instances(views, backbone, *, looking, rng, tracker):
        return SampledInstances([{} for _ in views], [])

    def fit_probes(prepared, places, *, results, layer, rng, tracker):
        learned[tracker.name] = [one.entry.name.removesuffix(".tif") for one in prepared if one.positive]
        judges = {one.entry.id: LinearProbe(np.zeros(1, np.float32), 0.0) for one in prepared}
        doubted = {one.entry.id: "labelled negative" for one in prepared if one.entry.name == "n2.tif"}
        return FittedProbes(judges, doubted)

    def look(views, learnt, *, options, device, tracker):
        found = []
        for view, (name, area), surely in zip(views, AREAS.items(), (5, 7), strict=True):
            heat = {}
            for number, one in enumerate(view):
                logits = np.random.default_rng(number).normal(-3, 0.5, (SIDE // 8, SIDE // 8))
                if name in WORDS[one.entry.name.removesuffix(".tif")].upper():
                    logits[rasterise([area], origin_px0=(0, 0), downsample=8.0, size_px=logits.shape)] += surely
                logits[~cells_of(one.tissue, shape=logits.shape, downsample=8.0)] = np.nan
                own = LogitMap(logits[None].astype(np.float32), 8.0)
                heat[one.entry.id] = _cams.SlideLogits(own, own, own)
            found.append(heat)
        return found, []

    for stand_in in (sample_instances, fit_probes, look):
        monkeypatch.setattr(stage, stand_in.__name__, stand_in)
    return learned


def run(path, tracker, options=OPTIONS):
    project = open_project(path, ProjectOptions())
    entries = resolve_labels(project.entries(), options.project)
    report = pseudolabel(project, entries, options, tracker)
    return {entry.name.removesuffix(".tif"): entry.id for entry in entries}, report


def drawn(path, entry_id):
    """What is drawn on an entry, by class."""
    found = {name: [] for name in AREAS}
    for one in open_project(path, ProjectOptions()).annotations(entry_id):
        found.setdefault(one.path_class, []).append(one)
    return found


def area(annotations):
    return union_all([one.shape for one in annotations])


def overlap(one, other):
    return one.intersection(other).area / one.union(other).area


def test_each_class_is_learned_against_the_rest_and_drawn_where_the_label_names_it(cohort, given_cams, recorder):
    ids, report = run(cohort, recorder)
    assert given_cams == {"LUAD": ["a1", "a2", "ab"], "LUSC": ["b1", "b2", "ab"]}
    for name, held in (("a1", "LUAD"), ("b1", "LUSC")):
        found = drawn(cohort, ids[name])
        assert overlap(area(found.pop(held)), AREAS[held]) > 0.8
        assert not any(found.values())
    assert not any(drawn(cohort, ids["n1"]).values())
    counts = {one.name.removesuffix(".tif"): one.counts for one in report.entries}
    assert (counts["a1"]["polygons LUAD"], counts["a1"]["polygons LUSC"], counts["a1"]["polygons"]) == (1, 0, 1)
    assert counts["a1"]["suppressed_um2"] == 0
    assert counts["b2"]["suppressed_um2"] == 0


def test_what_a_label_lacks_is_counted_and_not_drawn(cohort, given_cams, recorder, monkeypatch):
    look = stage.look

    def swapped(views, *args, **rest):
        (first, second), results = look(views, *args, **rest)
        ids = {one.entry.name: one.entry.id for one in views[0]}
        return [first | {ids["b2.tif"]: first[ids["a1.tif"]]}, second], results

    monkeypatch.setattr(stage, "look", swapped)
    monkeypatch.setattr(stage, "keep_components_with_peak", lambda cam, *, least: cam)
    monkeypatch.setattr(stage, "calibrate", lambda *kinds, least: Calibration(0.0, 1.0, 0.1, 0.1, 0.1, 0.1))
    monkeypatch.setattr(stage, "core", lambda *some, alpha, least: PeakThreshold(0.1, 0.0, 0.0, 4, 99))
    ids, report = run(cohort, recorder)
    counts = {one.name.removesuffix(".tif"): one.counts for one in report.entries}
    assert counts["b2"]["suppressed_um2"] == pytest.approx(AREAS["LUAD"].area, rel=0.1)
    found = drawn(cohort, ids["b2"])
    assert found["LUAD"] == []
    assert overlap(area(found["LUSC"]), AREAS["LUSC"]) > 0.8, "what is not of the label takes no place"


def test_a_place_that_both_classes_see_goes_to_the_higher_cam(cohort, given_cams, recorder):
    ids, _ = run(cohort, recorder)
    found = drawn(cohort, ids["ab"])
    first, second = area(found["LUAD"]), area(found["LUSC"])
    assert first.intersection(second).area < 1
    assert overlap(second, AREAS["LUSC"]) > 0.8
    assert overlap(first, AREAS["LUAD"].difference(AREAS["LUSC"])) > 0.8


@pytest.mark.parametrize("refiner", ["sam", "slic"])
def test_outlines_of_two_classes_never_overlap(cohort, given_cams, recorder, refiner):
    ids, _ = run(cohort, recorder, changed(OPTIONS, refiner=refiner))
    found = drawn(cohort, ids["ab"])
    first, second = area(found["LUAD"]), area(found["LUSC"])
    assert min(first.area, second.area) > 0.5 * (220 * 220 - 60 * 100)
    assert first.intersection(second).area < 1
    for one in [*found["LUAD"], *found["LUSC"]]:
        assert one.measurements["wsplf: area um^2"] == pytest.approx(one.shape.area, rel=0.01)


def test_a_run_again_replaces_its_own_pending_polygons_of_both_classes_only(cohort, given_cams, recorder):
    ids, _ = run(cohort, recorder)
    project = open_project(cohort, ProjectOptions())
    project.replace(ids["ab"], origin="human", annotations=[Annotation(uuid4(), box(430, 50, 465, 90), "LUAD")])
    before = drawn(cohort, ids["ab"])
    kept = [one.id for one in before["LUAD"] if one.origin == "human"]
    own = {one.id for some in before.values() for one in some} - set(kept)
    ids, report = run(cohort, recorder)
    after = drawn(cohort, ids["ab"])
    assert [one.id for one in after["LUAD"] if one.origin == "human"] == kept
    assert own.isdisjoint(one.id for some in after.values() for one in some)
    assert {name: len(some) for name, some in after.items()} == {name: len(some) for name, some in before.items()}
    assert {one.run_id for some in after.values() for one in some if one.origin != "human"} == {report.run_id}


def test_what_a_person_decided_for_one_class_is_background_for_the_other(cohort, given_cams, recorder, monkeypatch):
    project = open_project(cohort, ProjectOptions())
    ids = {entry.name.removesuffix(".tif"): entry.id for entry in project.entries()}
    half = box(240, 200, 330, 430)
    project.replace(ids["ab"], origin="human", annotations=[Annotation(uuid4(), half, "LUAD")])
    reads, regions = [], {}
    annotations, judge = type(project).annotations, stage.fit_probes
    monkeypatch.setattr(type(project), "annotations", lambda own, key: reads.append(key) or annotations(own, key))

    def watched(prepared, *rest, tracker, **named):
        regions[tracker.name] = {one.entry.id: one.review.regions for one in prepared}
        return judge(prepared, *rest, tracker=tracker, **named)

    monkeypatch.setattr(stage, "fit_probes", watched)
    run(cohort, recorder, changed(OPTIONS, run=RunOptions(dry_run=True)))
    assert sorted(reads) == sorted(ids.values()), "each entry is read once"
    monkeypatch.undo()
    assert [len(regions["LUAD"][ids["ab"]].positive), len(regions["LUAD"][ids["ab"]].negative)] == [1, 0]
    assert [len(regions["LUSC"][ids["ab"]].positive), len(regions["LUSC"][ids["ab"]].negative)] == [0, 1]


def test_a_person_who_drew_a_class_keeps_both_from_being_drawn_there(cohort, given_cams, recorder):
    project = open_project(cohort, ProjectOptions())
    ids = {entry.name.removesuffix(".tif"): entry.id for entry in project.entries()}
    half = box(240, 200, 330, 430)
    project.replace(ids["ab"], origin="human", annotations=[Annotation(uuid4(), half, "LUAD")])
    run(cohort, recorder)
    new = [one for some in drawn(cohort, ids["ab"]).values() for one in some if one.origin == "pseudolabel"]
    assert {one.path_class for one in new} == {"LUAD", "LUSC"}
    assert area(new).intersection(half).area < 1


def test_run_and_cams_say_which_class(cohort, given_cams, recorder):
    ids, report = run(cohort, recorder)
    folder = cohort.parent / "wsplf" / "runs" / report.run_id
    details = json.loads((folder / "run.json").read_text(encoding="utf-8"))["details"]
    assert set(details["classes"]) == {"LUAD", "LUSC"}
    assert details["classes"]["LUSC"]["tumour_share"] > 0
    assert details["suspects"][ids["n2"]]["reason"] == "LUAD: labelled negative; LUSC: labelled negative"
    assert {path.name for path in (folder / "cams").iterdir()} == {
        f"{key}.{name}.png" for key in ids.values() for name in AREAS
    }
    assert "7 labelled slides (5 positive (3 LUAD, 3 LUSC), 2 negative); left out: 0 without label, 0 held out" in (
        recorder.said
    )
    for name in AREAS:
        assert any(line.startswith(f"{name}: the CAM calls") for line in recorder.said)
        assert any(line.startswith(f"{name}: n2.tif: labelled negative; left out") for line in recorder.said)


def test_rounds_tune_a_decoder_for_each_class(cohort, given_cams, recorder, monkeypatch):
    monkeypatch.setattr(_rounds, "MOST_WINDOWS", 3)
    _, report = run(cohort, recorder, changed(OPTIONS, refiner="sam", rounds=1))
    curves = json.loads((cohort.parent / "wsplf" / "runs" / report.run_id / "curves.json").read_text())
    assert set(curves) == {"SAM decoder loss, LUAD", "SAM decoder loss, LUSC"}
    assert all(len(one["round_windows"]) == 1 for one in report.details["classes"].values())


def test_a_class_without_a_slide_that_can_be_used_is_named(cohort, recorder):
    project = open_project(cohort, ProjectOptions())
    entries = resolve_labels(project.entries(), LUNG)
    with pytest.raises(ProjectError, match="class LUSC: only negative slides"):
        pseudolabel(project, [one for one in entries if "b" not in one.name], OPTIONS, recorder)
    lost = [changed(one, slide_path=None, problem="gone") if "b" in one.name else one for one in entries]
    with pytest.raises(ProjectError, match=r"class LUSC: no positive slide can be used: .*gone"):
        pseudolabel(project, lost, OPTIONS, recorder)


def test_two_classes_are_told_apart_from_slide_labels_alone(cohort, recorder, monkeypatch):
    looks = []
    infer_map = _places.infer_map
    monkeypatch.setattr(_places, "infer_map", lambda *rest, **named: looks.append(1) or infer_map(*rest, **named))
    ids, report = run(cohort, recorder)
    assert report.failed == 0
    assert len(looks) == 2 * len(ids), "once for the places and once for the CAMs of both classes"
    for name, held in (("a1", "LUAD"), ("b1", "LUSC")):
        found = drawn(cohort, ids[name])
        assert overlap(area(found.pop(held)), AREAS[held]) > 0.3
        assert not any(found.values())
    found = drawn(cohort, ids["ab"])
    assert area(found["LUSC"]).intersection(AREAS["LUSC"]).area > 0.4 * AREAS["LUSC"].area
    assert area(found["LUAD"]).intersection(area(found["LUSC"])).area < 1


def test_mil_networks_are_fitted_for_each_class(cohort, recorder):
    options = changed(OPTIONS, classifier="both", epochs=1, folds=1)
    project = open_project(cohort, ProjectOptions())
    entries = [one for one in resolve_labels(project.entries(), LUNG) if one.name[:2] in ("a1", "b1", "n1")]
    report = pseudolabel(project, entries, options, recorder)
    assert report.failed == 0
    assert all(set(one["folds"]) == {entry.id for entry in entries} for one in report.details["classes"].values())
    curves = json.loads((cohort.parent / "wsplf" / "runs" / report.run_id / "curves.json").read_text())
    assert set(curves) == {"MIL loss, LUAD", "MIL loss, LUSC"}


def test_a_slide_that_cannot_be_read_is_left_out_for_all_classes(cohort, recorder, monkeypatch):
    take = _places.sample

    def damaged(views, *args, **rest):
        if views[0].entry.name == "n1.tif":
            raise SlideError("n1.tif: damaged")
        return take(views, *args, **rest)

    monkeypatch.setattr(_places, "sample", damaged)
    project = open_project(cohort, ProjectOptions())
    entries = [one for one in resolve_labels(project.entries(), LUNG) if one.name[:2] not in ("a2", "b2", "ab")]
    report = pseudolabel(project, entries, OPTIONS, recorder)
    assert [(one.name, one.status) for one in report.entries if one.status != "done"] == [("n1.tif", "failed")]


def test_a_cam_loses_where_another_is_higher_and_gets_what_has_no_core():
    first, second = np.full((6, 12), 0.1, np.float32), np.full((6, 12), 0.1, np.float32)
    first[1:5, 0:6] = 0.9
    second[1:5, 4:10] = 0.95
    first[1:5, 9] = 0.97
    own, other = share([first, second], least=[None, None])
    assert (own >= 0.5).sum() == 4 * 4 + 4
    assert not ((own >= 0.5) & (other >= 0.5)).any()
    first[1:5, 9] = 0.96
    own, other = share([first, second], least=[None, None])
    strict_first, strict_second = share([np.where(first > 0.95, first, first * 0.99), second], least=[0.99, None])
    assert not (strict_first >= 0.5).any(), "no piece has a core"
    assert (strict_second >= 0.5).sum() == 4 * 6, "what the other class lost comes back"


def test_common_areas_of_polygons_go_to_the_higher_cam():
    def annotation(shape, name):
        return Annotation(uuid4(), shape, name, origin="pseudolabel", measurements={"wsplf: area um^2": shape.area})

    left, right, far = box(0, 0, 120, 80), box(80, 0, 200, 80), box(300, 0, 340, 40)
    cams = [np.zeros((12, 50), np.float32), np.zeros((12, 50), np.float32)]
    cams[0][:, :12], cams[1][:, 12:] = 0.9, 0.9
    kept = annotation(far, "LUSC")
    first, second = apart(
        [[annotation(left, "LUAD")], [annotation(right, "LUSC"), kept]],
        cams,
        cell_px0=8.0,
        min_area_px0=100.0,
        mpp_slide=0.5,
    )
    assert [one.shape.bounds for one in first] == [(0, 0, pytest.approx(96, abs=3), 80)]
    assert second[1] is kept
    assert second[0].shape.bounds[0] == pytest.approx(96, abs=3)
    assert first[0].shape.intersection(second[0].shape).area == 0
    assert first[0].measurements["wsplf: area um^2"] == pytest.approx(first[0].shape.area * 0.25)
