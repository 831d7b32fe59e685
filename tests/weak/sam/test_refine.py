from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from wsplf_cli.schema import Prompt, TileMask
from wsplf_cli.weak.prompts import spread
from wsplf_cli.weak.sam.refine import RefinedWindow, Window, best_mask, crop, fuse_cam_and_sam, refine


@dataclass
class FakeSlide:
    """A slide that knows where it is read: red = column / 4, green = row / 4, at level 0."""

    width_px0: int = 800
    height_px0: int = 600
    reads: list[tuple[float, float]] = field(default_factory=list)

    def read(self, x_px0: float, y_px0: float, *, size_px: tuple[int, int], downsample: float) -> NDArray[np.uint8]:
        self.reads.append((x_px0, y_px0))
        columns = np.clip((x_px0 + (np.arange(size_px[0]) + 0.5) * downsample) / 4, 0, 255)
        rows = np.clip((y_px0 + (np.arange(size_px[1]) + 0.5) * downsample) / 4, 0, 255)
        red, green = np.meshgrid(columns, rows)
        return np.stack([red, green, np.zeros_like(red)], axis=2).astype(np.uint8)


class DiscSam:
    """Answers every prompt with the disc of radius 60 um around (300, 200), which it sees in the colours."""

    side_px = 128

    def embed(self, rgb: NDArray[np.uint8]) -> Any:
        return torch.from_numpy(rgb.astype(np.float32))

    def prompt(self, embedding: Any, prompts: list[Prompt]) -> list[list[TileMask]]:
        x, y = embedding[..., 0].numpy() * 4 + 2, embedding[..., 1].numpy() * 4 + 2
        disc = (x - 300) ** 2 + (y - 200) ** 2 < 60**2
        return [[TileMask(~disc, 0.99), TileMask(disc, 0.9)] for _ in prompts]


class Prompted:
    """The SAM, prompted as SamWithCam does, without a cache."""

    side_px = 128

    def __init__(self, sam: DiscSam) -> None:
        self.sam = sam

    def __call__(self, window: Window, cam: NDArray[np.float32], rng: np.random.Generator) -> RefinedWindow:
        prompts = spread.build()(cam, rng)
        return fuse_cam_and_sam(cam, prompts, self.sam.prompt(self.sam.embed(window.read()), prompts))


def square_cam() -> NDArray[np.float32]:
    """The disc's bounding square, in cells of 8 pixels."""
    cam = np.zeros((75, 100), np.float32)
    cam[18:33, 30:45] = 0.9
    return cam


def run(cam: NDArray[np.float32], *, sam: Any = None) -> list[Any]:
    return list(
        refine(
            FakeSlide(),  # type: ignore[arg-type]
            cam,
            Prompted(sam or DiscSam()),
            cell_px0=8.0,
            mpp=1.0,
            mpp_slide=1.0,
            rng=np.random.default_rng(0),
        )
    )


def overlap_with_the_disc(cam: NDArray[np.float32]) -> float:
    """IoU of what is voted for with the disc that SAM sees."""
    (part,) = run(cam)
    rows, columns = np.nonzero(part.vote >= 0.5)
    x = part.origin_px0[0] + (columns + 0.5) * part.downsample
    y = part.origin_px0[1] + (rows + 0.5) * part.downsample
    inside = (x - 300) ** 2 + (y - 200) ** 2 < 60**2
    area = np.pi * 60**2 / part.downsample**2
    return float(inside.sum() / (len(x) + area - inside.sum()))


def test_masks_of_sam_give_an_unsure_cam_its_outline_in_the_right_place() -> None:
    assert overlap_with_the_disc(square_cam() * np.float32(0.55 / 0.9)) > 0.9


def test_where_the_cam_is_sure_it_is_kept() -> None:
    assert overlap_with_the_disc(square_cam()) == pytest.approx(np.pi / 4, abs=0.05)


def test_nothing_in_the_cam_gives_nothing() -> None:
    assert run(np.full((75, 100), 0.4, np.float32)) == []


def test_far_pieces_are_refined_apart() -> None:
    cam = np.zeros((75, 100), np.float32)
    cam[5:12, 5:12] = cam[62:70, 85:95] = 0.9
    assert len(run(cam)) == 2


def test_mask_that_disagrees_with_the_cam_is_refused() -> None:
    class Wrong(DiscSam):
        def prompt(self, embedding: Any, prompts: list[Prompt]) -> list[list[TileMask]]:
            return [[TileMask(np.zeros((128, 128), bool), 0.99)] for _ in prompts]

    cam = square_cam()
    (part,) = run(cam, sam=Wrong())
    area = (part.vote >= 0.5).sum() * (part.downsample / 8) ** 2
    assert area == pytest.approx((cam >= 0.5).sum(), rel=0.1)
    assert part.sam.max() == 0


def test_best_mask_is_the_one_that_neither_misses_nor_adds() -> None:
    cam = np.zeros((40, 40), np.float32)
    cam[10:30, 10:30] = 1.0
    small, right, large = (np.zeros((40, 40), bool) for _ in range(3))
    small[15:20, 15:20] = right[11:30, 10:29] = large[2:38, 2:38] = True
    chosen, agreement = best_mask([TileMask(small, 0.9), TileMask(right, 0.9), TileMask(large, 0.9)], cam)
    assert chosen.mask is right
    assert agreement > 0.9


def test_crop_is_in_the_place_that_was_asked_for() -> None:
    cam = np.zeros((20, 30), np.float32)
    cam[7, 12] = 1.0
    cut = crop(cam, x=10, y=5, side=8, size=64)
    row, column = np.unravel_index(cut.argmax(), cut.shape)
    assert abs((row + 0.5) / 8 - 2.5) <= 0.1
    assert abs((column + 0.5) / 8 - 2.5) <= 0.1
    assert crop(cam, x=-8, y=-8, side=8, size=16).max() == 0
