"""Ink left in the tissue of real slides: ``python tests/benchmarks/ink_mask.py FOLDER-OF-SLIDES``.

A ring around a random spot, a line and dots of each pen are painted on every slide, as filter and as flat paint, fresh
and half washed out. The table holds the share of the ink that still counts as tissue, and the share of the tissue more
than 40 um away from ink that is lost.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from shapely import Point

from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.synthetic.ink import INKS, Pen, apply_ink, line_and_dots, random_pen, ring
from wsplf_cli.synthetic.pyramid import write_pyramid

MPP = 1.0
#: (amount, opacity) of a pen
WEAR = {"fresh filter": (1.0, 0.0), "fresh paint": (1.0, 0.9), "half filter": (0.5, 0.2)}


def tissue_of(pixels: NDArray[np.uint8], folder: Path) -> NDArray[np.bool_]:
    """The tissue of an image, bool [H, W]."""
    path = folder / "slide.tif"
    write_pyramid(path, pixels, mpp=MPP, quality=90)
    with open_slide(path) as slide:
        mask = tissue_mask(slide, mpp_slide=MPP)
    rows, columns = (
        np.minimum(np.arange(size) / mask.downsample, limit - 1).astype(int)
        for size, limit in zip(pixels.shape[:2], mask.mask.shape, strict=True)
    )
    tissue: NDArray[np.bool_] = mask.mask[np.ix_(rows, columns)]
    return tissue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mpp-slide", type=float, default=0.62)
    parser.add_argument("--slides", type=int, default=4, help="how many, evenly over the folder")
    options = parser.parse_args()
    paths = sorted(options.folder.glob("*.tif"))
    paths = paths[:: max(1, len(paths) // options.slides)]
    shares: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as name:
        for number, path in enumerate(paths):
            rng = np.random.default_rng(number)
            with open_slide(path) as slide:
                scale = MPP / options.mpp_slide
                size = int(slide.width_px0 / scale), int(slide.height_px0 / scale)
                clean = slide.read(0, 0, size_px=size, downsample=scale)
            tissue = tissue_of(clean, Path(name))
            rows, columns = np.nonzero(tissue)
            middle = int(rng.integers(len(rows)))
            spot = Point(columns[middle], rows[middle]).buffer(0.12 * min(size))
            cover = ring(rng, spot, clean.shape[:2], mpp=MPP)
            cover = np.maximum(cover, line_and_dots(rng, clean.shape[:2], mpp=MPP))
            far = distance_transform_edt(cover == 0) * MPP > 40
            for ink in INKS:
                pen = random_pen(rng, ink)
                for wear, (amount, opacity) in WEAR.items():
                    inked = clean.copy()
                    apply_ink(rng, inked, cover, Pen(pen.rgb, amount, opacity), mpp=MPP)
                    left = tissue_of(inked, Path(name))
                    lost = tissue & far & ~left
                    shares.setdefault(f"{ink}, {wear}", []).append(
                        (left[(cover > 0.5) & tissue].mean(), lost.sum() / max((tissue & far).sum(), 1))
                    )
    print("| pen | ink over tissue that is left in | tissue lost |\n|---|---|---|")
    for pen_name, values in shares.items():
        left_in, lost_share = np.array(values).mean(axis=0)
        print(f"| {pen_name} | {left_in:.1%} | {lost_share:.2%} |")


if __name__ == "__main__":
    main()
