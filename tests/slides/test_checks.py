"""Slides that cannot be learned from are refused: no colour, more than 8 bits, transparent, cut short."""

import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from wsplf_cli.errors import SlideError
from wsplf_cli.slides.checks import check_pixels, require_colour
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import tissue_mask

RGB = np.full((512, 512, 3), (240, 242, 238), np.uint8)
RGB[100:400, 100:400] = (200, 100, 150)
GREY = RGB[..., 1]
RAMP = np.tile(np.arange(256, dtype=np.uint16), (3, 1)) * 257
TINTS = np.zeros((3, 256), np.uint16)
TINTS[:, :2] = np.array([(240, 242, 238), (200, 100, 150)]).T * 257


def tiff(path, pixels, photometric="rgb", **layout):
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric=photometric, **layout)
    return path


def with_alpha(value):
    return np.dstack([RGB, np.full(GREY.shape, value, np.uint8)])


def write_png(path, header, rows):
    """A PNG file from its header and its rows."""
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    framed = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(framed))


def check(path):
    with open_slide(path) as slide:
        require_colour(slide)
        check_pixels(slide, slide.thumbnail(256)[0])


def refusal(path):
    with pytest.raises(SlideError) as caught:
        check(path)
    assert caught.value.hint
    return caught.value.message, caught.value.hint


NO_COLOUR = {
    "a greyscale image": ("a.tif", GREY, {"photometric": "minisblack"}),
    "a greyscale image (16 bits per channel)": ("b.tif", GREY.astype(np.uint16) * 257, {"photometric": "minisblack"}),
    "a greyscale image; ": ("c.tif", 255 - GREY, {"photometric": "miniswhite"}),
    "a greyscale image (its palette has only grey)": ("d.tif", GREY, {"photometric": "palette", "colormap": RAMP}),
    "an image of 16 bits per channel": ("e.tif", RGB.astype(np.uint16) * 257, {}),
    "an image of 16 bits per channel; ": ("f.tif", RGB.astype(np.uint16) * 16, {}),
    "an image of floating-point numbers, 32 bits per channel": ("g.tif", RGB.astype(np.float32) / 255, {}),
    "an image of signed numbers, 8 bits per channel": ("h.tif", RGB.astype(np.int8), {}),
    "a CMYK image": ("i.tif", np.dstack([255 - RGB, GREY * 0]), {"photometric": "separated"}),
    "a CIELab image": ("j.tif", RGB, {"photometric": "cielab"}),
    "an image of 5 channels": ("k.tif", np.dstack([RGB, RGB[..., :2]]), {"photometric": "minisblack"}),
    "an image of 3 channels": ("l.ome.tif", np.moveaxis(RGB, -1, 0), {"metadata": {"axes": "CYX"}}),
    "an image of 4 channels (16 bits per channel)": (
        "m.ome.tif",
        np.stack([GREY.astype(np.uint16) * 9] * 4),
        {"metadata": {"axes": "CYX"}},
    ),
    "a colour file in which every pixel is grey": ("n.tif", np.dstack([GREY] * 3), {}),
    "a dark image without light background": ("o.tif", 255 - RGB, {}),
}


@pytest.mark.parametrize("kind", NO_COLOUR)
def test_a_tiff_without_8_bit_colour_is_refused_and_called_what_it_is(tmp_path, kind):
    name, pixels, layout = NO_COLOUR[kind]
    layout = {"photometric": "minisblack"} | layout if name.endswith("ome.tif") else layout
    path = tiff(tmp_path / name, pixels, **layout, **({"planarconfig": "contig"} if "5 channels" in kind else {}))
    message, _ = refusal(path)
    assert message.startswith(f"{name}: {kind.rstrip('; ')}")
    assert message.endswith("wsplf needs a colour image (RGB with 8 bits per channel, brightfield)")


def test_the_hint_is_what_helps(tmp_path):
    hints = {
        name: refusal(tiff(tmp_path / name, pixels, photometric))[1]
        for name, pixels, photometric in [
            ("grey.tif", GREY, "minisblack"),
            ("deep.tif", RGB.astype(np.uint16) * 257, "rgb"),
            ("print.tif", np.dstack([255 - RGB, GREY * 0]), "separated"),
        ]
    }
    assert "take the colour scan" in hints["grey.tif"]
    convert = 'vips colourspace {0}.tif "{0}_pyramid.tif[tile,pyramid,compression=jpeg,Q=90]" srgb'
    assert hints["deep.tif"] == convert.format("deep")
    assert hints["print.tif"] == convert.format("print")
    apart = tiff(tmp_path / "c.ome.tif", np.moveaxis(RGB, -1, 0), "minisblack", metadata={"axes": "CYX"})
    assert refusal(apart)[1] == "if they are red, green and blue: bfconvert -merge c.ome.tif c_rgb.ome.tif"


