"""Marker ink on slides: rings around tumour, lines and dots, of every colour that pathologists use."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import rasterise
from wsplf_cli.synthetic.noise import Field, smooth

#: Darkest and lightest colour (R, G, B) that a pen of each name leaves on clear glass.
INKS: Mapping[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "black": ((8, 8, 8), (48, 46, 52)),
    "blue": ((5, 35, 120), (70, 100, 210)),
    "dark blue": ((12, 14, 60), (45, 50, 125)),
    "green": ((10, 90, 40), (70, 150, 110)),
    "red": ((165, 10, 20), (235, 55, 65)),
}


@dataclass(frozen=True, slots=True)
class Pen:
    """A pen: ``rgb`` is its colour on clear glass.

    ``amount`` scales its optical density, 1 for fresh ink and about 0.3 for washed-out ink. ``opacity`` is the share of
    light that the ink covers instead of filtering: 0 for clear ink, 1 for paint.
    """

    rgb: tuple[float, float, float]
    amount: float = 1.0
    opacity: float = 0.0


def random_pen(rng: np.random.Generator, ink: str) -> Pen:
    """A pen of one of the colours in ``INKS``, fresh or somewhat worn."""
    darkest, lightest = (np.array(rgb, float) for rgb in INKS[ink])
    lightness = rng.uniform(0, 1) + rng.uniform(-0.1, 0.1, 3)
    red, green, blue = (float(value) for value in np.clip(darkest + lightness * (lightest - darkest), 1, 255))
    return Pen((red, green, blue), amount=float(rng.uniform(0.7, 1.1)), opacity=float(rng.uniform(0.0, 0.6)))


def draw_marks(
    rng: np.random.Generator, rgb: NDArray[np.uint8], tumour: BaseGeometry, ink: str, *, mpp: float
) -> Field:
    """Draw a ring around each piece of tumour, a line and dots with one pen on the image, in place.

    Args:
        rng: Random numbers, which determine the pen and the strokes.
        rgb: The image, uint8 [H, W, 3].
        tumour: The tumour in pixels of the image.
        ink: A name in ``INKS``.
        mpp: Micrometres per pixel.

    Returns:
        How much of each pixel the ink covers, float32 [H, W] in 0..1.
    """
    pen = random_pen(rng, ink)
    height, width = rgb.shape[:2]
    cover = ring(rng, tumour, (height, width), mpp=mpp)
    cover = np.maximum(cover, line_and_dots(rng, (height, width), mpp=mpp))
    apply_ink(rng, rgb, cover, pen, mpp=mpp)
    return cover


def apply_ink(rng: np.random.Generator, rgb: NDArray[np.uint8], cover: Field, pen: Pen, *, mpp: float) -> None:
    """Put ink on the image, in place. ``cover`` float32 [H, W] in 0..1 says where.

    The ink filters light by the law of Beer and Lambert, in a layer of uneven thickness, and covers a part of it.
    """
    inked = cover > 0
    if not inked.any():
        return
    thickness = pen.amount * (1 + 0.12 * smooth(rng, cover.shape, 60 / mpp)[inked]) * cover[inked]
    colour = np.clip(np.array(pen.rgb, np.float32), 1, 255) / 255
    transmission = np.exp(np.log(colour) * np.clip(thickness, 0, None)[:, None])
    light = rgb[inked].astype(np.float32)
    covered = pen.opacity * cover[inked][:, None]
    inked_rgb = light * transmission * (1 - covered) + 255 * transmission * covered
    rgb[inked] = np.clip(inked_rgb + 0.5, 0, 255).astype(np.uint8)


def ring(
    rng: np.random.Generator, tumour: BaseGeometry, shape: tuple[int, int], *, mpp: float, width_um: float = 45.0
) -> Field:
    """The cover float32 [H, W] of a hand-drawn closed line around each piece of tumour (level-0 pixels)."""
    gap_um = float(rng.uniform(20, 60))
    outlined = rasterise(
        [tumour.buffer(gap_um / mpp)], origin_px0=(0.0, 0.0), downsample=1.0, size_px=(shape[1], shape[0])
    )
    if not outlined.any() or outlined.all():
        return np.zeros(shape, np.float32)
    distance_um = np.where(outlined, -distance_transform_edt(outlined), distance_transform_edt(~outlined)) * mpp
    distance_um = distance_um.astype(np.float32) - width_um / 2 + 8 * smooth(rng, shape, 200 / mpp)
    return _stroke(distance_um, width_um)


def line_and_dots(
    rng: np.random.Generator, shape: tuple[int, int], *, mpp: float, width_um: float = 45.0, dots: int = 2
) -> Field:
    """The cover float32 [H, W] of a short bent line and some dots at random positions."""
    height, width = shape
    y_um, x_um = (axis.astype(np.float32) * np.float32(mpp) for axis in np.mgrid[:height, :width])
    row_um, column_um = rng.uniform(0.05, 0.95, 2) * np.array(shape) * mpp
    angle = rng.uniform(0, np.pi)
    across = (x_um - column_um) * np.sin(angle) - (y_um - row_um) * np.cos(angle) + 30 * smooth(rng, shape, 400 / mpp)
    along = (x_um - column_um) * np.cos(angle) + (y_um - row_um) * np.sin(angle)
    cover = _stroke(np.maximum(np.abs(across), np.abs(along) - rng.uniform(100, 300)).astype(np.float32), width_um)
    for _ in range(dots):
        row_um, column_um = rng.uniform(0.05, 0.95, 2) * np.array(shape) * mpp
        distance_um = np.hypot(y_um - row_um, x_um - column_um).astype(np.float32)
        cover = np.maximum(cover, _stroke(distance_um, float(rng.uniform(1.2, 2.5)) * width_um))
    return cover


def _stroke(distance_um: Field, width_um: float) -> Field:
    """The cover of a stroke, whose edge is soft over 4 um, for distances from its middle line."""
    cover: Field = np.clip((width_um / 2 - np.abs(distance_um)) / 4 + 0.5, 0, 1).astype(np.float32)
    return cover
