"""What there is to do on each slide: its tissue, its tiles, and the units of work of each step.

The units of a step are what its time is in proportion to: windows of a network, megapixels, instances.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.cohort.slide import CohortSlide, PrepareSlide
from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import DenseBackbone
from wsplf_cli.options import PseudolabelOptions, SegmentOptions, TrainOptions
from wsplf_cli.review.memory import Review
from wsplf_cli.schema import Entry, TissueMask, Tracker
from wsplf_cli.segmentation.annotate import is_ruled_out
from wsplf_cli.segmentation.appearance import described_tiles
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.predict import CELL_PX, model_canvas
from wsplf_cli.segmentation.prepare import BLOCK_TILES, BLOCK_TISSUE
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.grid import make_grid
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.tissue import INK_LONGER_SIDE_PX, INK_MPP, tissue_mask, tissue_um2
from wsplf_cli.slides.window import MapRegion, tissue_blocks, tissue_cells, windows_with_tissue
from wsplf_cli.weak.cam import dense_inference
from wsplf_cli.weak.features import INSTANCES_PER_SLIDE, feature_bytes, region_side, sampled_regions
from wsplf_cli.weak.pooling import CONTEXT_SIGMAS_PX
from wsplf_cli.weak.sam.refine import foreground_windows

#: The share of the tissue of a positive slide that is taken to be tumour: nobody knows it before the work.
FOREGROUND_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class SlideSize:
    """What there is to do on one slide.

    Attributes:
        name: Name of the entry.
        tissue_mm2: Area of its tissue.
        tiles: Tiles, windows or blocks over its tissue.
        work: Units of work by step.
        kept_bytes: What stays in memory of the slide until the command ends.
        waiting_bytes: Features that stay in memory from one step to another, where there is room.
        working_bytes: What is in memory only while the slide is worked on.
        most_prompted: Windows in which SAM is prompted, were all its tissue tumour.
    """

    name: str
    tissue_mm2: float
    tiles: int
    work: Mapping[str, float] = field(default_factory=dict)
    kept_bytes: float = 0.0
    waiting_bytes: float = 0.0
    working_bytes: float = 0.0
    most_prompted: int = 0


@dataclass(frozen=True, slots=True)
class PseudolabelSize:
    """Measures a slide for ``wsplf pseudolabel``."""

    options: PseudolabelOptions
    backbone: DenseBackbone
    sam_side_px: int

    def __call__(self, entry: Entry, tracker: Tracker) -> SlideSize:
        """The size of a slide.

        Raises:
            SlideError: It cannot be read, or holds no tissue.
        """
        slide = PrepareSlide(self.options)((entry, Review(entry.id)), tracker)
        opened = slide.open()
        inference = dense_inference(slide, self.backbone, self.options)
        inside = tissue_cells(slide.tissue, shape=inference.shape(opened), downsample=inference.downsample)
        side, channels = inference.cells - 2 * inference.margin, self.backbone.channels
        regions = sampled_regions(inside, region_side(channels), np.random.default_rng(0))
        sampled = sum(len(list(tissue_blocks(inside, side, region))) for region in regions)
        windows = len(list(tissue_blocks(inside, side, MapRegion(0, inside.shape[0], 0, inside.shape[1]))))
        waiting = feature_bytes(inside, channels)
        instances = min(INSTANCES_PER_SLIDE, int(inside.sum()))
        classes = 0 if entry.label is None else len(entry.label.classes)
        features = len(CONTEXT_SIGMAS_PX) * channels
        largest = max(((region.bottom - region.top) * (region.right - region.left) for region in regions), default=0)
        return SlideSize(
            entry.name,
            tissue_um2(slide.tissue, mpp_slide=slide.mpp) / 1e6,
            windows,
            {
                "tissue": overview_mpx(opened, slide.mpp),
                "features": windows if waiting else sampled,
                "linear probes": instances,
                "CAM": 0 if waiting else windows,
                "polygons": classes * self.prompted_windows(slide, inside, inference.downsample),
            },
            # features in half precision and, reduced, in single precision; three maps of logits
            kept_bytes=6 * instances * features + 12 * inside.size,
            waiting_bytes=waiting,
            working_bytes=4 * max(2 * largest * channels, 4 * len(CONTEXT_SIGMAS_PX) * inside.size),
            most_prompted=classes * self.prompted_windows(slide, inside, inference.downsample, tumour_share=1.0),
        )

    def prompted_windows(
        self,
        slide: CohortSlide,
        inside: NDArray[np.bool_],
        downsample: float,
        *,
        tumour_share: float = FOREGROUND_SHARE,
    ) -> int:
        """Windows in which SAM is prompted for a class, were that share of the tissue tumour."""
        cam = SlideMap(foreground(inside, tumour_share), downsample)
        return count_windows(
            slide.open(), cam, side_px=self.sam_side_px, window_downsample=self.options.mpp / slide.mpp
        )


@dataclass(frozen=True, slots=True)
class SegmentSize:
    """Measures a slide for ``wsplf segment``; ``sam_side_px`` is 0 where SAM does not outline polygons."""

    options: SegmentOptions
    checkpoint: Checkpoint
    sam_side_px: int = 0

    def __call__(self, entry: Entry, tracker: Tracker) -> SlideSize:
        """The size of a slide.

        Raises:
            SlideError: It cannot be read.
        """
        slide, mpp, tissue = read_tissue(entry, self.options.project.mpp_override)
        canvas = model_canvas(slide, mpp=self.checkpoint.mpp, window_px=self.checkpoint.predicted_px, mpp_slide=mpp)
        windows = sum(map(len, windows_with_tissue(tissue, canvas).values()))
        classes = len(self.checkpoint.classes)
        drawn = sum(not is_ruled_out(entry, name) for name in self.checkpoint.classes)
        return SlideSize(
            entry.name,
            tissue_um2(tissue, mpp_slide=mpp) / 1e6,
            windows,
            {
                "canvas": canvas.width_px * canvas.height_px / 1e6,
                "windows": windows,
                "appearance": described_tiles(entry, tissue, mpp=self.checkpoint.mpp, mpp_slide=mpp),
                "outlines": drawn * self.prompted_windows(slide, tissue, mpp_slide=mpp) if drawn else 0,
            },
            working_bytes=4 * (2 * classes + 1) * canvas.window_px * canvas.width_px
            + 12 * overview_mpx(slide, mpp) * 1e6,
        )

    def prompted_windows(self, slide: Slide, tissue: TissueMask, *, mpp_slide: float) -> int:
        """Windows in which SAM is prompted for a class, were ``FOREGROUND_SHARE`` of the tissue of it."""
        if not self.sam_side_px:
            return 0
        downsample = self.checkpoint.mpp / mpp_slide
        cam = foreground_map(slide, tissue, downsample=CELL_PX * downsample)
        return count_windows(slide, cam, side_px=self.sam_side_px, window_downsample=downsample)


@dataclass(frozen=True, slots=True)
class TrainSize:
    """Measures a slide for ``wsplf train``."""

    options: TrainOptions

    def __call__(self, entry: Entry, tracker: Tracker) -> SlideSize:
        """The size of a slide.

        Raises:
            SlideError: It cannot be read, or holds no tissue.
        """
        slide, mpp, tissue = read_tissue(entry, self.options.project.mpp_override)
        side_px = BLOCK_TILES * self.options.tiles.tile_px
        grid = make_grid(
            entry.id,
            tissue,
            tile_px=side_px,
            mpp=self.options.tiles.mpp,
            mpp_slide=mpp,
            min_tissue=BLOCK_TISSUE,
        )
        blocks = len(grid.xy_px0)
        return SlideSize(
            entry.name,
            tissue_um2(tissue, mpp_slide=mpp) / 1e6,
            blocks,
            {"read annotations": overview_mpx(slide, mpp), "appearance of the slides": 1.0},
            kept_bytes=blocks * 5 * side_px**2,
        )


def require_planned(options: PseudolabelOptions) -> None:
    """Refuse a recipe that trains networks: their time is not in proportion to anything that is counted here.

    Raises:
        ConfigError: It does.
    """
    recipe = options.recipe
    if recipe.backbone_mode != "frozen" or recipe.rounds:
        raise ConfigError(
            f"wsplf plan cannot tell how long the recipe {recipe.name} takes: it trains networks",
            hint="plan a recipe with a frozen backbone and without rounds, such as default",
        )


def foreground(inside: NDArray[np.bool_], share: float = FOREGROUND_SHARE) -> NDArray[np.float32]:
    """A CAM of which that share of the tissue is foreground, in one piece, float32 [rows, columns]."""
    cam = np.zeros(inside.shape, np.float32)
    cells = np.flatnonzero(inside)
    cam.ravel()[cells[: int(share * len(cells))]] = 1.0
    return cam


def count_windows(slide: Slide, cam: SlideMap, *, side_px: int, window_downsample: float) -> int:
    """How many windows cover the foreground of a CAM."""
    return sum(map(len, foreground_windows(slide, cam, side_px=side_px, window_downsample=window_downsample)))


def foreground_map(slide: Slide, tissue: TissueMask, *, downsample: float) -> SlideMap:
    """``foreground`` of a slide, in cells of so many level-0 pixels."""
    shape = (math.ceil(slide.height_px0 / downsample), math.ceil(slide.width_px0 / downsample))
    return SlideMap(foreground(tissue_cells(tissue, shape=shape, downsample=downsample)), downsample)


def read_tissue(entry: Entry, mpp_override: float | None) -> tuple[Slide, float, TissueMask]:
    """The open slide of an entry, its micrometres per pixel and its tissue."""
    slide, pixel_size = entry_slide(entry, mpp_override=mpp_override)
    return slide, pixel_size.mpp, tissue_mask(slide, mpp_slide=pixel_size.mpp)


def overview_mpx(slide: Slide, mpp: float) -> float:
    """Megapixels that are read to find tissue and ink."""
    downsample = max(1.0, INK_MPP / mpp, max(slide.width_px0, slide.height_px0) / INK_LONGER_SIDE_PX)
    return slide.width_px0 * slide.height_px0 / downsample**2 / 1e6


Sizer = PseudolabelSize | SegmentSize | TrainSize
"""Measures the slides of a command."""
