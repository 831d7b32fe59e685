"""A map of a slide that carries its own scale: logits, a CAM, probabilities."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry.base import BaseGeometry

from wsplf_cli.geometry import rasterise


@dataclass(frozen=True, slots=True)
class SlideMap:
    """``values`` float32 [rows, columns]. A cell is ``downsample`` level-0 pixels wide; the first begins at (0, 0)."""

    values: NDArray[np.float32]
    downsample: float

    @property
    def of_tissue(self) -> NDArray[np.float32]:
        """The values of the tissue, float32 [N]: those that are not NaN."""
        values: NDArray[np.float32] = self.values[~np.isnan(self.values)]
        return values

    def mean_inside(self, shape: BaseGeometry) -> float:
        """Mean of the cells whose centre lies in a shape of level-0 pixels; the value at a point of it if none does."""
        return float(self._inside(shape).mean())

    def _inside(self, shape: BaseGeometry) -> NDArray[np.float32]:
        left, top, right, bottom = (int(value // self.downsample) for value in shape.bounds)
        left, top = max(left, 0), max(top, 0)
        part = self.values[top : bottom + 1, left : right + 1]
        inside = rasterise(
            [shape],
            origin_px0=(left * self.downsample, top * self.downsample),
            downsample=self.downsample,
            size_px=(part.shape[1], part.shape[0]),
        )
        if inside.any():
            values: NDArray[np.float32] = part[inside]
            return values
        point = shape.representative_point()
        rows, columns = self.values.shape
        row, column = (int(value // self.downsample) for value in (point.y, point.x))
        nearest: NDArray[np.float32] = self.values[
            min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)
        ].reshape(1)
        return nearest

    def picture(self) -> bytes:
        """Values of 0..1 as an 8-bit grey PNG, one pixel per cell, 128 at 0.5."""
        stream = io.BytesIO()
        Image.fromarray((self.values * 255).round().astype(np.uint8)).save(stream, format="PNG")
        return stream.getvalue()