@pytest.mark.parametrize(
    ("pixels", "photometric", "layout"),
    [
        (RGB, "rgb", {}),
        (with_alpha(255), "rgb", {"extrasamples": ["unassalpha"]}),
        (with_alpha(255), "rgb", {"extrasamples": ["unspecified"]}),
        ((GREY < 200).astype(np.uint8), "palette", {"colormap": TINTS}),
        (np.moveaxis(RGB, -1, 0), "rgb", {"planarconfig": "separate"}),
    ],
)
def test_colour_in_another_form_is_read_as_it_is(tmp_path, pixels, photometric, layout):
    path = tiff(tmp_path / "a.tif", pixels, photometric, **layout)
    check(path)
    with open_slide(path) as slide:
        assert np.array_equal(slide.read(0, 0, size_px=(512, 512), downsample=1), RGB)


def test_black_around_a_scan_is_no_dark_image(tmp_path):
    pixels = np.zeros_like(RGB)
    pixels[:200] = RGB[:200]
    check(tiff(tmp_path / "a.tif", pixels))


def test_an_empty_slide_is_not_taken_for_a_grey_one(tmp_path):
    check(tiff(tmp_path / "white.tif", np.full((512, 512, 3), 255, np.uint8)))
    check(tiff(tmp_path / "glass.tif", np.full((512, 512, 3), 244, np.uint8)))


@pytest.mark.parametrize("extra", ["unassalpha", "unspecified"])
def test_a_transparent_image_is_refused(tmp_path, extra):
    path = tiff(tmp_path / "a.tif", with_alpha(0), extrasamples=[extra])
    assert "transparent by its fourth channel" in refusal(path)[0]


def test_a_slide_whose_pixels_are_cut_off_is_refused(tmp_path):
    path = tiff(tmp_path / "a.tif", np.full((1536, 1536, 3), 240, np.uint8))
    path.write_bytes(path.read_bytes()[:-50_000])
    with open_slide(path) as slide, pytest.raises(SlideError, match="cut short") as caught:
        check_pixels(slide, RGB)  # an overview may come from another level
    assert caught.value.hint == "copy it again from its source"


@pytest.mark.parametrize(
    ("name", "picture", "kind"),
    [
        ("a.png", Image.fromarray(GREY), "a greyscale image"),
        ("a.jpg", Image.fromarray(GREY), "a greyscale image"),
        ("b.png", Image.fromarray(GREY > 200), "a greyscale image"),
        ("c.png", Image.fromarray(np.dstack([GREY, GREY])), "a greyscale image"),
        ("d.png", Image.fromarray(GREY).convert("P"), "a colour file in which every pixel is grey"),
        ("e.png", Image.fromarray(GREY.astype(np.uint16)), "a greyscale image (16 bits per channel)"),
        ("f.jpg", Image.fromarray(RGB).convert("CMYK"), "a CMYK image"),
        ("g.png", None, "an image of 16 bits per channel"),
    ],
)
def test_a_picture_without_colour_is_refused(tmp_path, name, picture, kind):
    if picture is None:  # which Pillow does not write
        rows = b"".join(b"\0" + bytes(64 * 6) for _ in range(64))
        write_png(tmp_path / name, struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0), rows)
    else:
        picture.save(tmp_path / name)
    assert refusal(tmp_path / name)[0].startswith(f"{name}: {kind}; wsplf needs a colour image")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_picture_with_colour_is_taken(tmp_path, mode):
    Image.fromarray(RGB).convert(mode).save(tmp_path / "a.png")
    check(tmp_path / "a.png")


def test_tissue_is_searched_for_on_colour_images_alone(tmp_path):
    with open_slide(tiff(tmp_path / "a.tif", GREY, "minisblack")) as slide:
        with pytest.raises(SlideError, match="needs a colour image"):
            tissue_mask(slide, mpp_slide=0.5)
        with pytest.raises(SlideError, match="needs a colour image"):
            require_colour(slide)


@pytest.mark.shared
def test_real_slides_are_taken(shared_data):
    for name in ("cmu-1-small-region.svs", "tcga-cr-7395-01a-01-ts1.svs", "boxes.tiff"):
        check(shared_data / "slides" / name)
