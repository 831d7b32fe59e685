import json

import numpy as np
import openslide
import pytest
from PIL import Image
from shapely.geometry import shape

from wsplf_cli.geometry import rasterise
from wsplf_cli.synthetic import regions, zones
from wsplf_cli.synthetic.blobs import Blobs, rasterise_blobs
from wsplf_cli.synthetic.cohort import make_cohort
from wsplf_cli.synthetic.glands import empty_layout, fill_zone
from wsplf_cli.synthetic.kinds import EPITHELIUM, LUMEN, STRUCTURES
from wsplf_cli.synthetic.noise import fibres, scatter, smooth
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.synthetic.stain import random_appearance, render
from wsplf_cli.synthetic.threshold import best_threshold
from wsplf_cli.synthetic.tissue import random_layout, render_layout, stain_densities

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


def generic_image(seed, *, shape, mpp):
    rng = np.random.default_rng(seed)
    return render_layout(rng, random_layout(rng, shape, mpp))


def zone_densities(zone, *, seed):
    rng = np.random.default_rng(seed)
    layout = empty_layout((400, 400), 1.0)
    fill_zone(rng, layout, zone=zone(rng), where=np.ones((400, 400), bool))
    return layout, stain_densities(rng, layout)


def test_scattered_points_lie_on_allowed_pixels_and_keep_their_distance():
    allowed = np.zeros((120, 90), bool)
    allowed[20:100, 10:70] = True
    points = scatter(np.random.default_rng(0), allowed, spacing_px=5.0)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e3 * np.eye(len(points))
    assert distance.min() >= 5.0
    assert allowed[np.rint(points[:, 1]).astype(int).clip(20, 99), np.rint(points[:, 0]).astype(int).clip(10, 69)].all()
    assert len(points) > 80 * 60 / 5.0**2 * 0.5


def test_nothing_allowed_gives_no_points():
    assert scatter(np.random.default_rng(0), np.zeros((9, 9), bool), spacing_px=2.0).shape == (0, 2)


def test_smooth_noise_has_unit_spread_and_varies_over_its_period():
    field = smooth(np.random.default_rng(1), (400, 300), 10.0)
    assert field.shape == (400, 300)
    assert 0.8 < field.std() < 1.2
    assert np.abs(np.diff(field, axis=0)).mean() < 0.3 < np.abs(field[10:] - field[:-10]).mean()


def test_fibre_angle_follows_the_flow():
    flow = fibres(np.random.default_rng(2), (200, 200), mpp=1.0, width_um=3.0, wave_um=300.0)
    rows, columns = np.array([100, 60, 150]), np.array([90, 120, 40])
    angle = flow.angle(rows, columns)
    ahead = flow.across[np.rint(rows + 4 * np.sin(angle)).astype(int), np.rint(columns + 4 * np.cos(angle)).astype(int)]
    aside = flow.across[np.rint(rows + 4 * np.cos(angle)).astype(int), np.rint(columns - 4 * np.sin(angle)).astype(int)]
    here = flow.across[rows, columns]
    assert (np.abs(ahead - here) < 0.4 * np.abs(aside - here)).all()


def test_a_stamped_ellipse_has_its_area_and_place():
    one = np.ones(1, np.float32)
    blobs = Blobs(np.array([[40.3, 20.6]], np.float32), 9 * one, 4 * one, 0 * one, 0 * one)
    canvas = np.zeros(60 * 80, np.float32)
    for part in rasterise_blobs(np.random.default_rng(0), blobs, (60, 80)):
        np.add.at(canvas, part.index, part.cover)
    canvas = canvas.reshape(60, 80)
    rows, columns = np.mgrid[:60, :80]
    assert canvas.sum() == pytest.approx(np.pi * 9 * 4, rel=0.05)
    assert (canvas * columns).sum() / canvas.sum() == pytest.approx(40.3, abs=0.1)
    assert (canvas * rows).sum() / canvas.sum() == pytest.approx(20.6, abs=0.1)


def test_blobs_at_the_border_are_cut_off_not_wrapped_round():
    one = np.ones(2, np.float32)
    blobs = Blobs(np.array([[0, 10], [-30, 10]], np.float32), 5 * one, 5 * one, 0 * one, 0 * one)
    index = np.concatenate([part.index for part in rasterise_blobs(np.random.default_rng(0), blobs, (20, 40))])
    assert (index % 40).max() <= 6


@pytest.mark.parametrize("seed", range(6))
def test_generic_tissue_comes_with_matching_label_maps(seed):
    image = generic_image(seed, shape=(120, 160), mpp=0.8)
    assert image.rgb.shape == (120, 160, 3)
    assert image.rgb.dtype == image.structure.dtype == np.uint8
    assert image.instance.dtype == np.int32
    assert image.nucleus_radius_um.dtype == np.float32
    assert (image.nuclei == (image.nucleus_radius_um > 0)).all()
    assert image.structure.max() < len(STRUCTURES)
    assert (image.instance[(image.structure == LUMEN)] > 0).all()


def test_generic_tissue_is_the_same_for_the_same_seed_and_differs_for_another():
    first, again, other = (generic_image(seed, shape=(96, 96), mpp=1.0) for seed in (5, 5, 6))
    assert (first.rgb == again.rgb).all()
    assert (first.instance == again.instance).all()
    assert (first.rgb != other.rgb).any()


