"""Images that QuPath derives from a slide (rotated, flipped, cropped, warped): where they lie on it, and their pixels.

Annotations of such an entry are in the coordinates of the derived image, so its pixels are read in them too. Nothing
is opened here: the caller passes a reader of the slide's own pixels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsplf_cli.schema import Step

#: Values of a matrix below this share of its largest one are rounding errors, such as cos(90°) = 6e-17.
ROUNDING = 1e-9
#: Largest area of the slide that is warped at once, in pixels. Larger requests are split.
MAX_WARP_PX = 1 << 24

Matrix = tuple[float, float, float, float, float, float]
"""(a, b, c, d, e, f): x on the slide = a x + b y + c, y on the slide = d x + e y + f."""

IDENTITY: Matrix = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class Read(Protocol):
    """Reads a slide's own pixels, as ``Slide.read`` does."""

    def __call__(
        self, x_px0: float, y_px0: float, /, *, size_px: tuple[int, int], downsample: float
    ) -> NDArray[np.uint8]:
        """The region as uint8 [height, width, 3], white outside."""


@dataclass(frozen=True, slots=True)
class View:
    """A derived image: its size, where its points lie on the slide, and its channels.

    ``slide_from_view`` maps points of the view to points of the slide, both at level 0. ``channels`` gives the slide's
    channel of each channel of the view. ``clipped`` is true where the slide goes on beyond the view.
    """

    width_px0: int
    height_px0: int
    slide_from_view: Matrix = IDENTITY
    channels: tuple[int, int, int] = (0, 1, 2)
    clipped: bool = False

    @property
    def scale(self) -> float:
        """The side of a view pixel in slide pixels; the geometric mean where the two sides differ."""
        a, b, _, d, e, _ = self.slide_from_view
        return math.sqrt(abs(a * e - b * d))

    def mpp_xy(self, mpp_xy: tuple[float, float]) -> tuple[float, float]:
        """Micrometres per pixel along x and y of the view, from those of the slide."""
        a, b, _, d, e, _ = self.slide_from_view
        return math.hypot(a * mpp_xy[0], d * mpp_xy[1]), math.hypot(b * mpp_xy[0], e * mpp_xy[1])


def view_of(steps: Sequence[Step], size_px0: tuple[int, int]) -> View:
    """The view that ``steps``, from the slide outward, make of a slide of ``size_px0`` (width, height).

    Raises:
        ValueError: An affine step has no inverse.
    """
    view = View(*size_px0)
    for step in steps:
        view = _derived(view, step)
    return view


def _derived(inner: View, step: Step) -> View:
    """The view that one more step makes. The matrices below map points of the new image to the inner one."""
    width, height = inner.width_px0, inner.height_px0
    values = step.values
    clipped = inner.clipped
    channels = inner.channels
    matrix = IDENTITY
    if step.kind == "rotated":  # clockwise, as in QuPath
        quarter_turns = int(values[0]) % 4
        matrix = (
            IDENTITY,
            (0.0, 1.0, 0.0, -1.0, 0.0, float(height)),
            (-1.0, 0.0, float(width), 0.0, -1.0, float(height)),
            (0.0, -1.0, float(width), 1.0, 0.0, 0.0),
        )[quarter_turns]
        width, height = (height, width) if quarter_turns % 2 else (width, height)
    elif step.kind == "flipped":
        flip_x, flip_y = bool(values[0]), bool(values[1])
        matrix = (
            -1.0 if flip_x else 1.0,
            0.0,
            float(width) if flip_x else 0.0,
            0.0,
            -1.0 if flip_y else 1.0,
            float(height) if flip_y else 0.0,
        )
    elif step.kind == "cropped":
        matrix = (1.0, 0.0, values[0], 0.0, 1.0, values[1])
        width, height = int(values[2]), int(values[3])
        clipped = True
    elif step.kind == "affine":
        width, height = step.size_px0 or _transformed_size(values, (width, height))
        matrix = _inverse(values)
        clipped = True
    else:
        first, second, third = (channels[int(value)] for value in values)
        channels = (first, second, third)
    return View(width, height, _product(inner.slide_from_view, matrix), channels, clipped)


def _transformed_size(values: Sequence[float], size: tuple[int, int]) -> tuple[int, int]:
    """The size that QuPath gives to an affine image without a recorded size: that of the box around it."""
    m00, m10, m01, m11 = values[:4]
    width, height = size
    box_width = abs(m00) * width + abs(m01) * height
    box_height = abs(m10) * width + abs(m11) * height
    return math.ceil(box_width - ROUNDING * box_width), math.ceil(box_height - ROUNDING * box_height)


def _inverse(values: Sequence[float]) -> Matrix:
    """The inverse of Java's (m00, m10, m01, m11, m02, m12), which maps inner points to outer ones."""
    m00, m10, m01, m11, m02, m12 = values
    determinant = m00 * m11 - m01 * m10
    if not math.isfinite(determinant) or abs(determinant) < ROUNDING:
        raise ValueError("an affine transform without inverse")
    a, b, d, e = m11 / determinant, -m01 / determinant, -m10 / determinant, m00 / determinant
    return a, b, -(a * m02 + b * m12), d, e, -(d * m02 + e * m12)


def _product(outer: Matrix, inner: Matrix) -> Matrix:
    """The matrix that applies ``inner``, then ``outer``. Rounding errors of a quarter turn become 0."""
    a, b, c, d, e, f = outer
    p, q, r, s, t, u = inner
    linear = (a * p + b * s, a * q + b * t, d * p + e * s, d * q + e * t)
    smallest = ROUNDING * max(map(abs, linear))
    xx, xy, yx, yy = (0.0 if abs(value) < smallest else value for value in linear)
    return xx, xy, a * r + b * u + c, yx, yy, d * r + e * u + f


