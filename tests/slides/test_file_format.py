"""What the user is told of files that cannot be opened: our words for each kind, and what to do."""

import io
import warnings

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsplf_cli.errors import SlideError
from wsplf_cli.slides.file_format import first_page
from wsplf_cli.slides.open import open_slide

TILED = {"tile": (128, 128), "photometric": "rgb"}
LIBRARY_WORDS = ("decompression", "DOS", "TIFFRGBA", "Unsupported", "tag:", "identify image", "marker", "libtiff")


@pytest.fixture(scope="module")
def rgb():
    pixels = np.full((512, 512, 3), (240, 242, 238), np.uint8)
    pixels[100:400, 100:400] = (200, 100, 150)
    return pixels


def said_of(path):
    """Message and hint for a file that cannot be opened; both are one line without a library's words."""
    with pytest.raises(SlideError) as caught:
        open_slide(path)
    message, hint = caught.value.message, caught.value.hint
    assert message.startswith(f"{path.name}: ")
    assert hint
    assert "\n" not in message + hint
    assert not [word for word in LIBRARY_WORDS if word in message]
    return message, hint


def error_of(path):
    """What ``open_slide`` raises; None for a file that it opens."""
    try:
        open_slide(path).close()
    except SlideError as error:
        return error
    return None


def encoded(pixels, kind):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("a.svs", b"", "the file is empty", "copy it again"),
        ("a.png", b"", "the file is empty", "copy it again"),
        ("a.tif", bytes(5000), "only zeros", "copy it again"),
        ("a.svs", b"<!DOCTYPE html><html>404</html>", "a web page", "download"),
        ("a.svs", b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS", "git lfs pull"),
        (
            "a.czi",
            b"ZISRAWFILE" + bytes(100),
            "a CZI file",
            "bfconvert -series 0 -tilex 512 -tiley 512 a.czi a.ome.tif",
        ),
        ("a.dcm", bytes(128) + b"DICM" + bytes(500), "a DICOM file, not a slide", "pyramidal TIFF"),
        ("a.svs", b"%PDF-1.7", "a PDF file, not a slide", "pyramidal TIFF"),
        ("a.jpg", b"no picture at all", "not a slide", "pyramidal TIFF"),
        ("a.svs", b"no slide", "not a slide", "pyramidal TIFF"),
        ("a.mrxs", b"\xff\xd8\xff\xe0 a thumbnail", "the folder with its pixels", "put the folder a of the scanner"),
        ("a.tif", b"II*\0\x08\0\0\0", "damaged or cut short", "copy it again"),
        ("a.tif", b"II*\0\xff\xff\xff\x7f", "damaged or cut short", "copy it again"),
        ("a.tif", b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0" + b"\xff" * 64, "damaged or cut short", "copy it again"),
    ],
)
def test_a_file_that_is_no_slide_is_called_what_it_is(tmp_path, name, content, message, hint):
    path = tmp_path / name
    path.write_bytes(content)
    said = said_of(path)
    assert message in said[0]
    assert hint in said[1]


def test_a_jpeg_2000_file_is_to_be_converted(tmp_path):
    path = tmp_path / "Case 7.jp2"
    path.write_bytes(b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100))
    message, hint = said_of(path)
    assert message == "Case 7.jp2: a JPEG 2000 file, which OpenSlide does not read"
    assert hint == 'vips tiffsave "Case 7.jp2" "Case 7_pyramid.tif" --tile --pyramid --compression jpeg --Q 90'
    path.write_bytes(b"\xff\x4f\xff\x51" + bytes(100))
    assert "JPEG 2000" in said_of(path)[0]


@pytest.mark.parametrize(
    ("compression", "message", "hint"),
    [(34712, "compressed as JPEG 2000", "vips tiffsave"), (52479, "number 52479", "the program that wrote it")],
)
def test_a_compression_that_openslide_does_not_read_is_named(tmp_path, rgb, compression, message, hint):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rgb, **TILED)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(compression)
    said = said_of(path)
    assert message in said[0]
    assert hint in said[1]


def test_a_tiff_in_strips_is_to_be_converted(tmp_path, rgb):
    path = tmp_path / "flat.tif"
    tifffile.imwrite(path, rgb, photometric="rgb")
    message, hint = said_of(path)
    assert "in strips" in message
    assert hint == "vips tiffsave flat.tif flat_pyramid.tif --tile --pyramid --compression jpeg --Q 90"


