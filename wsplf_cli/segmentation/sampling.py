"""What a segmentation model learns from: blocks of the training slides with a target and a weight for each pixel.

A block is a square of several tiles. Random crops are taken from it, so that a tile is never seen twice alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Literal, Protocol

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import rasterise
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import TileGrid

Kind = Literal["tumour", "rejected", "positive", "negative"]

IGNORE = 255
"""Target of pixels that teach nothing."""
FULL = 100
"""Weight of an ordinary pixel: weights are uint8, in percent."""
DECIDED = 200
"""Weight inside polygons that a person drew, accepted, edited or rejected."""
REVIEWED = 150
"""Weight of the background of an image that a person has reviewed as a whole."""
BAND_UM = 4.0
"""Half the width of the strip along a pseudo-label's outline that teaches nothing: it is seldom right to a nucleus."""
KEPT_BYTES = 1 << 30
"""Blocks are kept in memory up to this; what is beyond is read from the slide again each time."""

#: How often a crop of each kind is drawn; kinds that a cohort lacks leave their share to the others.
SHARES: dict[Kind, float] = {"tumour": 0.40, "rejected": 0.10, "positive": 0.20, "negative": 0.30}
LEAST_CHANCE = 0.02
"""Added to the mean probability of a negative block, so that blocks without any error are still drawn."""