def read(
    view: View, source: Read, corner_px0: tuple[float, float], *, size_px: tuple[int, int], downsample: float
) -> NDArray[np.uint8]:
    """A region of a view. Arguments and result are those of ``Slide.read``, in the view's coordinates.

    Quarter turns, flips, crops and uniform scaling give the same pixels as the slide. Other views are resampled.
    """
    a, b, _, d, e, _ = view.slide_from_view
    if (b == d == 0 and abs(a) == abs(e)) or (a == e == 0 and abs(b) == abs(d)):
        pixels = _read_axis_aligned(view, source, corner_px0, size_px=size_px, downsample=downsample)
    else:
        pixels = _read_warped(view, source, corner_px0, size_px=size_px, downsample=downsample)
    if view.channels != (0, 1, 2):
        pixels = np.ascontiguousarray(pixels[..., list(view.channels)])
    return _white_outside(view, pixels, corner_px0, downsample) if view.clipped else pixels


def _read_axis_aligned(
    view: View, source: Read, corner_px0: tuple[float, float], *, size_px: tuple[int, int], downsample: float
) -> NDArray[np.uint8]:
    """A region of a view whose axes are parallel to those of the slide, without resampling of its own."""
    a, b, c, d, e, f = view.slide_from_view
    (left, top), (width, height) = corner_px0, size_px
    right, bottom = left + width * downsample, top + height * downsample
    transposed = a == 0
    x_px0 = min(a * x + b * y + c for x, y in ((left, top), (right, bottom)))
    y_px0 = min(d * x + e * y + f for x, y in ((left, top), (right, bottom)))
    size = (height, width) if transposed else (width, height)
    pixels = source(x_px0, y_px0, size_px=size, downsample=downsample * abs(b if transposed else a))
    if transposed:  # rows of the slide's pixels run along the view's x, their columns along its y
        pixels = pixels.transpose(1, 0, 2)
    sign_x, sign_y = (d, b) if transposed else (a, e)
    pixels = pixels[:, ::-1] if sign_x < 0 else pixels
    pixels = pixels[::-1] if sign_y < 0 else pixels
    return np.ascontiguousarray(pixels)


def _read_warped(
    view: View, source: Read, corner_px0: tuple[float, float], *, size_px: tuple[int, int], downsample: float
) -> NDArray[np.uint8]:
    """A region of any view, resampled from the box around it on the slide."""
    a, b, c, d, e, f = view.slide_from_view
    (left, top), (width, height) = corner_px0, size_px
    xs, ys = (left, left + width * downsample), (top, top + height * downsample)
    slide_xs = [a * x + b * y + c for x in xs for y in ys]
    slide_ys = [d * x + e * y + f for x in xs for y in ys]
    step = downsample * view.scale
    margin = 2 * step  # the bilinear filter looks one pixel beyond
    # on one grid for all regions, so that neighbouring regions fit together
    x_px0, y_px0 = (math.floor((start - margin) / step) * step for start in (min(slide_xs), min(slide_ys)))
    size = (
        math.ceil((max(slide_xs) + margin - x_px0) / step),
        math.ceil((max(slide_ys) + margin - y_px0) / step),
    )
    if size[0] * size[1] > MAX_WARP_PX and max(size_px) > 1:
        return _read_warped_halves(view, source, corner_px0, size_px=size_px, downsample=downsample)
    pixels = source(x_px0, y_px0, size_px=size, downsample=step)
    # an array index is half a pixel less than the coordinate of the pixel's centre; [row, column] is (y, x)
    ratio = downsample / step
    linear = np.array([[e, d], [b, a]]) * ratio
    first = np.array([d * left + e * top + f - y_px0, a * left + b * top + c - x_px0]) / step
    offset = first + linear @ (0.5, 0.5) - 0.5
    warped = np.empty((height, width, 3), np.uint8)
    for channel in range(3):
        warped[..., channel] = np.rint(
            ndimage.affine_transform(
                pixels[..., channel],
                linear,
                offset,
                output_shape=(height, width),
                output=np.float32,
                order=1,
                mode="constant",
                cval=255,
            )
        )
    return warped


def _read_warped_halves(
    view: View, source: Read, corner_px0: tuple[float, float], *, size_px: tuple[int, int], downsample: float
) -> NDArray[np.uint8]:
    """``_read_warped`` in two halves of the region."""
    (left, top), (width, height) = corner_px0, size_px
    wide = width >= height
    half = (width if wide else height) // 2
    first, second = ((half, height), (width - half, height)) if wide else ((width, half), (width, height - half))
    corner = (left + half * downsample, top) if wide else (left, top + half * downsample)
    parts = [
        _read_warped(view, source, corner_px0, size_px=first, downsample=downsample),
        _read_warped(view, source, corner, size_px=second, downsample=downsample),
    ]
    return np.concatenate(parts, axis=1 if wide else 0)


def _white_outside(
    view: View, pixels: NDArray[np.uint8], corner_px0: tuple[float, float], downsample: float
) -> NDArray[np.uint8]:
    """The pixels, with those made white whose centre is not on the view. The slide may go on there."""
    x = corner_px0[0] + (np.arange(pixels.shape[1]) + 0.5) * downsample
    y = corner_px0[1] + (np.arange(pixels.shape[0]) + 0.5) * downsample
    pixels[:, (x < 0) | (x > view.width_px0)] = 255
    pixels[(y < 0) | (y > view.height_px0)] = 255
    return pixels