def test_the_fourth_channel_is_left_out_of_the_conversion(tmp_path, rgb, monkeypatch):
    with_alpha = np.dstack([rgb, np.full(rgb.shape[:2], 255, np.uint8)])
    tifffile.imwrite(tmp_path / "a.tif", with_alpha, photometric="rgb", extrasamples=["unassalpha"])
    Image.fromarray(with_alpha).save(tmp_path / "b.png")
    monkeypatch.setattr("wsplf_cli.slides.open.MAX_PICTURE_PX", 1000)
    flatten = 'vips flatten {} "{}_pyramid.tif[tile,pyramid,compression=jpeg,Q=90]" --background 255'
    assert said_of(tmp_path / "a.tif")[1] == flatten.format("a.tif", "a")
    assert said_of(tmp_path / "b.png")[1] == flatten.format("b.png", "b")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_picture_too_large_for_memory_is_to_be_converted(tmp_path, suffix):
    path = tmp_path / f"large{suffix}"
    Image.new("RGB", (14_000, 14_000)).save(path, quality=10, compress_level=1)
    message, hint = said_of(path)
    assert "a flat picture of 14000 x 14000 pixels" in message
    assert hint.startswith(f"vips tiffsave large{suffix} large_pyramid.tif --tile --pyramid")
    Image.new("RGB", (10_000, 9_500)).save(path, quality=10, compress_level=1)  # Pillow only warns of this size
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "10000 x 9500 pixels" in said_of(path)[0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_that_is_cut_short_or_changed_is_damaged(tmp_path, rgb, kind):
    content = encoded(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8), kind)
    path = tmp_path / ("a.png" if kind == "PNG" else "a.jpg")
    for length in range(3, len(content) - 40, max(1, len(content) // 60)):
        path.write_bytes(content[:length])
        assert "damaged or cut short" in said_of(path)[0] or length < 4
    rng = np.random.default_rng(1)
    for _ in range(60):  # some of these can still be read
        changed = bytearray(content)
        changed[int(rng.integers(8, 200))] ^= int(rng.integers(1, 255))
        path.write_bytes(changed)
        error = error_of(path)
        assert error is None or error.hint


def test_a_file_under_another_suffix_is_to_be_renamed(tmp_path, rgb):
    (tmp_path / "a.tif").write_bytes(encoded(rgb, "PNG"))
    (tmp_path / "b.svs").write_bytes(encoded(rgb, "JPEG"))
    tifffile.imwrite(tmp_path / "c.tif", rgb, **TILED)
    (tmp_path / "c.tif").rename(tmp_path / "c.jpeg")
    assert said_of(tmp_path / "a.tif") == ("a.tif: a PNG file under another suffix", "rename it to a.png")
    assert said_of(tmp_path / "b.svs")[1] == "rename it to b.jpg"
    assert said_of(tmp_path / "c.jpeg") == ("c.jpeg: a TIFF file under another suffix", "rename it to c.tif")


def test_damaged_tiffs_are_one_line_whatever_is_changed(tmp_path, rgb, caplog):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rgb, **TILED)
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):  # some of these can still be opened
        changed = bytearray(content[: int(rng.integers(8, 600))] if rng.random() < 0.3 else content)
        for at in rng.integers(4, min(len(changed), 400), 3):
            changed[at] = int(rng.integers(0, 256))
        path.write_bytes(changed)
        first_page(path)
        error = error_of(path)
        assert error is None or error.message.startswith("a.tif: ")
        assert error is None or not [word for word in LIBRARY_WORDS if word in error.message]
    assert not [record for record in caplog.records if record.name == "tifffile"]


def test_jpeg_2000_pixels_that_cannot_be_decoded_are_to_be_copied_or_converted(tmp_path, rgb):
    path = tmp_path / "a.svs"
    description = "Aperio Image Library v1\r\n512x512 [0,0 512x512] (128x128) |AppMag = 20|MPP = 0.5"
    tifffile.imwrite(path, rgb, **TILED, description=description, metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages.first.tags["Compression"].overwrite(33005)
    with pytest.raises(SlideError, match="damaged") as caught, open_slide(path) as slide:
        slide.read(0, 0, size_px=(64, 64), downsample=1)
    assert not [word for word in LIBRARY_WORDS if word in caught.value.message]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "words"),
    [("broken.svs", "not a slide"), ("unopenable.tiff", "number 52479")],
)
def test_openslides_own_examples_are_called_what_they_are(shared_data, name, words):
    assert words in said_of(shared_data / "slides" / name)[0]
