"""What a file is that OpenSlide does not open, and whether the pixels of one that it opens are those of a colour image.

The user gets our words for it, with the next thing to type. What the libraries say goes to the log.
"""

import logging
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import tifffile
from PIL import ImageFile

from wsplf_cli.errors import SlideError
from wsplf_cli.slides.ome import ome_images

log = logging.getLogger(__name__)

#: Plain images, which Pillow reads.
PICTURES = {".png", ".jpg", ".jpeg"}
COPY_AGAIN = "copy it again from its source"
NEEDED = "wsplf needs a colour image (RGB with 8 bits per channel, brightfield)"

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: The first bytes of files that are taken for slides, and what they are.
_SIGNATURES = (
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x89PNG", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"%PDF", "PDF"),
    (b"PK\x03\x04", "ZIP"),
    (b"\x1f\x8b", "gzip"),
    (b"\x89HDF", "HDF5"),
    (b"ZISRAWFILE", "CZI"),
    *((signature, "TIFF") for signature in _TIFF),
)
_SUFFIXES = {"TIFF": ".tif", "PNG": ".png", "JPEG": ".jpg"}
#: What libvips reads, and so can convert.
_CONVERTIBLE = {"JPEG 2000", "GIF", "BMP"}
_TEXTS = (
    (b"<!doctype html", "a web page", "download the slide again"),
    (b"<html", "a web page", "download the slide again"),
    (b"version https://git-lfs", "a pointer of Git LFS to one", "git lfs pull"),
)
#: Compressions that OpenSlide decodes: none, LZW, old and new JPEG, deflate, PackBits.
_READABLE_COMPRESSIONS = {1, 5, 6, 7, 8, 32773, 32946}
_COMPRESSION_NAMES = {
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((34927, 50001), "WebP"),
    **dict.fromkeys((34926, 50000), "Zstandard"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    **dict.fromkeys((22610, 34934), "JPEG XR"),
    34925: "LZMA",
}
_GREY = (0, 1)  # white or black is zero
_PALETTE = 3
_MODELS = {5: "a CMYK image", 8: "a CIELab image", 9: "a CIELab image", 10: "a CIELab image"}
#: What Pillow raises on damaged pictures.
PICTURE_ERRORS = (OSError, SyntaxError, ValueError, IndexError, KeyError, struct.error)
#: What tifffile raises on damaged files.
_PARSE_ERRORS = (
    *(tifffile.TiffFileError, OSError, ValueError, KeyError, IndexError, TypeError, struct.error),
    *(ArithmeticError, AttributeError, MemoryError),
)


def unreadable(path: Path) -> SlideError:
    """The error for a file that OpenSlide refused: what is wrong with it, and what to do."""
    try:
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        return SlideError(f"{path.name}: cannot be read: {error.strerror}", hint="check the permissions and the disk")
    if not head.strip(b"\0"):
        what = "is empty" if not head else "holds only zeros at its beginning"
        return SlideError(f"{path.name}: not a slide: the file {what}", hint=COPY_AGAIN)
    if head.startswith(_TIFF) and path.suffix.lower() not in PICTURES:
        return _unreadable_tiff(path)
    what, hint = _foreign_file(path, head)
    return SlideError(f"{path.name}: {what}", hint=hint)


def _foreign_file(path: Path, head: bytes) -> tuple[str, str]:
    """What a file with these first bytes is, and what to do."""
    text = head.lstrip(b"\xef\xbb\xbf \r\n\t").lower()
    for beginning, what, hint in _TEXTS:
        if text.startswith(beginning):
            return f"not a slide but {what}", hint
    if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        return "the folder with its pixels is not beside it", f"put the folder {path.stem} of the scanner beside it"
    kind = next((kind for signature, kind in _SIGNATURES if head.startswith(signature)), "")
    kind = "DICOM" if head[128:132] == b"DICM" else kind
    if kind in _CONVERTIBLE:
        return f"a {kind} file, which OpenSlide does not read", conversion(path)
    if kind in _SUFFIXES:
        return f"a {kind} file under another suffix", f"rename it to {path.stem}{_SUFFIXES[kind]}"
    what = f"a {kind} file, not a slide" if kind else "not a slide"
    target = _quoted(f"{path.stem}.ome.tif")
    convert = f"bfconvert -series 0 -tilex 512 -tiley 512 {_quoted(path.name)} {target}"
    return f"{what} that OpenSlide can read", convert if kind == "CZI" else "convert it into a tiled pyramidal TIFF"


def conversion(path: Path, operation: str = "copy") -> str:
    """The command line that makes a tiled pyramidal TIFF of a file.

    ``operation`` of libvips: "copy", "flatten" (onto white, without the fourth channel) or "colourspace" (to RGB of 8
    bits per channel).
    """
    source, target = _quoted(path.name), f"{path.stem}_pyramid.tif"
    if operation == "copy":
        return f"vips tiffsave {source} {_quoted(target)} --tile --pyramid --compression jpeg --Q 90"
    more = {"flatten": "--background 255", "colourspace": "srgb"}[operation]
    return f'vips {operation} {source} "{target}[tile,pyramid,compression=jpeg,Q=90]" {more}'


def _quoted(name: str) -> str:
    """A file name as a shell of any system takes it."""
    return name if re.fullmatch(r"[\w.+-]+", name) else f'"{name}"'


def colour_error(path: Path, kind: str) -> SlideError:
    """The error for an image without usable colour, of which ``kind`` says what it is."""
    hint = "save it as RGB with 8 bits per channel in the program that wrote it"
    if "grey" in kind or "channels" in kind:
        hint = "take the colour scan of the slide; greyscale and fluorescence images show no stain"
    if kind == "an image of 3 channels":
        merged = _quoted(f"{path.name.partition('.')[0]}_rgb.ome.tif")
        hint = f"if they are red, green and blue: bfconvert -merge {_quoted(path.name)} {merged}"
    if kind.startswith(("a CMYK", "a CIELab", "an image of 16 bits")):
        hint = conversion(path, "colourspace")
    return SlideError(f"{path.name}: {kind}; {NEEDED}", hint=hint)


def damaged_picture(path: Path) -> SlideError:
    """The error for a PNG or JPEG file that cannot be decoded."""
    return SlideError(f"{path.name}: the picture is damaged or cut short", hint=COPY_AGAIN)


def picture_kind(picture: ImageFile.ImageFile) -> str:
    """What a PNG or JPEG file is where it is no colour image of 8 bits, in words; else empty."""
    if picture.mode in {"CMYK", "YCCK"}:
        return "a CMYK image"
    has_16_bits = picture.format == "PNG" and any("16" in str(tile.args) for tile in picture.tile)
    if picture.mode not in {"P", "RGB", "RGBA"}:
        return "a greyscale image (16 bits per channel)" if has_16_bits else "a greyscale image"
    return "an image of 16 bits per channel" if has_16_bits else ""


@dataclass(frozen=True, slots=True)
class TiffPage:
    """The first page of a TIFF file.

    ``kind`` says in words what it is where it is no colour image of 8 bits, else it is empty. ``end`` is the first byte
    behind its pixels; 0 if it has none.
    """

    kind: str
    has_alpha: bool
    compression: int
    is_tiled: bool
    end: int


def first_page(path: Path) -> TiffPage | None:
    """The first page of a TIFF file; None where its structure is damaged."""
    reader_log = logging.getLogger("tifffile")
    disabled, reader_log.disabled = reader_log.disabled, True  # it logs what it also raises, and odd tags
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            if not isinstance(page, tifffile.TiffPage) or not page.imagewidth or not page.imagelength:
                return None
            ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
            has_alpha = int(page.samplesperpixel) == 4
            end = int(max(ends, default=0))
            return TiffPage(_kind(page), has_alpha, int(page.compression), bool(page.is_tiled), end)
    except _PARSE_ERRORS as error:
        log.info("%s: %s", path, error)
        return None
    finally:
        reader_log.disabled = disabled


def _kind(page: tifffile.TiffPage) -> str:
    samples, model = int(page.samplesperpixel), int(page.photometric)
    if model in _MODELS:
        return _MODELS[model]
    if model == _PALETTE:
        colours = page.colormap
        grey = colours is not None and bool((colours[0] == colours[1]).all() and (colours[0] == colours[2]).all())
        return "a greyscale image (its palette has only grey)" if grey else ""
    bits = f"{page.bitspersample} bit{'' if page.bitspersample == 1 else 's'} per channel"
    form = {2: "signed numbers, ", 3: "floating-point numbers, "}.get(int(page.sampleformat), "")
    is_usual = not form and page.bitspersample == 8
    if model in _GREY or samples < 3 or samples > 4:
        channels = max([samples, *(image.channels for image in ome_images(page.description or ""))])
        what = f"an image of {channels} channels" if channels > 1 else "a greyscale image"
        return what if is_usual else f"{what} ({form}{bits})"
    return "" if is_usual else f"an image of {form}{bits}"


def damaged_pixels(path: Path, where: str) -> SlideError:
    """The error for pixels of an open slide that OpenSlide cannot decode."""
    page = first_page(path)
    hint = "copy the slide again from its source"
    if page is not None and _COMPRESSION_NAMES.get(page.compression) == "JPEG 2000":
        hint += f"; if it is whole, OpenSlide does not read its JPEG 2000: {conversion(path)}"
    return SlideError(f"{path.name}: damaged image data {where}", hint=hint)


def _unreadable_tiff(path: Path) -> SlideError:
    page = first_page(path)
    if page is None:
        return SlideError(f"{path.name}: not a slide: its TIFF structure is damaged or cut short", hint=COPY_AGAIN)
    if not page.end or page.end > path.stat().st_size:
        return SlideError(f"{path.name}: cut short: some of its pixels are not in the file", hint=COPY_AGAIN)
    if page.kind:
        return colour_error(path, page.kind)
    convert = conversion(path, "flatten" if page.has_alpha else "copy")
    if page.compression not in _READABLE_COMPRESSIONS:
        name = _COMPRESSION_NAMES.get(page.compression, "")
        message = f"{path.name}: its pixels are compressed as {name or f'number {page.compression} of the TIFF list'}"
        hint = convert if name else "save it with JPEG compression in the program that wrote it"
        return SlideError(f"{message}, which OpenSlide does not read in this file", hint=hint)
    if not page.is_tiled:
        message = f"{path.name}: a TIFF in strips, while OpenSlide reads only tiled ones"
        return SlideError(message, hint=convert)
    return SlideError(f"{path.name}: damaged, OpenSlide cannot read it", hint=COPY_AGAIN)
