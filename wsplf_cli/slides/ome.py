"""What the OME-XML in a TIFF file says of its images: size, channels, micrometres per pixel.

The elements are those of the OME schema (https://www.openmicroscopy.org/Schemas/OME/2016-06).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from wsplf_cli.slides.numbers import number

#: Micrometres per unit of length, by the names that the schema and common writers give them.
_UM_PER_UNIT = {
    **{"pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "dm": 1e5, "m": 1e6},
    **dict.fromkeys(("µm", "μm", "um", "Âµm", "\ufffdm", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("in", "inch"), 25_400.0),
    **{"thou": 25.4, "li": 25_400.0 / 12, "pt": 25_400.0 / 72, "ft": 304_800.0},
}
_MICROMETRE = "µm"  # the schema's default


@dataclass(frozen=True, slots=True)
class OmeImage:
    """One ``Image``: its size at level 0, its channels, and the page of the file that it begins with.

    ``mpp_xy`` is None where the image does not say it; ``problem`` then says why, in words.
    """

    size_px0: tuple[int, int]
    channels: int
    first_page: int
    mpp_xy: tuple[float, float] | None
    problem: str = ""


def ome_images(description: str) -> list[OmeImage]:
    """The images that an OME-XML text describes, in its order; none for any other text."""
    if "OME" not in description or not description.lstrip("\ufeff \r\n\t").startswith("<"):
        return []
    try:
        root = ElementTree.fromstring(description.lstrip("\ufeff \r\n\t").rstrip("\0 \r\n\t"))
    except (ParseError, DefusedXmlException, ValueError):
        return []
    return [_image(pixels) for image in _children(root, "Image") for pixels in _children(image, "Pixels")[:1]]


def ome_mpp_xy(description: str, size_px0: tuple[int, int]) -> tuple[tuple[float, float] | None, str]:
    """Micrometres per pixel in x and y of the image of this size, or None with the reason (empty without OME-XML).

    A file may hold several images, such as a label. Among those of this size the one that begins with the first page
    counts, since that is the one that OpenSlide reads.
    """
    images = ome_images(description)
    same_size = [image for image in images if image.size_px0 == size_px0]
    if not same_size:
        return None, "its OME-XML describes no image of this size" if images else ""
    if len({(image.mpp_xy, image.problem) for image in same_size}) > 1:
        same_size = [image for image in same_size if image.first_page == 0]
    if len({image.mpp_xy for image in same_size}) != 1:
        return None, "its OME-XML gives several pixel sizes for images of this size"
    return same_size[0].mpp_xy, same_size[0].problem


def _image(pixels: Element) -> OmeImage:
    attributes = pixels.attrib
    width, height, channels = (int(number(attributes.get(f"Size{axis}")) or 0) for axis in "XYC")
    pages = [int(number(data.attrib.get("IFD", "0")) or 0) for data in _children(pixels, "TiffData")]
    mpp_x, mpp_y = (_um(attributes, f"PhysicalSize{axis}") for axis in "XY")
    mpp_xy = (mpp_x, mpp_y) if mpp_x and mpp_y else None
    return OmeImage((width, height), channels, min(pages, default=0), mpp_xy, "" if mpp_xy else _problem(attributes))


def _um(attributes: Mapping[str, str], name: str) -> float | None:
    """A length in micrometres; None where it is not given, or in a unit that is not one of length."""
    value, factor = number(attributes.get(name)), _UM_PER_UNIT.get(_unit(attributes, name))
    return value * factor if value and factor else None


def _unit(attributes: Mapping[str, str], name: str) -> str:
    return attributes.get(f"{name}Unit", _MICROMETRE).strip()


def _problem(attributes: Mapping[str, str]) -> str:
    """Why there is no pixel size; empty where the image gives none."""
    for axis in "XY":
        if f"PhysicalSize{axis}" in attributes and _um(attributes, f"PhysicalSize{axis}") is None:
            length = f"{attributes[f'PhysicalSize{axis}']} {_unit(attributes, f'PhysicalSize{axis}')}"
            return f"its OME-XML says {length}, which is no length"
    given = [axis for axis in "XY" if f"PhysicalSize{axis}" in attributes]
    return f"its OME-XML gives only PhysicalSize{given[0]}" if given else ""


def _children(element: Element, name: str) -> list[Element]:
    """The child elements of this name in any version of the schema."""
    return [child for child in element if child.tag.rpartition("}")[2] == name]
