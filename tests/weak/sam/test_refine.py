"""A CAM refined in windows: where masks help, where they are discarded, and that regions lie where they should."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from shapely import Point, union_all

from wsplf_cli.schema import Prompt, TileMask
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.window import Window
from wsplf_cli.weak.prompts import spread
from wsplf_cli.weak.sam.refine import (
    RefinedRegion,
    RefinedWindow,
    best_mask,
    crop,
    foreground_windows,
    fuse_cam_and_sam,
    prompted_cams,
    refine,
    soft_dice,
)


class PositionSlide:
    """A slide whose colours say where it is read: red = column / 4, green = row / 4, at level 0."""

    width_px0, height_px0 = 800, 600

    def read(self, x_px0: float, y_px0: float, *, size_px: tuple[int, int], downsample: float) -> NDArray[np.uint8]:
        columns = np.clip((x_px0 + (np.arange(size_px[0]) + 0.5) * downsample) / 4, 0, 255)
        rows = np.clip((y_px0 + (np.arange(size_px[1]) + 0.5) * downsample) / 4, 0, 255)
        red, green = np.meshgrid(columns, rows)
        return np.stack([red, green, np.zeros_like(red)], axis=2).astype(np.uint8)


class DiscSam:
    """Answers every prompt with the disc of radius 60 um around (300, 200), by the colours of the window."""

    side_px = 128

    def embed(self, rgb: NDArray[np.uint8]) -> Any:
        return torch.from_numpy(rgb.astype(np.float32))

    def prompt(self, embedding: Any, prompts: list[Prompt]) -> list[list[TileMask]]:
        x, y = embedding[..., 0].numpy() * 4 + 2, embedding[..., 1].numpy() * 4 + 2
        disc = (x - 300) ** 2 + (y - 200) ** 2 < 60**2
        return [[TileMask(~disc, 0.99), TileMask(disc, 0.9)] for _ in prompts]


class EmptySam(DiscSam):
    """Answers every prompt with an empty mask of high estimated IoU."""

    def prompt(self, embedding: Any, prompts: list[Prompt]) -> list[list[TileMask]]:
        return [[TileMask(np.zeros((128, 128), bool), 0.99)] for _ in prompts]


class Prompted:
    """The SAM, prompted as SamWithCam does, without a cache."""

    side_px = 128

    def __init__(self, sam: DiscSam) -> None:
        self.sam = sam

    def prompts(self, cam: NDArray[np.float32], rng: np.random.Generator) -> list[Prompt]:
        return spread.build()(cam, rng)

    def __call__(self, window: Window, cam: NDArray[np.float32], prompts: Sequence[Prompt]) -> RefinedWindow:
        answers = self.sam.prompt(self.sam.embed(window.read()), prompts)
        return fuse_cam_and_sam(cam, prompts, prompted_cams(cam, prompts), answers)


def square_cam() -> NDArray[np.float32]:
    """The disc's bounding square, in cells of 8 pixels."""
    cam = np.zeros((75, 100), np.float32)
    cam[18:33, 30:45] = 0.9
    return cam


def regions_of(cam: NDArray[np.float32], *, sam: DiscSam | None = None) -> list[RefinedRegion]:
    slide_map, refiner = SlideMap(cam, 8.0), Prompted(sam or DiscSam())
    rng = np.random.default_rng(0)
    return list(refine(PositionSlide(), slide_map, refiner, window_downsample=1.0, rng=rng))  # type: ignore[arg-type]


def overlap_with_the_disc(cam: NDArray[np.float32]) -> float:
    """IoU of the refined foreground with the disc that SAM answers."""
    (region,) = regions_of(cam)
    rows, columns = np.nonzero(region.probability >= 0.5)
    x = region.origin_px0[0] + (columns + 0.5) * region.downsample
    y = region.origin_px0[1] + (rows + 0.5) * region.downsample
    inside = (x - 300) ** 2 + (y - 200) ** 2 < 60**2
    area = np.pi * 60**2 / region.downsample**2
    return float(inside.sum() / (len(x) + area - inside.sum()))


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_a_sure_mask_of_sam_gives_the_cam_its_outline_at_the_right_position(strength: float) -> None:
    assert overlap_with_the_disc(square_cam() * np.float32(strength)) > 0.9


def test_regions_are_the_same_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    cam = square_cam() * np.float32(0.55 / 0.9)
    regions = []
    for threads in (1, 4):
        monkeypatch.setattr("wsplf_cli.weak.sam.refine.reader_threads", lambda threads=threads: threads)
        regions.append(regions_of(cam)[0])
    assert np.array_equal(regions[0].probability, regions[1].probability)
    assert np.array_equal(regions[0].sam, regions[1].sam)
    prompted = [[mask.points_px0.tolist() for mask in region.prompted] for region in regions]
    assert prompted[0] == prompted[1]
    assert len(prompted[0]) > 1


def test_an_unsure_mask_changes_only_where_the_cam_is_unsure() -> None:
    cam = np.full((32, 32), 0.1, np.float32)
    cam[8:24, 8:16], cam[8:24, 16:24] = 0.9, 0.55
    mask = np.zeros((32, 32), bool)
    mask[8:24, 4:16] = True
    prompt = Prompt(np.array([[10.0, 16.0]], np.float32), np.ones(1, np.int8))
    cams = prompted_cams(cam, [prompt])
    unsure = fuse_cam_and_sam(cam, [prompt], cams, [[TileMask(mask, 0.3)]]).probability >= 0.5
    assert unsure[8:24, 8:16].all()
    assert not unsure[8:24, 16:24].any()
    assert not unsure[8:24, 4:8].any()