def test_nuclei_are_darker_than_what_is_around_them():
    layout, densities = zone_densities(zones.mucosa, seed=1)
    assert densities.h[densities.nuclei].mean() > 2.5 * densities.h[~densities.nuclei].mean()
    assert 0.05 < densities.nuclei.mean() < 0.5
    assert len(layout.gland_types) > 5


def test_tumour_has_larger_nuclei_than_normal_tissue_but_about_as_much_dye():
    radii, dye = {}, {}
    for name, zone in (("tumour", zones.tumour), ("mucosa", zones.mucosa)):
        samples = [zone_densities(zone, seed=seed)[1] for seed in range(4)]
        radii[name] = np.mean([densities.nucleus_radius_um[densities.nuclei].mean() for densities in samples])
        dye[name] = np.mean([densities.h.mean() for densities in samples])
    assert radii["tumour"] > 1.5 * radii["mucosa"]
    assert dye["tumour"] < 1.5 * dye["mucosa"]


def test_glands_of_a_plan_keep_their_gap():
    rng = np.random.default_rng(4)
    zone = zones.ducts(rng)
    layout = empty_layout((300, 300), 1.0)
    fill_zone(rng, layout, zone=zone, where=np.ones((300, 300), bool))
    gland = np.array([kind.structure in (EPITHELIUM, LUMEN) for kind in layout.kinds])[layout.kind]
    assert (gland == (layout.instance > 0)).all()
    right, left = layout.instance[:, 3:], layout.instance[:, :-3]
    assert not ((right != left) & (right > 0) & (left > 0)).any()


def test_stain_and_scanner_differ_between_slides():
    densities = tuple(np.full((8, 8), value, np.float32) for value in (0.5, 0.5, 0.0))
    means = [
        render(np.random.default_rng(0), densities, random_appearance(np.random.default_rng(k))).mean()
        for k in range(12)
    ]
    assert np.std(means) > 8


@pytest.mark.parametrize("size", [(700, 520), (256, 256), (100, 30)])
def test_pyramid_is_read_by_openslide_with_its_mpp_levels_and_pixels(tmp_path, size):
    width, height = size
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([120 + 60 * np.sin(x / 40), 120 + 60 * np.cos(y / 30), 0 * x + 90], axis=2).astype(np.uint8)
    write_pyramid(tmp_path / "a.tif", rgb, mpp=0.73, quality=92)
    with openslide.OpenSlide(str(tmp_path / "a.tif")) as slide:
        assert slide.dimensions == size
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.73, rel=1e-4)
        assert slide.level_dimensions[1] == (-(-width // 4), -(-height // 4))
        assert slide.level_count == 3
        coarse = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]).convert("RGB"))
    assert np.abs(pixels(tmp_path / "a.tif").astype(int) - rgb).mean() < 3
    assert np.abs(coarse.astype(int) - np.asarray(Image.fromarray(rgb).reduce(4))).mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


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


@pytest.mark.parametrize("share", [0.03, 0.1, 0.25])
@pytest.mark.parametrize("seed", [0, 1])
def test_tumour_covers_the_share_of_the_tissue_that_was_asked_for(share, seed):
    rng = np.random.default_rng(seed)
    tissue = regions.tissue_level(rng, (2048, 2048), share=0.6)
    level = regions.tumour_level(rng, tissue, share=share, pieces=1 + seed, holes=2, mpp=1.0)
    assert ((level > 0) & (tissue > 0)).sum() / (tissue > 0).sum() == pytest.approx(share, rel=0.05)
    polygons = regions.outline(level)
    assert polygons.is_valid
    largest = max(polygons.geoms, key=lambda polygon: polygon.area)
    assert largest.buffer(-50).area > 0


def test_large_tumours_have_holes_of_normal_tissue():
    rng = np.random.default_rng(2)
    tissue = regions.tissue_level(rng, (2048, 2048), share=0.6)
    polygons = regions.outline(regions.tumour_level(rng, tissue, share=0.3, pieces=1, holes=2, mpp=1.0))
    holes = [hole for polygon in polygons.geoms for hole in polygon.interiors]
    assert holes
    mask = regions.rasterise_polygons((2048, 2048), polygons)
    assert mask.sum() == pytest.approx(polygons.area, rel=0.01)


def test_one_share_given_twice_fixes_the_tumour_share(tmp_path):
    slides = make_cohort(tmp_path, seed=1, train=(2, 0), test=(0, 0), size_px=512, shares=(0.2, 0.2), workers=1)
    assert [slide.tumour_share for slide in slides] == pytest.approx([0.2, 0.2], rel=0.1)


def test_best_threshold_finds_the_channel_that_gives_tumour_away():
    rng = np.random.default_rng(0)
    truth = np.zeros((64, 64), bool)
    truth[10:30, 20:50] = True
    tissue = np.ones((64, 64), bool)
    tissue[:5] = False
    rgb = rng.integers(100, 200, (64, 64, 3)).astype(np.uint8)
    rgb[..., 2] = np.where(truth, 60, 90) + rng.integers(0, 20, (64, 64))
    rgb[:5, :, 2] = 50
    best = best_threshold([rgb, rgb], [truth, np.zeros_like(truth)], [tissue, tissue], mpp=2.0)
    assert (best.channel, best.above) == ("blue", False)
    assert best.mean_dice > 0.99
    mask = best.mask(rgb, tissue, mpp=2.0)
    assert 2 * (mask & truth).sum() / (mask.sum() + truth.sum()) > 0.98
    assert not mask[:5].any()
