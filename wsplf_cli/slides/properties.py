"""What the properties of a slide file say, by OpenSlide's names: the scanned part, the micrometres per pixel."""

import math
from collections.abc import Mapping

import openslide

#: Calibrations outside this range (um per pixel) are screen resolutions such as 72 dpi, not microscopes.
PLAUSIBLE_MPP = (0.02, 30.0)
TILE_PX = 256


def bounds(properties: Mapping[str, str], width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the scanned part, as QuPath takes it; all of it where the slide does not say."""
    names = ("BOUNDS_X", "BOUNDS_Y", "BOUNDS_WIDTH", "BOUNDS_HEIGHT")
    values = [number(properties.get(getattr(openslide, f"PROPERTY_NAME_{name}"))) for name in names]
    left, top, bounds_width, bounds_height = (None if value is None else round(value) for value in values)
    if left is None or top is None or bounds_width is None or bounds_height is None:
        return 0, 0, width, height
    if left < 0 or top < 0 or bounds_width < 1 or bounds_height < 1 or left >= width or top >= height:
        return 0, 0, width, height
    return left, top, bounds_width, bounds_height


def mpp_xy(properties: Mapping[str, str]) -> tuple[tuple[float, float] | None, str]:
    """Micrometres per pixel in x and y with their source, or None and why not."""
    across = number(properties.get(openslide.PROPERTY_NAME_MPP_X))
    down = number(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    source = "TIFF resolution" if properties.get(openslide.PROPERTY_NAME_VENDOR) == "generic-tiff" else "slide"
    if across is None or down is None:
        um_per_unit = {"centimeter": 1e4, "inch": 25400.0}.get(properties.get("tiff.ResolutionUnit", ""))
        per_x, per_y = (number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
        source = "TIFF resolution"
        if um_per_unit and per_x and per_y:
            across, down = um_per_unit / per_x, um_per_unit / per_y
    if across is None or down is None:
        return None, "not in the slide"
    mean = math.sqrt(across * down)
    if not PLAUSIBLE_MPP[0] <= mean <= PLAUSIBLE_MPP[1]:
        return None, f"{source} says {mean:.4g}, which is no microscope's"
    return (across, down), source


def magnification(properties: Mapping[str, str]) -> float | None:
    """The power of the objective, or None where the slide does not say."""
    return number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)) or None


def tile_px(properties: Mapping[str, str]) -> tuple[int, int]:
    """(width, height) of the tiles of level 0; QuPath's usual ones where the slide does not say."""
    sides = (number(properties.get(f"openslide.level[0].tile-{side}")) for side in ("width", "height"))
    width, height = (round(side) if side else TILE_PX for side in sides)
    return width, height


def scan_id(properties: Mapping[str, str]) -> str:
    """What the files of one slide that consists of several (DICOM) have in common; empty for others."""
    return properties.get("dicom.SeriesInstanceUID", "")


def number(text: str | None) -> float | None:
    """A positive or zero number, None for anything else."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
