"""What the properties of a slide file say, by OpenSlide's names: bounds, micrometres per pixel, objective, tiles."""

import math
from collections.abc import Mapping

import openslide

from wsplf_cli.slides.numbers import number
from wsplf_cli.slides.ome import ome_mpp_xy

#: Pixel sizes outside this range (um) are screen resolutions such as 72 dpi, not those of a microscope.
PLAUSIBLE_MPP = (0.02, 30.0)
#: OpenSlide's vendor of TIFF files that no vendor has marked.
GENERIC_TIFF = "generic-tiff"
#: The side of tiles where the slide does not say it.
DEFAULT_TILE_PX = 256


def bounds(properties: Mapping[str, str], width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, width, height) of the scanned part, as QuPath takes it; the whole slide where it does not say."""
    names = ("BOUNDS_X", "BOUNDS_Y", "BOUNDS_WIDTH", "BOUNDS_HEIGHT")
    values = [number(properties.get(getattr(openslide, f"PROPERTY_NAME_{name}"))) for name in names]
    left, top, bounds_width, bounds_height = (None if value is None else round(value) for value in values)
    if left is None or top is None or bounds_width is None or bounds_height is None:
        return 0, 0, width, height
    if left < 0 or top < 0 or bounds_width < 1 or bounds_height < 1 or left >= width or top >= height:
        return 0, 0, width, height
    return left, top, bounds_width, bounds_height


def mpp_xy(properties: Mapping[str, str]) -> tuple[tuple[float, float] | None, str]:
    """Micrometres per pixel in x and y with their source, or None with the reason.

    In a TIFF file without a vendor, OME-XML comes before the resolution, as in Bio-Formats: that is often one of a
    screen.
    """
    reasons = []
    for size_xy, source in (_ome_xml(properties), _vendor(properties), _tiff_resolution(properties)):
        if size_xy is None:
            reasons += [source] if source else []
            continue
        mean = mean_mpp(size_xy)
        if PLAUSIBLE_MPP[0] <= mean <= PLAUSIBLE_MPP[1]:
            return size_xy, source
        reasons.append(f"{source} says {mean:.4g}, which is not that of a microscope")
    return None, "; ".join(dict.fromkeys(reasons)) or "not in the slide"


def _ome_xml(properties: Mapping[str, str]) -> tuple[tuple[float, float] | None, str]:
    if properties.get(openslide.PROPERTY_NAME_VENDOR) != GENERIC_TIFF:
        return None, ""
    sides = (number(properties.get(f"openslide.level[0].{side}")) for side in ("width", "height"))
    width, height = (int(side or 0) for side in sides)
    size_xy, problem = ome_mpp_xy(properties.get("tiff.ImageDescription", ""), (width, height))
    return size_xy, problem if size_xy is None else "OME-XML"


def _vendor(properties: Mapping[str, str]) -> tuple[tuple[float, float] | None, str]:
    mpp_x = number(properties.get(openslide.PROPERTY_NAME_MPP_X))
    mpp_y = number(properties.get(openslide.PROPERTY_NAME_MPP_Y))
    source = "TIFF resolution" if properties.get(openslide.PROPERTY_NAME_VENDOR) == GENERIC_TIFF else "slide"
    return ((mpp_x, mpp_y), source) if mpp_x and mpp_y else (None, "")


def _tiff_resolution(properties: Mapping[str, str]) -> tuple[tuple[float, float] | None, str]:
    um_per_unit = {"centimeter": 1e4, "inch": 25400.0}.get(properties.get("tiff.ResolutionUnit", ""))
    per_x, per_y = (number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY")
    size_xy = (um_per_unit / per_x, um_per_unit / per_y) if um_per_unit and per_x and per_y else None
    return size_xy, "TIFF resolution" if size_xy else ""


def mean_mpp(mpp_xy: tuple[float, float]) -> float:
    """The one number for pixels that are not square: the side of a square of the same area, sqrt(x y).

    So ``mean ** 2`` is the exact area of a pixel. An arithmetic mean would change areas.
    """
    return mpp_xy[0] if mpp_xy[0] == mpp_xy[1] else math.sqrt(mpp_xy[0] * mpp_xy[1])


def magnification(properties: Mapping[str, str]) -> float | None:
    """The power of the objective, or None where the slide does not say it."""
    return number(properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)) or None


def tile_px(properties: Mapping[str, str]) -> tuple[int, int]:
    """(width, height) of the tiles of level 0; QuPath's default where the slide does not say it."""
    sides = (number(properties.get(f"openslide.level[0].tile-{side}")) for side in ("width", "height"))
    width, height = (round(side) if side else DEFAULT_TILE_PX for side in sides)
    return width, height


def scan_id(properties: Mapping[str, str]) -> str:
    """The identifier that all files of one slide share where a slide consists of several (DICOM); empty otherwise."""
    return properties.get("dicom.SeriesInstanceUID", "")
