import json

import numpy as np
import openslide
import pytest
from shapely.geometry import shape

from wsplf_cli.geometry import rasterise
from wsplf_cli.synthetic.cohort import make_cohort

TINY = {"train": (2, 1), "test": (1, 1), "size_px": 512, "shares": (0.1, 0.3)}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, make_cohort(folder, seed=3, **TINY, workers=1)


def features(path):
    return [shape(one["geometry"]) for one in json.loads(path.read_text())["features"]]


def pixels(path):
    with openslide.OpenSlide(str(path)) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


def test_cohort_has_the_slides_asked_for(cohort):
    folder, slides = cohort
    assert [(slide.label, slide.split) for slide in slides] == [
        ("tumor", "train"),
        ("tumor", "train"),
        ("normal", "train"),
        ("tumor", "test"),
        ("normal", "test"),
    ]
    assert sorted(path.name for path in (folder / "slides").iterdir()) == [slide.name for slide in slides]
    for slide in slides:
        with openslide.OpenSlide(str(slide.path)) as opened:
            assert opened.dimensions == (slide.width_px0, slide.height_px0) == (512, 512)
            assert opened.level_dimensions == slide.levels
            assert float(opened.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(slide.mpp, rel=1e-4)


def test_truth_is_valid_lies_on_tissue_and_has_the_recorded_share(cohort):
    for slide in cohort[1]:
        polygons = features(slide.truth)
        if slide.label == "normal":
            assert polygons == []
            assert slide.tumour_share == 0
            continue
        assert all(polygon.is_valid and polygon.area > 0 for polygon in polygons)
        assert 0.08 < slide.tumour_share < 0.33
        mask = rasterise(polygons, origin_px0=(0, 0), downsample=1.0, size_px=(512, 512))
        coloured = np.ptp(pixels(slide.path).astype(int), axis=2) > 15
        assert coloured[mask].mean() > 0.85
        assert slide.tumour_share == pytest.approx(mask.sum() / coloured.sum(), rel=0.35)


def test_cohort_does_not_depend_on_the_number_of_workers(cohort, tmp_path):
    again = make_cohort(tmp_path, seed=3, **TINY, workers=2)
    for one, other in zip(cohort[1], again, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()
        assert one.truth.read_bytes() == other.truth.read_bytes()
        assert one.tumour_share == other.tumour_share


def test_another_seed_gives_another_cohort(cohort, tmp_path):
    other = make_cohort(tmp_path, seed=4, train=(1, 0), test=(0, 0), size_px=512, workers=1)
    assert other[0].path.read_bytes() != cohort[1][0].path.read_bytes()


def test_the_name_of_each_slide_is_reported_when_it_is_written(tmp_path):
    names = []
    make_cohort(tmp_path, seed=0, train=(0, 2), test=(0, 0), size_px=256, workers=1, on_slide=names.append)
    assert names == ["S01.tif", "S02.tif"]


def test_one_share_given_twice_fixes_the_tumour_share(tmp_path):
    slides = make_cohort(tmp_path, seed=1, train=(2, 0), test=(0, 0), size_px=512, shares=(0.2, 0.2), workers=1)
    assert [slide.tumour_share for slide in slides] == pytest.approx([0.2, 0.2], rel=0.1)


def test_ink_is_drawn_on_positive_slides_and_changes_nothing_else(cohort, tmp_path):
    inked = make_cohort(tmp_path, seed=3, **TINY, inks=["red", "green"], workers=1)
    for clean, marked in zip(cohort[1], inked, strict=True):
        assert clean.truth.read_bytes() == marked.truth.read_bytes()
        differs = (np.abs(pixels(clean.path).astype(int) - pixels(marked.path)).max(axis=2) > 60).mean()
        assert (differs > 0.01) == (clean.label == "tumor")
