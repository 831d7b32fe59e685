"""Make pyramidal slides of any size: ``python tests/benchmarks/large_slide.py a.tif --side-px 65536 --tissue-mm2 19``.

One image of synthetic glands is compressed once, and its JPEG tiles are repeated until the slide holds as much tissue
as asked for; the rest is glass. The images are spread evenly over the slide. ``--normal`` makes a slide without tumour.
"""

import argparse
import io
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsplf_cli.synthetic.pyramid import LEVEL_DOWNSAMPLE, PyramidLevel, jpeg_tiles, write_levels
from wsplf_cli.synthetic.slide import generate_slide

#: Micrometres per pixel of the slides.
MPP = 0.25
#: Large tiles, because the smallest JPEG file has 600 bytes.
TILE_PX = 512
#: Side of the synthetic image, at 1 um per pixel, and how much it is enlarged.
IMAGE_PX, ENLARGED = 2048, 4
#: Synthetic tissue has more colour than this; glass has less.
COLOURED = 24
QUALITY = 80


@dataclass(frozen=True, slots=True)
class GlandImage:
    """The repeated image: ``rgb`` uint8 [S, S, 3], its tissue bool [S, S] before it is enlarged, and its glass."""

    rgb: NDArray[np.uint8]
    tissue: NDArray[np.bool_]
    glass: tuple[int, int, int]

    @property
    def side_px(self) -> int:
        """Pixels on a side."""
        return len(self.rgb)

    @property
    def tissue_mm2(self) -> float:
        """The area of its tissue."""
        return float(self.tissue.mean()) * (self.side_px * MPP / 1e3) ** 2

    def part(self, tissue_mm2: float) -> "GlandImage":
        """The left part of the image with that much tissue, glass beside it."""
        share = np.cumsum(self.tissue.mean(axis=0)) / self.tissue.mean() / self.tissue.shape[1]
        columns = int(np.searchsorted(share, tissue_mm2 / self.tissue_mm2))
        rgb, tissue = self.rgb.copy(), self.tissue.copy()
        rgb[:, columns * self.side_px // len(tissue) :] = self.glass
        tissue[:, columns:] = False
        return GlandImage(rgb, tissue, self.glass)


def gland_image(*, seed: int = 10, tumour_share: float = 0.3, image_px: int = IMAGE_PX) -> GlandImage:
    """A synthetic image at ``MPP``; glands look as they do in the demo."""
    slide = generate_slide(
        np.random.default_rng(seed), size_px=image_px, mpp=MPP * ENLARGED, tumour_share=tumour_share, pen=False
    )
    tissue = np.ptp(slide.rgb.astype(np.int16), axis=2) > COLOURED
    red, green, blue = (int(value) for value in np.median(slide.rgb[~tissue], axis=0))
    large = Image.fromarray(slide.rgb).resize((image_px * ENLARGED,) * 2, Image.Resampling.BICUBIC)
    return GlandImage(np.asarray(large), tissue, (red, green, blue))


def write_large_slide(path: Path, image: GlandImage, *, side_px: int, tissue_mm2: float) -> None:
    """Write a square slide that shows the image as often as it takes to hold the tissue.

    Raises:
        ValueError: The slide is too small for the tissue.
    """
    per_side = side_px // image.side_px
    full, rest = divmod(tissue_mm2, image.tissue_mm2)
    images = [image] * int(full) + ([image.part(rest)] if rest > 0.01 * image.tissue_mm2 else [])
    if len(images) > per_side**2:
        raise ValueError(f"{side_px} pixels hold at most {per_side**2 * image.tissue_mm2:.1f} mm2 of tissue")
    cells = np.round((np.arange(len(images)) + 0.5) * per_side**2 / len(images) - 0.5).astype(int)
    placed = dict(zip(zip(cells // per_side, cells % per_side, strict=True), images, strict=True))
    write_levels(path, _levels(image, placed, side_px=side_px), mpp=MPP, tile_px=TILE_PX)


def _levels(image: GlandImage, placed: dict[tuple[int, int], GlandImage], *, side_px: int) -> Iterator[PyramidLevel]:
    """All levels down to one of at most four tiles a side. ``placed`` are the images by row and column."""
    distinct = {id(shown): shown for shown in placed.values()}
    reduced = {key: shown.rgb for key, shown in distinct.items()}
    for level in range(1 + max(0, math.ceil(math.log(side_px / (4 * TILE_PX), LEVEL_DOWNSAMPLE)))):
        if level:
            reduced = {key: np.asarray(Image.fromarray(rgb).reduce(LEVEL_DOWNSAMPLE)) for key, rgb in reduced.items()}
        level_px, image_px = side_px // LEVEL_DOWNSAMPLE**level, image.side_px // LEVEL_DOWNSAMPLE**level
        if image_px % TILE_PX == 0:
            tiles = _repeated(reduced, placed, image.glass, level_px=level_px, image_px=image_px)
        else:
            whole = np.full((level_px, level_px, 3), image.glass, np.uint8)
            for (row, column), shown in placed.items():
                top, left = row * image_px, column * image_px
                whole[top : top + image_px, left : left + image_px] = reduced[id(shown)]
            tiles = jpeg_tiles(whole, QUALITY, tile_px=TILE_PX)
        yield PyramidLevel(level_px, level_px, tiles)


def _repeated(
    reduced: dict[int, NDArray[np.uint8]],
    placed: dict[tuple[int, int], GlandImage],
    glass: tuple[int, int, int],
    *,
    level_px: int,
    image_px: int,
) -> Iterator[bytes]:
    """The tiles of one level row by row; those of an image are compressed once."""
    stream = io.BytesIO()
    Image.new("RGB", (TILE_PX, TILE_PX), glass).save(stream, "JPEG", quality=QUALITY, subsampling=2, optimize=True)
    of_image = {key: list(jpeg_tiles(rgb, QUALITY, tile_px=TILE_PX)) for key, rgb in reduced.items()}
    per_image, per_side = image_px // TILE_PX, -(-level_px // TILE_PX)
    for row in range(per_side):
        for column in range(per_side):
            shown = placed.get((row // per_image, column // per_image))
            if shown is None:
                yield stream.getvalue()
            else:
                yield of_image[id(shown)][row % per_image * per_image + column % per_image]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side-px", type=int, default=65_536)
    parser.add_argument("--tissue-mm2", type=float, default=19.0)
    parser.add_argument("--image-px", type=int, default=IMAGE_PX, help="side of the repeated image, at 1 um per pixel")
    parser.add_argument("--normal", action="store_true")
    parser.add_argument("--seed", type=int, default=10)
    options = parser.parse_args()
    began = time.perf_counter()
    image = gland_image(seed=options.seed, tumour_share=0.0 if options.normal else 0.3, image_px=options.image_px)
    write_large_slide(options.out, image, side_px=options.side_px, tissue_mm2=options.tissue_mm2)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB in {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