def test_each_prompt_has_its_own_component_and_what_none_asks_for_stays() -> None:
    cam = np.zeros((40, 40), np.float32)
    cam[5:15, 5:15] = cam[5:15, 25:35] = cam[25:35, 5:15] = 0.8
    prompts = [Prompt(np.array([[x, 10.0]], np.float32), np.ones(1, np.int8)) for x in (10.0, 30.0)]
    cams = prompted_cams(cam, prompts)
    assert [np.nonzero(prompted.any(axis=0))[0].tolist() for prompted in cams] == [[*range(5, 15)], [*range(25, 35)]]
    masks = [[TileMask(prompted > 0, 1.0)] for prompted in cams]
    joined = fuse_cam_and_sam(cam, prompts, cams, masks).probability
    np.testing.assert_array_equal(joined >= 0.5, cam >= 0.5)
    np.testing.assert_array_equal(joined[25:35, 5:15], cam[25:35, 5:15])


def test_a_cam_without_foreground_gives_no_region() -> None:
    assert regions_of(np.full((75, 100), 0.4, np.float32)) == []


def test_components_far_apart_are_refined_separately() -> None:
    cam = np.zeros((75, 100), np.float32)
    cam[5:12, 5:12] = cam[62:70, 85:95] = 0.9
    assert len(regions_of(cam)) == 2


def test_a_mask_that_contradicts_the_cam_is_discarded() -> None:
    cam = square_cam()
    (region,) = regions_of(cam, sam=EmptySam())
    area = (region.probability >= 0.5).sum() * (region.downsample / 8) ** 2
    assert area == pytest.approx((cam >= 0.5).sum(), rel=0.1)
    assert region.sam.max() == 0


def test_the_region_says_which_pixels_sam_covers_and_how_sure_it_is() -> None:
    (region,) = regions_of(square_cam())
    covered = region.sam > 0
    assert region.sam[covered] == pytest.approx(0.9, abs=1e-5)
    assert covered.sum() * region.downsample**2 == pytest.approx(np.pi * 60**2, rel=0.1)
    inside = region.cam >= 0.5
    assert inside.sum() * region.downsample**2 == pytest.approx(120**2, rel=0.1)


@pytest.mark.parametrize("seed", range(4))
def test_windows_cover_all_foreground(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cam = (rng.random((75, 100)) < 0.02).astype(np.float32)
    groups = foreground_windows(PositionSlide(), SlideMap(cam, 8.0), side_px=128, window_downsample=1.0)  # type: ignore[arg-type]
    covered = np.zeros((75, 100), bool)
    for window in (window for group in groups for window in group):
        left, top = window.x_px0 / 8, window.y_px0 / 8
        covered[max(0, int(np.ceil(top))) : int(top + 16), max(0, int(np.ceil(left))) : int(left + 16)] = True
    assert covered[cam > 0].all()


def test_the_best_mask_neither_misses_nor_adds() -> None:
    cam = np.zeros((40, 40), np.float32)
    cam[10:30, 10:30] = 1.0
    small, right, large = (np.zeros((40, 40), bool) for _ in range(3))
    small[15:20, 15:20] = right[11:30, 10:29] = large[2:38, 2:38] = True
    mask, agreement = best_mask([TileMask(small, 0.9), TileMask(right, 0.9), TileMask(large, 0.9)], cam)
    assert mask.mask is right
    assert agreement > 0.9


def test_soft_dice_is_one_for_the_same_and_zero_for_disjoint_areas() -> None:
    cam = np.zeros((40, 40), np.float32)
    cam[10:30, 10:30] = 1.0
    assert soft_dice(cam > 0, cam) == pytest.approx(1)
    assert soft_dice(cam == 0, cam) == 0
    assert soft_dice(np.zeros((40, 40), bool), np.zeros((40, 40), np.float32)) == 0


def test_a_crop_lies_where_it_was_asked_for_and_is_zero_outside() -> None:
    cam = np.zeros((20, 30), np.float32)
    cam[7, 12] = 1.0
    cut = crop(cam, x=10, y=5, side=8, size=64)
    row, column = np.unravel_index(cut.argmax(), cut.shape)
    assert abs((row + 0.5) / 8 - 2.5) <= 0.1
    assert abs((column + 0.5) / 8 - 2.5) <= 0.1
    assert crop(cam, x=-8, y=-8, side=8, size=16).max() == 0


def test_masks_are_kept_where_they_lie_on_the_slide() -> None:
    (region,) = regions_of(square_cam())
    used = [mask for mask in region.prompted if mask.used]
    assert used
    joined = union_all([mask.shape for mask in used])
    assert joined.symmetric_difference(Point(300, 200).buffer(60)).area < 0.1 * np.pi * 60**2
    points = np.concatenate([mask.points_px0[mask.point_labels == 1] for mask in used])
    assert (points >= (240, 144)).all()
    assert (points <= (360, 264)).all()
    assert all(mask.score == 0.9 for mask in used)


def test_a_discarded_mask_is_kept_as_such() -> None:
    (region,) = regions_of(square_cam(), sam=EmptySam())
    assert region.prompted
    assert not any(mask.used for mask in region.prompted)
    assert all(mask.shape.is_empty for mask in region.prompted)
