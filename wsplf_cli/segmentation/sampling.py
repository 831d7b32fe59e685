"""Training data of a segmentation model: blocks of the training slides with a target and a weight for each pixel.

A block is a square of several tiles. Random crops are taken from it, so that no two tiles are alike.
"""

import copy
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Literal, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsplf_cli.errors import SlideError
from wsplf_cli.geometry import rasterise
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import TileGrid, TissueMask
from wsplf_cli.slides.window import reader_threads

IGNORE = 255
"""Target of the pixels that the loss leaves out."""
FULL_WEIGHT = 100
"""Weight of an ordinary pixel. Weights are uint8, in percent."""
DECIDED_WEIGHT = 200
"""Weight inside polygons that a person drew, accepted, edited or rejected."""
REVIEWED_WEIGHT = 150
"""Weight of the background of an image that a person has reviewed as a whole."""
OUTLINE_UM = 4.0
"""Half the width of the strip along a pseudo-label's outline that is ignored: it is rarely right to a nucleus."""
CACHE_BYTES = 1 << 30
"""Blocks are kept in memory up to this size. The others are read from the slide again each time."""
KEPT_AHEAD = 32
"""Blocks that are kept in any case: those of about three batches, 25 MB of blocks of 384 pixels and one class."""

CropKind = Literal["class", "rejected", "positive", "negative"]
"""What a crop shows: pixels of the class, a polygon that a person rejected, anything of a slide that is positive for
the class, or anything of a slide that is negative for it."""

#: How often a crop of each kind is drawn. The share of a kind that a cohort does not have goes to the others.
CROP_SHARES: dict[CropKind, float] = {"class": 0.40, "rejected": 0.10, "positive": 0.20, "negative": 0.30}
MIN_DIFFICULTY = 0.02
"""Added to the difficulty of a negative block, so that blocks without any error are still drawn."""
DIFFICULTY_DECAY = 0.5
"""The difficulty of a block drops at most to this share of itself with one crop."""


