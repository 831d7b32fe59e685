"""The contract of every file in ``weak/prompts``, and what each strategy does besides."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from wsplf_cli import plugins
from wsplf_cli.weak.prompts import BACKGROUND, FOREGROUND
from wsplf_cli.weak.prompts._points import distance, within
from wsplf_cli.weak.prompts._points import spread as spread_points

STRATEGIES = plugins.names("weak.prompts")


def disc(size, *, centre, radius):
    """A CAM float32 [size, size]: 1 in the middle of a disc, falling to 0 beyond its edge, 0.5 at the radius."""
    rows, columns = np.mgrid[:size, :size] + 0.5
    distance = np.hypot(columns - centre[0], rows - centre[1])
    return np.clip(1.0 - 0.5 * distance / radius, 0, 1).astype(np.float32)


def two_discs():
    return np.maximum(disc(128, centre=(35, 40), radius=20), disc(128, centre=(95, 90), radius=12))


@pytest.fixture(params=STRATEGIES)
def strategy(request):
    return plugins.load("weak.prompts", request.param).build()


def test_the_three_strategies_are_there():
    assert STRATEGIES == ["boxes", "sampled", "spread"]


def test_empty_cam_gives_no_prompt(strategy):
    assert strategy(np.zeros((64, 64), np.float32), np.random.default_rng(0)) == []


def test_cam_below_the_foreground_gives_no_prompt(strategy):
    cam = np.full((64, 64), np.nextafter(np.float32(FOREGROUND), np.float32(0)), np.float32)
    assert strategy(cam, np.random.default_rng(0)) == []


@pytest.mark.parametrize("shape", [(128, 128), (96, 128)])
def test_points_are_inside_the_tile_and_positives_on_the_cam(strategy, shape):
    cam = two_discs()[: shape[0], : shape[1]]
    prompts = strategy(cam, np.random.default_rng(1))
    assert prompts
    for prompt in prompts:
        assert prompt.points_px.dtype == np.float32
        assert prompt.point_labels.dtype == np.int8
        assert prompt.points_px.shape == (len(prompt.point_labels), 2)
        assert set(prompt.point_labels.tolist()) <= {0, 1}
        columns, rows = np.floor(prompt.points_px).astype(int).T
        assert (np.stack([columns, rows]) >= 0).all()
        assert (columns < shape[1]).all()
        assert (rows < shape[0]).all()
        positive = prompt.point_labels == 1
        assert positive.any()
        assert (cam[rows[positive], columns[positive]] >= FOREGROUND).all()
        assert (cam[rows[~positive], columns[~positive]] <= BACKGROUND).all()


def test_tile_full_of_foreground_gives_positives_only(strategy):
    prompts = strategy(np.ones((64, 64), np.float32), np.random.default_rng(0))
    assert len(prompts) == 1
    assert (prompts[0].point_labels == 1).all()


def test_same_generator_same_prompts(strategy):
    cam = two_discs()
    first, again = (strategy(cam, np.random.default_rng(7)) for _ in range(2))
    assert len(first) == len(again)
    for prompt, same in zip(first, again, strict=True):
        np.testing.assert_array_equal(prompt.points_px, same.points_px)
        np.testing.assert_array_equal(prompt.point_labels, same.point_labels)
        np.testing.assert_array_equal(prompt.box_px, same.box_px)


def test_strategy_leaves_the_cam_as_it_was(strategy):
    cam = two_discs()
    before = cam.copy()
    strategy(cam, np.random.default_rng(0))
    np.testing.assert_array_equal(cam, before)


def test_sampled_draws_fifty_positives_mostly_where_the_cam_is_high():
    cam = np.full((40, 40), 0.5, np.float32)
    cam[:, 20:] = 1.0
    drawn = np.concatenate(
        [
            plugins.load("weak.prompts", "sampled").build()(cam, np.random.default_rng(seed))[0].points_px
            for seed in range(20)
        ]
    )
    assert drawn.shape == (1000, 2)
    assert 0.6 < (drawn[:, 0] > 20).mean() < 0.75


def test_sampled_works_on_fewer_pixels_than_points():
    cam = np.zeros((32, 32), np.float32)
    cam[3, 5] = 0.9
    (prompt,) = plugins.load("weak.prompts", "sampled").build()(cam, np.random.default_rng(0))
    np.testing.assert_array_equal(prompt.points_px, np.tile([[5.5, 3.5]], (50, 1)))


@pytest.mark.parametrize("name", ["spread", "boxes"])
def test_one_prompt_for_each_component_largest_first(name):
    first, second = plugins.load("weak.prompts", name).build()(two_discs(), np.random.default_rng(0))
    assert np.linalg.norm(first.points_px[0] - [35, 40]) < 8
    assert np.linalg.norm(second.points_px[0] - [95, 90]) < 8


@pytest.mark.parametrize("name", ["spread", "boxes"])
def test_specks_get_no_prompt(name):
    cam = np.zeros((128, 128), np.float32)
    cam[10:13, 10:13] = 1.0
    assert plugins.load("weak.prompts", name).build()(cam, np.random.default_rng(0)) == []


def test_spread_points_keep_their_distance_and_negatives_stay_near():
    cam = np.zeros((256, 256), np.float32)
    cam[40:110, 30:130] = 0.9
    (prompt,) = plugins.load("weak.prompts", "spread").build()(cam, np.random.default_rng(0))
    for label in (0, 1):
        points = prompt.points_px[prompt.point_labels == label]
        assert len(points) > 3
        apart = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(len(points))
        assert apart.min() >= 0.08 * 256
    x, y = prompt.points_px[prompt.point_labels == 0].T
    beyond = np.hypot(np.maximum(0, np.maximum(30 - x, x - 130)), np.maximum(0, np.maximum(40 - y, y - 110)))
    assert beyond.max() <= 0.25 * 256 + 1
    assert prompt.box_px is None


def test_more_foreground_more_points():
    strategy = plugins.load("weak.prompts", "spread").build()
    counts = []
    for radius in (12, 30, 60):
        (prompt,) = strategy(disc(256, centre=(128, 128), radius=radius), np.random.default_rng(0))
        counts.append(int(prompt.point_labels.sum()))
    assert counts[0] == 1
    assert counts[0] < counts[1] < counts[2] <= 6


def test_box_holds_the_component_with_a_small_margin_inside_the_tile():
    cam = np.zeros((200, 200), np.float32)
    cam[0:50, 60:120] = 0.8
    (prompt,) = plugins.load("weak.prompts", "boxes").build()(cam, np.random.default_rng(0))
    np.testing.assert_allclose(prompt.box_px, [56, 0, 124, 54])
    assert prompt.box_px.dtype == np.float32


def test_negatives_of_a_box_are_in_it():
    cam = np.zeros((200, 200), np.float32)
    cam[20:160, 20:60] = 1.0
    cam[120:160, 20:160] = 1.0
    (prompt,) = plugins.load("weak.prompts", "boxes").build()(cam, np.random.default_rng(0))
    negatives = prompt.points_px[prompt.point_labels == 0]
    left, top, right, bottom = prompt.box_px
    assert len(negatives) == 4
    assert ((negatives >= [left, top]) & (negatives <= [right, bottom])).all()


def test_where_nothing_is_allowed_there_is_no_point():
    points = spread_points(np.zeros((8, 8), bool), np.ones((8, 8)), np.random.default_rng(0), count=3, apart_px=1.0)
    assert points.shape == (0, 2)


def test_prompts_load_no_torch():
    modules = ", ".join(f"wsplf_cli.weak.prompts.{name}" for name in STRATEGIES)
    code = f"import sys, {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("part", [np.s_[5:20, 30:41], np.s_[0:8, 0:64], np.s_[:, 10:20], np.s_[40:41, 63:64]])
def test_distances_are_those_of_the_whole_window(part):
    mask = np.zeros((64, 64), bool)
    mask[part] = True
    assert np.array_equal(distance(mask), distance_transform_edt(mask))
    for reach in (1.0, 7.5, 100.0):
        assert np.array_equal(within(mask, reach), distance_transform_edt(~mask) <= reach)