class BlockReader(Protocol):
    """Where the blocks' pixels come from."""

    def __call__(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Blocks uint8 [len(indices), S, S, 3], RGB, by their place in the grid."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a slide is for one class: its ``regions``, and whether it is ``positive``.

    Where it is not ``known``, nothing is said but the regions: what lies beside them may be of the class or not.
    """

    positive: bool = True
    regions: ReviewRegions = field(default_factory=ReviewRegions)
    known: bool = True

    @property
    def marked(self) -> bool:
        """Whether there are polygons of the class."""
        return bool(self.regions.positive or self.regions.pending)


@dataclass(frozen=True)
class TrainingSlide:
    """One slide to learn from, with its role for each class.

    Slides of one ``group`` (a patient) never stand on both sides of a split.
    """

    name: str
    group: str
    grid: TileGrid
    read: BlockReader
    roles: tuple[Role, ...] = (Role(),)

    @cached_property
    def kinds(self) -> list[list[frozenset[Kind]]]:
        """For each class what each block is good for, from where its square meets the polygons."""
        corners = self.grid.xy_px0.astype(float)
        squares = shapely.box(*corners.T, *(corners + self.grid.side_px0).T)
        least = (0.02 * self.grid.side_px0) ** 2

        def meets(shapes: Sequence[BaseGeometry]) -> NDArray[np.bool_]:
            found: NDArray[np.bool_] = shapely.area(shapely.intersection(squares, shapely.union_all(shapes))) > least
            return found

        found = []
        for role in self.roles:
            tumour = meets([*role.regions.positive, *(shape for shape, _ in role.regions.pending)])
            flags: list[tuple[Kind, NDArray[np.bool_]]] = [
                ("tumour", tumour),
                ("rejected", meets(role.regions.negative)),
            ]
            anywhere: frozenset[Kind] = frozenset({"positive" if role.positive else "negative"} if role.known else ())
            found.append([anywhere | {kind for kind, flag in flags if flag[index]} for index in range(len(squares))])
        return found


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
    """The blocks of all slides, each read on first use and kept while the memory bound allows."""

    def __init__(self, slides: Sequence[TrainingSlide], *, kept_bytes: int = KEPT_BYTES) -> None:
        self.slides = slides
        self._room = kept_bytes
        self._kept: dict[tuple[int, int], Block] = {}

    def __call__(self, slide: int, index: int) -> Block:
        """Block ``index`` of slide ``slide``."""
        block = self._kept.get((slide, index))
        if block is None:
            source = self.slides[slide]
            rgb = source.read(np.array([index]))[0]
            painted = [paint(role.regions, source.grid, index, known=role.known) for role in source.roles]
            block = Block(rgb, *(np.stack(layers) for layers in zip(*painted, strict=True)))
            size = rgb.nbytes + block.target.nbytes + block.weight.nbytes
            if size <= self._room:
                self._room -= size
                self._kept[slide, index] = block
        return block


def paint(
    regions: ReviewRegions, grid: TileGrid, index: int, *, known: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Target and weight of a block for one class, both uint8 [S, S]; what a person decided overrules pseudo-labels.

    What is not marked is background, or nothing where the slide is not ``known``.
    """
    x_px0, y_px0 = (float(value) for value in grid.xy_px0[index])
    side = grid.tile_px
    square = shapely.box(x_px0, y_px0, x_px0 + grid.side_px0, y_px0 + grid.side_px0)
    target = np.full((side, side), 0 if known else IGNORE, np.uint8)
    weight = np.full((side, side), REVIEWED if regions.complete else FULL, np.uint8)

    def inside(shapes: Sequence[BaseGeometry]) -> NDArray[np.bool_]:
        near = [shape for shape in shapes if shape.intersects(square)]
        return rasterise(near, origin_px0=(x_px0, y_px0), downsample=grid.side_px0 / side, size_px=(side, side))

    for shape, confidence in regions.pending:
        mask = inside([shape])
        target[mask] = 1
        weight[mask] = round(FULL * min(max(confidence, 0.1), 1.0))
    band_px0 = BAND_UM * grid.side_px0 / (side * grid.mpp)
    near_square = square.buffer(band_px0)
    outlines = [shape.boundary for shape, _ in regions.pending if shape.intersects(near_square)]
    target[inside([outline.intersection(near_square).buffer(band_px0) for outline in outlines])] = IGNORE
    for shapes, value in ((regions.negative, 0), (regions.positive, 1)):
        mask = inside(shapes)
        target[mask] = value
        weight[mask] = DECIDED
    target[inside(regions.ignored)] = IGNORE
    return target, weight


@dataclass(frozen=True, slots=True)
class Crop:
    """A random crop: its pixels, and the slide and block that it is from."""

    block: Block
    slide: int
    index: int


class Draw:
    """Random crops, balanced among the classes and the kinds and, within a kind, among the slides.

    Of the negative slides, blocks in which the model last saw tumour come more often (``heed``). Not so elsewhere:
    what looks like tumour on a positive slide may be tumour that the pseudo-labels missed.
    """

    def __init__(self, blocks: Blocks, *, side_px: int, rng: np.random.Generator) -> None:
        self.blocks = blocks
        self.side_px = side_px
        self.rng = rng
        classes = len(blocks.slides[0].roles)
        self._places: dict[tuple[Kind, int], list[tuple[int, NDArray[np.intp]]]] = {}
        for kind, place in product(SHARES, range(classes)):
            found = [
                (number, np.flatnonzero([kind in kinds for kinds in slide.kinds[place]]))
                for number, slide in enumerate(blocks.slides)
            ]
            if any(len(indices) for _, indices in found):
                self._places[kind, place] = [(number, indices) for number, indices in found if len(indices)]
        shares = np.array([SHARES[kind] for kind, _ in self._places])
        self._shares = shares / shares.sum()
        self._seen = [np.ones((classes, len(slide.kinds[0]))) for slide in blocks.slides]

    def __call__(self, count: int) -> list[Crop]:
        """``count`` random crops."""
        names = list(self._places)
        return [self._crop(*names[choice]) for choice in self.rng.choice(len(names), size=count, p=self._shares)]

    def heed(self, crops: Sequence[Crop], probability: NDArray[np.float32]) -> None:
        """Take note of the mean probability [len(crops), C] of each class that the model gave each crop."""
        for crop, values in zip(crops, probability, strict=True):
            seen = self._seen[crop.slide]
            seen[:, crop.index] = np.maximum(values, 0.5 * seen[:, crop.index])

    def _place(self, kind: Kind, of_class: int) -> tuple[int, int]:
        """A slide and one of its blocks."""
        places = self._places[kind, of_class]
        if kind != "negative":
            slide, indices = places[self.rng.integers(len(places))]
            return slide, int(self.rng.choice(indices))
        pairs = [(slide, int(index)) for slide, indices in places for index in indices]
        chance = np.array([LEAST_CHANCE + self._seen[slide][of_class, index] for slide, index in pairs])
        return pairs[self.rng.choice(len(pairs), p=chance / chance.sum())]

    def _crop(self, kind: Kind, of_class: int) -> Crop:
        slide, index = self._place(kind, of_class)
        block = self.blocks(slide, index)
        target, weight = block.target[of_class], block.weight[of_class]
        limit = len(target) - self.side_px
        x_px, y_px = self.rng.integers(limit + 1, size=2).tolist()
        wanted = np.zeros(0, np.intp)
        if kind == "tumour":
            wanted = np.flatnonzero(target == 1)
        elif kind == "rejected":
            wanted = np.flatnonzero((target == 0) & (weight == DECIDED))
        if len(wanted):
            row, column = divmod(int(self.rng.choice(wanted)), len(target))
            offset = self.rng.integers(self.side_px, size=2)
            x_px, y_px = (int(np.clip(place, 0, limit)) for place in (column - offset[0], row - offset[1]))
        return Crop(block.crop(x_px, y_px, self.side_px), slide, index)


def tiles_of(blocks: Blocks, *, side_px: int, most: int, rng: np.random.Generator) -> list[Block]:
    """Up to ``most`` tiles that cover the blocks evenly: each kind of tissue as often as it is there."""
    places = [
        (slide, index, x_px, y_px)
        for slide, source in enumerate(blocks.slides)
        for index in range(len(source.grid.xy_px0))
        for x_px in range(0, source.grid.tile_px - side_px + 1, side_px)
        for y_px in range(0, source.grid.tile_px - side_px + 1, side_px)
    ]
    chosen = np.sort(rng.permutation(len(places))[:most])
    return [blocks(places[n][0], places[n][1]).crop(places[n][2], places[n][3], side_px) for n in chosen]