class BlockReader(Protocol):
    """Reads the pixels of blocks."""

    def __call__(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """RGB blocks uint8 [len(indices), S, S, 3], given by their indices in the grid."""


@dataclass(frozen=True, slots=True)
class ClassTargets:
    """What is known of one class on a slide.

    Attributes:
        positive: Whether the slide holds the class.
        regions: The polygons of the class, and those that were reviewed.
        known: Whether pixels outside of the regions are background. If not, they are ignored: the slide's label does
            not say whether they are of the class.
    """

    positive: bool = True
    regions: ReviewRegions = field(default_factory=ReviewRegions)
    known: bool = True

    @property
    def has_polygons(self) -> bool:
        """Whether there are polygons of the class."""
        return bool(self.regions.positive or self.regions.pending)


@dataclass(frozen=True)
class TrainingSlide:
    """One slide to train on, with its targets for each class.

    A network learns from all slides of a ``group`` (a patient), or from none of them.
    """

    name: str
    group: str
    grid: TileGrid
    read: BlockReader
    classes: tuple[ClassTargets, ...] = (ClassTargets(),)

    @cached_property
    def crop_kinds(self) -> list[list[frozenset[CropKind]]]:
        """For each class and each block the kinds of crops that can be taken from the block."""
        corners = self.grid.xy_px0.astype(float)
        squares = shapely.box(*corners.T, *(corners + self.grid.side_px0).T)
        min_area_px0 = (0.02 * self.grid.side_px0) ** 2

        def intersects(shapes: Sequence[BaseGeometry]) -> NDArray[np.bool_]:
            areas_px0 = shapely.area(shapely.intersection(squares, shapely.union_all(shapes)))
            large_enough: NDArray[np.bool_] = areas_px0 > min_area_px0
            return large_enough if large_enough.any() else areas_px0 > 0

        kinds = []
        for targets in self.classes:
            polygons = [*targets.regions.positive, *(shape for shape, _ in targets.regions.pending)]
            of_class, rejected = intersects(polygons), intersects(targets.regions.negative)
            everywhere: set[CropKind] = {"positive" if targets.positive else "negative"} if targets.known else set()
            of_blocks = [set(everywhere) for _ in squares]
            for block_kinds, is_class, is_rejected in zip(of_blocks, of_class, rejected, strict=True):
                if is_class:
                    block_kinds.add("class")
                if is_rejected:
                    block_kinds.add("rejected")
            kinds.append([frozenset(block_kinds) for block_kinds in of_blocks])
        return kinds


@dataclass(frozen=True, slots=True)
class Block:
    """``rgb`` uint8 [S, S, 3], ``target`` uint8 [C, S, S] (0, 1 or IGNORE), ``weight`` uint8 [C, S, S] in percent."""

    rgb: NDArray[np.uint8]
    target: NDArray[np.uint8]
    weight: NDArray[np.uint8]

    def crop(self, x_px: int, y_px: int, side_px: int) -> "Block":
        """The square part of the block with that top-left corner."""
        rows, columns = slice(y_px, y_px + side_px), slice(x_px, x_px + side_px)
        return Block(self.rgb[rows, columns], self.target[:, rows, columns], self.weight[:, rows, columns])


class Blocks:
    """The blocks of all slides. A block is read on first use and kept in memory while there is room for it.

    The last ``KEPT_AHEAD`` blocks are kept in any case, so that what a thread reads ahead is still there when it is
    drawn. Several threads may ask for blocks.
    """

    def __init__(self, slides: Sequence[TrainingSlide], *, cache_bytes: int = CACHE_BYTES) -> None:
        self.slides = slides
        self._free_bytes = cache_bytes
        self._cache: dict[tuple[int, int], Block] = {}
        self._last: OrderedDict[tuple[int, int], Future[Block]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, slide_index: int, block_index: int) -> Block:
        """One block of one slide.

        Raises:
            SlideError: It cannot be read.
        """
        key = slide_index, block_index
        with self._lock:
            if key in self._cache:
                return self._cache[key]
            is_new = key not in self._last
            reading = self._last.setdefault(key, Future())
            while len(self._last) > KEPT_AHEAD:
                self._last.popitem(last=False)
        if is_new:
            try:
                reading.set_result(self._read(slide_index, block_index))
            except BaseException as error:
                with self._lock:
                    self._last.pop(key, None)  # it is tried again the next time
                reading.set_exception(error)
                raise
        return reading.result()

    def _read(self, slide_index: int, block_index: int) -> Block:
        slide = self.slides[slide_index]
        rgb = slide.read(np.array([block_index]))[0]
        layers = [
            rasterise_targets(targets.regions, slide.grid, block_index, known=targets.known)
            for targets in slide.classes
        ]
        block = Block(rgb, *(np.stack(layer) for layer in zip(*layers, strict=True)))
        size = rgb.nbytes + block.target.nbytes + block.weight.nbytes
        with self._lock:
            if size <= self._free_bytes and (slide_index, block_index) not in self._cache:
                self._free_bytes -= size
                self._cache[slide_index, block_index] = block
        return block


def rasterise_targets(
    regions: ReviewRegions, grid: TileGrid, index: int, *, known: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The target and the weight of each pixel of a block for one class, both uint8 [S, S].

    Polygons that a person decided on overrule pseudo-labels.

    Args:
        regions: The polygons of the class on the slide.
        grid: The slide's blocks.
        index: Which block.
        known: Whether pixels outside of the polygons are background; they are ignored otherwise.
    """
    x_px0, y_px0 = (float(coordinate) for coordinate in grid.xy_px0[index])
    side = grid.tile_px
    square = shapely.box(x_px0, y_px0, x_px0 + grid.side_px0, y_px0 + grid.side_px0)
    target = np.full((side, side), 0 if known else IGNORE, np.uint8)
    weight = np.full((side, side), REVIEWED_WEIGHT if regions.complete else FULL_WEIGHT, np.uint8)

    def mask_of(shapes: Sequence[BaseGeometry]) -> NDArray[np.bool_]:
        near = [shape for shape in shapes if shape.intersects(square)]
        return rasterise(near, origin_px0=(x_px0, y_px0), downsample=grid.side_px0 / side, size_px=(side, side))

    for shape, confidence in regions.pending:
        mask = mask_of([shape])
        target[mask] = 1
        weight[mask] = round(FULL_WEIGHT * min(max(confidence, 0.1), 1.0))
    strip_px0 = OUTLINE_UM * grid.side_px0 / (side * grid.mpp)
    near_square = square.buffer(strip_px0)
    outlines = [shape.boundary for shape, _ in regions.pending if shape.intersects(near_square)]
    target[mask_of([outline.intersection(near_square).buffer(strip_px0) for outline in outlines])] = IGNORE
    for shapes, value in ((regions.negative, 0), (regions.positive, 1)):
        mask = mask_of(shapes)
        target[mask] = value
        weight[mask] = DECIDED_WEIGHT
    target[mask_of(regions.ignored)] = IGNORE
    return target, weight


def has_pixels_in_tissue(regions: ReviewRegions, grid: TileGrid, tissue: TissueMask) -> bool:
    """Whether any pixel that training takes for the class, in the blocks of a slide, lies in tissue."""
    shapes = [*regions.positive, *(shape for shape, _ in regions.pending)]
    if not shapes:
        return False
    corners = grid.xy_px0.astype(float)
    squares = shapely.box(*corners.T, *(corners + grid.side_px0).T)
    blocks = np.unique(shapely.STRtree(shapes).query(squares, predicate="intersects")[0])
    centres_px0 = (np.arange(grid.tile_px) + 0.5) * grid.side_px0 / grid.tile_px
    for index in blocks.tolist():
        columns, rows = (
            np.minimum((start + centres_px0) / tissue.downsample, count - 1).astype(np.intp)
            for start, count in zip(corners[index], tissue.mask.shape[::-1], strict=True)
        )
        target, _ = rasterise_targets(regions, grid, index)
        if (tissue.mask[np.ix_(rows, columns)] & (target == 1)).any():
            return True
    return False


@dataclass(frozen=True, slots=True)
class Crop:
    """A random crop: its pixels, and the slide and the block that it was taken from."""

    block: Block
    slide_index: int
    block_index: int


class BalancedCropSampler:
    """Random crops, balanced among the classes and the kinds of crops and, within a kind, among the slides.

    On negative slides, blocks in which the model found the class are drawn more often (``update_difficulty``). Not so
    on positive slides: what looks like the class there may be tissue of the class that the pseudo-labels missed.
    """

    def __init__(self, blocks: Blocks, *, side_px: int, rng: np.random.Generator) -> None:
        self.blocks = blocks
        self.side_px = side_px
        self.rng = rng
        class_count = len(blocks.slides[0].classes)
        #: (kind, class) -> (slide, its blocks for that kind of crop) for each slide that has some.
        self._candidates: dict[tuple[CropKind, int], list[tuple[int, NDArray[np.intp]]]] = {}
        for kind, class_index in product(CROP_SHARES, range(class_count)):
            candidates = [
                (slide_index, np.flatnonzero([kind in kinds for kinds in slide.crop_kinds[class_index]]))
                for slide_index, slide in enumerate(blocks.slides)
            ]
            candidates = [(slide_index, indices) for slide_index, indices in candidates if len(indices)]
            if candidates:
                self._candidates[kind, class_index] = candidates
        shares = np.array([CROP_SHARES[kind] for kind, _ in self._candidates])
        self._shares = shares / shares.sum()
        #: For each slide, float [C, blocks]: about the largest mean probability that recent crops of a block got.
        self._difficulty = [np.ones((class_count, len(slide.crop_kinds[0]))) for slide in blocks.slides]
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="wsplf-read") if reader_threads() > 1 else None
        self._rehearsal: Future[None] | None = None

    def __call__(self, count: int) -> list[Crop]:
        """``count`` random crops.

        While they are learned from, a thread reads the blocks that will be drawn next, if there is a core for it. It
        draws them from a copy of the sampler, so the crops are the same as without it.
        """
        if self._rehearsal is not None:
            self._rehearsal.result()
        keys = list(self._candidates)
        crops = [self._crop(*keys[index]) for index in self.rng.choice(len(keys), size=count, p=self._shares)]
        if self._reader is not None:
            self._rehearsal = self._reader.submit(_rehearse, self._copy(), count)
        return crops

    def _copy(self) -> "BalancedCropSampler":
        """A sampler that draws what this one would draw next, from the same blocks, and reads nothing ahead."""
        sampler = copy.copy(self)
        sampler.rng = copy.deepcopy(self.rng)
        sampler._difficulty = [difficulty.copy() for difficulty in self._difficulty]
        sampler._reader = sampler._rehearsal = None
        return sampler

    def update_difficulty(self, crops: Sequence[Crop], probability: NDArray[np.float32]) -> None:
        """Record the mean probability [len(crops), C] of each class that the model gave to each crop."""
        for crop, of_classes in zip(crops, probability, strict=True):
            difficulty = self._difficulty[crop.slide_index][:, crop.block_index]
            difficulty[:] = np.maximum(of_classes, DIFFICULTY_DECAY * difficulty)

    def _draw_block(self, kind: CropKind, class_index: int) -> tuple[int, int]:
        """Indices of a random slide and of one of its blocks."""
        candidates = self._candidates[kind, class_index]
        if kind != "negative":
            slide_index, block_indices = candidates[self.rng.integers(len(candidates))]
            return slide_index, int(self.rng.choice(block_indices))
        pairs = [(slide_index, int(index)) for slide_index, block_indices in candidates for index in block_indices]
        chance = np.array([MIN_DIFFICULTY + self._difficulty[slide][class_index, block] for slide, block in pairs])
        return pairs[self.rng.choice(len(pairs), p=chance / chance.sum())]

    def _crop(self, kind: CropKind, class_index: int) -> Crop:
        """A random crop of one kind. One of the class or of a rejected polygon holds at least a pixel of it."""
        slide_index, block_index = self._draw_block(kind, class_index)
        block = self.blocks(slide_index, block_index)
        target, weight = block.target[class_index], block.weight[class_index]
        last_start = len(target) - self.side_px
        x_px, y_px = self.rng.integers(last_start + 1, size=2).tolist()
        pixels = np.zeros(0, np.intp)
        if kind == "class":
            pixels = np.flatnonzero(target == 1)
        elif kind == "rejected":
            pixels = np.flatnonzero((target == 0) & (weight == DECIDED_WEIGHT))
        if len(pixels):
            row, column = divmod(int(self.rng.choice(pixels)), len(target))
            offset = self.rng.integers(self.side_px, size=2)
            x_px, y_px = (int(np.clip(start, 0, last_start)) for start in (column - offset[0], row - offset[1]))
        return Crop(block.crop(x_px, y_px, self.side_px), slide_index, block_index)


def _rehearse(sampler: BalancedCropSampler, count: int) -> None:
    """Draw crops, for the blocks that this reads. What cannot be read is said when it is drawn in earnest."""
    with suppress(SlideError):
        sampler(count)
