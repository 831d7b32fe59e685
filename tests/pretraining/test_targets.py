"""Training data of the tiny SAM: targets are of one sort, and prompts fit their masks."""

import numpy as np
import pytest

from wsplf_cli.pretraining.targets import (
    AREA_LIMITS,
    MAP_PX,
    Target,
    bad_cam,
    box,
    choose_target,
    correct,
    generate_windows,
    make_prompts,
    points,
    points_on_parts,
    strategies,
)
from wsplf_cli.schema import Prompt
from wsplf_cli.weak.prompts import FOREGROUND


@pytest.fixture(scope="module")
def windows():
    return generate_windows(6, seed=(3,))


def square(first, last):
    mask = np.zeros((MAP_PX, MAP_PX), bool)
    mask[first:last, first:last] = True
    return mask


def test_windows_are_the_same_for_the_same_seed(windows):
    again = generate_windows(2, seed=(3,))
    for one, other in zip(windows, again, strict=False):
        np.testing.assert_array_equal(one.rgb, other.rgb)
        np.testing.assert_array_equal(one.tissue, other.tissue)
    assert windows[0].rgb.shape == (256, 256, 3)
    assert windows[0].instance.shape == (MAP_PX, MAP_PX)


def test_a_gland_is_of_one_sort_with_its_lumen(windows):
    for window in windows:
        for instance in np.unique(window.instance[window.instance > 0]):
            assert len(np.unique(window.tissue[window.instance == instance])) == 1


def test_targets_are_of_one_sort_and_of_a_size_that_can_be_meant(windows):
    rng = np.random.default_rng(0)
    for window in windows:
        for _ in range(10):
            target = choose_target(rng, window.tissue, window.instance)
            if target is not None:
                assert AREA_LIMITS[0] <= target.mask.mean() <= AREA_LIMITS[1]
                assert len(np.unique(window.tissue[target.mask])) == 1
                np.testing.assert_array_equal(target.mask, target.parts > 0)


def test_window_of_one_tissue_has_no_target():
    flat = np.zeros((MAP_PX, MAP_PX), np.int16)
    assert choose_target(np.random.default_rng(0), flat, flat) is None


def test_prompts_on_one_window_are_one_batch_and_ask_for_what_they_point_at(windows):
    rng = np.random.default_rng(1)
    strategy_of = strategies()
    right = total = 0
    for window in windows:
        for _ in range(8):
            drawn = [choose_target(rng, window.tissue, window.instance) for _ in range(3)]
            targets = [target for target in drawn if target is not None]
            tasks = make_prompts(rng, targets, strategy_of)
            assert len({(len(task.prompt.points_px), task.prompt.box_px is None) for task in tasks}) == 1
            assert len({task.cam is None for task in tasks}) == 1
            for task, target in zip(tasks, targets, strict=True):
                assert task.mask.any()
                assert not (task.mask & ~target.mask).any()
                columns, rows = np.floor(task.prompt.points_px[task.prompt.point_labels == 1]).astype(int).T
                right += int(task.mask[rows, columns].sum())
                total += len(rows)
    assert right > 0.8 * total


def test_bad_cam_is_a_cam_of_its_mask():
    rng = np.random.default_rng(0)
    mask = square(16, 40)
    cams = [bad_cam(rng, mask) for _ in range(20)]
    for cam in cams:
        assert cam.dtype == np.float32
        assert cam.min() >= 0
        assert cam.max() <= 1
        assert cam[mask].mean() > 3 * cam[~mask].mean()
    assert np.mean([((cam >= 0.5) == mask).all() for cam in cams]) < 0.5


def test_points_are_on_their_sides():
    mask = square(10, 50)
    prompt = points(np.random.default_rng(0), mask, inside=4, outside=5)
    columns, rows = np.floor(prompt.points_px).astype(int).T
    np.testing.assert_array_equal(mask[rows, columns], prompt.point_labels == 1)
    assert prompt.point_labels.tolist() == [1] * 4 + [0] * 5


def test_box_is_about_the_mask_and_inside_the_map():
    mask = square(0, 20)
    boxes = np.stack([box(np.random.default_rng(seed), mask, pointed=True).box_px for seed in range(20)])
    assert boxes.min() == 0
    assert np.abs(boxes - [0, 0, 20, 20]).max() < 6
    assert len(box(np.random.default_rng(0), mask, pointed=False).points_px) == 0


def test_correction_points_at_the_error():
    prompt = Prompt(np.array([[20.0, 20.0]], np.float32), np.ones(1, np.int8))
    truth, predicted = square(10, 40), square(10, 30)
    column, row = np.floor(correct(np.random.default_rng(0), prompt, predicted=predicted, truth=truth).points_px[-1])
    assert truth[int(row), int(column)]
    assert not predicted[int(row), int(column)]
    assert correct(np.random.default_rng(0), prompt, predicted=truth, truth=truth) is prompt


def test_cam_of_a_prompt_shows_what_is_prompted_and_nothing_else(windows):
    rng = np.random.default_rng(2)
    strategy_of = {"spread": strategies()["spread"]}
    with_cam = 0
    for window in windows:
        for _ in range(8):
            targets = [target for target in [choose_target(rng, window.tissue, window.instance)] if target is not None]
            for task in make_prompts(rng, targets, strategy_of) if targets else ():
                if task.cam is not None:
                    with_cam += 1
                    columns, rows = np.floor(task.prompt.points_px[task.prompt.point_labels == 1]).astype(int).T
                    assert (task.cam[rows, columns] >= FOREGROUND).all()
    assert with_cam > 5


def test_points_in_one_part_ask_for_it_and_points_in_two_for_all():
    parts = np.zeros((MAP_PX, MAP_PX), int)
    parts[5:25, 5:25], parts[40:60, 30:60] = 1, 2
    target = Target(mask=parts > 0, parts=parts)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        prompt, mask = points_on_parts(rng, target, inside=1, outside=2)
        column, row = np.floor(prompt.points_px[0]).astype(int)
        np.testing.assert_array_equal(mask, parts == parts[row, column])
        prompt, mask = points_on_parts(rng, target, inside=3, outside=2)
        columns, rows = np.floor(prompt.points_px[prompt.point_labels == 1]).astype(int).T
        assert set(parts[rows, columns]) == {1, 2}
        np.testing.assert_array_equal(mask, target.mask)
