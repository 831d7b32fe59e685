"""How the steps of a slide are kept, and what their keys depend on."""

import json
import os
import shutil
from dataclasses import replace
from uuid import UUID

import numpy as np
import pytest
from shapely import box

from wsplf_cli.cache import key_of
from wsplf_cli.cohort.slide import CohortSlide, SlideResult
from wsplf_cli.review.memory import Review
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import Annotation, SlideLabel, TileGrid, TissueMask
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.weak.kept.resume import (
    SlideInput,
    finished_instances,
    finished_maps,
    finished_result,
    instances_of,
    map_digest,
    maps_of,
    probe_digest,
    result_of,
)
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.self_training import Instances


@pytest.fixture
def slide(make_entry, tiny_slide, tmp_path):
    path = shutil.copy(tiny_slide, tmp_path / "slide.tif")
    entry = make_entry("slide.tif", label={"Tumor"}, slide_path=path)
    grid = TileGrid(entry.id, 64, 1.0, 64.0, np.zeros((0, 2), np.int32), np.zeros(0, np.float32))
    return CohortSlide(entry, 0.5, TissueMask(np.ones((96, 128), bool), 8.0), grid)


def key(slide):
    return key_of(SlideInput.of(slide, ["Tumor"]))


def test_what_decides_on_a_slide_changes_its_key_and_nothing_else_does(slide):
    before = key(slide)
    reviewed = ReviewRegions(negative=(box(0, 0, 9, 9),))
    pending = ReviewRegions(pending=((box(0, 0, 9, 9), 0.5),))
    same = [
        replace(slide, review=Review(slide.entry.id, (), {"Tumor": pending})),
        replace(slide, review=Review(slide.entry.id, (), {"Stroma": reviewed})),
        replace(slide, entry=replace(slide.entry, metadata={"note": "looked at"})),
    ]
    others = [
        replace(slide, review=Review(slide.entry.id, (), {"Tumor": reviewed})),
        replace(slide, entry=replace(slide.entry, label=SlideLabel(frozenset()))),
        replace(slide, entry=replace(slide.entry, id="other")),
        replace(slide, mpp=0.25),
        replace(slide, tissue=replace(slide.tissue, ink=np.zeros((96, 128), bool))),
        replace(slide, tissue=replace(slide.tissue, downsample=4.0)),
    ]
    assert {key(other) for other in same} == {before}
    assert len({before, *map(key, others)}) == 1 + len(others)
    os.utime(slide.entry.slide_path, ns=(1, 1))
    assert key(slide) != before


def test_instances_come_back_for_each_class(slide):
    features, centres = np.random.default_rng(0).random((5, 8)).astype(np.float16), np.ones((5, 2), np.float32)
    sampled = {
        "Tumor": Instances(features, True, np.int8([0, 1, 0, 0, -1]), centres_px0=centres, blocks=(3, 5)),
        "Stroma": Instances(features, False, np.zeros(5, np.int8), centres_px0=centres, blocks=(3, 5)),
    }
    finished = finished_instances(sampled)
    finished = replace(finished, document=json.loads(json.dumps(finished.document)))  # as the file holds it
    again = instances_of(finished, slide, ["Tumor", "Stroma"])
    for name, instances in sampled.items():
        assert again[name].positive is instances.positive
        assert again[name].known.tobytes() == instances.known.tobytes()
        assert again[name].features.tobytes() == features.tobytes()
        assert np.array_equal(again[name].centres_px0, centres)
        assert again[name].blocks == (3, 5)


def test_maps_come_back_to_the_bit():
    rng = np.random.default_rng(0)
    maps = {"a": rng.random((3, 7, 5)).astype(np.float16), "b": rng.random((7, 5)).astype(np.float32)}
    maps["a"][:, :3] = np.nan
    maps["b"][2:] = np.nan
    again = maps_of(finished_maps(maps))
    assert again.keys() == maps.keys()
    for name, values in maps.items():
        assert (again[name].dtype, again[name].shape) == (values.dtype, values.shape)
        assert np.array_equal(again[name], values, equal_nan=True)


def test_pseudo_labels_come_back_as_those_of_the_new_run():
    annotation = Annotation(UUID(int=1), box(0, 0, 5, 5), "Tumor", origin="pseudolabel", run_id="old")
    result = SlideResult("7", (annotation,), {"polygons": 1}, pictures={"Tumor": b"\x89PNG"}, embedded=3)
    again = result_of(finished_result(result), "7", run_id="new")
    assert (again.counts, again.pictures, again.embedded) == ({"polygons": 1}, {"Tumor": b"\x89PNG"}, 0)
    (read,) = again.annotations
    assert (read.shape, read.run_id, read.origin) == (annotation.shape, "new", "pseudolabel")
    assert read.id != annotation.id


def test_probes_and_maps_have_digests_of_their_content():
    probe = LinearProbe(np.float32([1, 2]), 0.5)
    assert probe_digest(probe) == probe_digest(LinearProbe(np.float32([1, 2]), 0.5))
    assert len({probe_digest(None), probe_digest(probe), probe_digest(replace(probe, bias=0.6))}) == 3
    values = np.zeros((2, 2), np.float32)
    assert map_digest(SlideMap(values, 8.0)) != map_digest(SlideMap(values, 4.0))
