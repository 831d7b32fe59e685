"""Ink is told from stained tissue, whatever the pen and whatever the stain."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage
from shapely import Point

from wsplf_cli.slides.ink import ink_mask
from wsplf_cli.synthetic.ink import INKS, apply_ink, random_pen, ring

MPP = 2.0
SHAPE = (420, 560)
GLASS = 242
EOSIN, HAEMATOXYLIN, RED_CELLS, DAB = (
    np.array(vector) for vector in ((0.07, 0.95, 0.25), (0.65, 0.70, 0.29), (0.06, 0.80, 0.60), (0.27, 0.57, 0.78))
)
#: Opaque lines of any pen.
PAINTS = {
    "black": (10, 10, 10),
    "grey-black": (45, 43, 48),
    "blue": (20, 40, 160),
    "pure blue": (0, 0, 255),
    "midnight blue": (25, 25, 112),
    "navy": (40, 60, 140),
    "light blue": (60, 110, 200),
    "green": (30, 130, 60),
    "pure green": (0, 255, 0),
    "dark green": (10, 80, 45),
    "red": (200, 30, 40),
    "pure red": (255, 0, 0),
    "dark red": (150, 15, 30),
    "orange": (235, 95, 20),
}


def disks(rng, radius_px, spacing_px):
    """A mask of random disks."""
    seeds = rng.random(SHAPE) < 1 / spacing_px**2
    return ndimage.distance_transform_edt(~seeds) <= radius_px


def tissue_disk():
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    return (rows - 210) ** 2 + (columns - 260) ** 2 < 170**2


def picture(density, rng):
    """The 8-bit picture of an optical density [h, w, 3] within the tissue disk."""
    inside = ndimage.gaussian_filter(tissue_disk().astype(float), 1)[..., None]
    light = GLASS * 10 ** (-ndimage.gaussian_filter(density, (0.5, 0.5, 0)) * inside)
    return np.clip(light + rng.normal(0, 1.5, light.shape), 0, 255).astype(np.uint8)


def stained(kind, *, strength=1.0):
    """Tissue of one kind, optical density [h, w, 3], and its random numbers."""
    rng = np.random.default_rng(3)
    fibres = (0.7 + 0.3 * np.sin(np.arange(SHAPE[1]) / 2.3 + 3 * rng.random()))[None, :, None] * np.ones((*SHAPE, 1))
    nuclei = disks(rng, 2.0, 6.0)[..., None]
    cells = disks(rng, 1.8, 4.0)[..., None]
    density = {
        "H&E": 0.35 * fibres * EOSIN + 0.6 * nuclei * HAEMATOXYLIN,
        "muscle": 0.75 * fibres * EOSIN + 0.3 * disks(rng, 2.0, 14.0)[..., None] * HAEMATOXYLIN,
        "lymphocytes": 0.15 * EOSIN + 0.9 * disks(rng, 2.0, 3.5)[..., None] * HAEMATOXYLIN,
        "dark nuclei": 0.3 * EOSIN + 1.6 * disks(rng, 3.0, 7.0)[..., None] * HAEMATOXYLIN,
        "blood": 0.12 * EOSIN + 0.75 * cells * RED_CELLS,
        "DAB": 0.08 * HAEMATOXYLIN + 0.7 * disks(rng, 5.0, 12.0)[..., None] * DAB + 0.5 * nuclei * HAEMATOXYLIN,
        "DAB everywhere": 0.9 * fibres * DAB + 0.5 * nuclei * HAEMATOXYLIN,
        "haematoxylin alone": 0.10 * fibres * HAEMATOXYLIN + 0.45 * nuclei * np.array((0.68, 0.62, 0.30)),
    }[kind]
    return strength * density, rng


def density_of(rgb):
    return np.maximum(-np.log10((rgb.astype(np.float32) + 1) / (GLASS + 1)), 0)


def marks(rgb, colour, *, opacity=1.0):
    """A ring, a line over glass and tissue, and a dot, painted flat; and where they are."""
    stencil = Image.new("L", SHAPE[::-1])
    draw = ImageDraw.Draw(stencil)
    draw.ellipse((150, 110, 370, 310), outline=255, width=16)
    draw.line((20, 380, 300, 395, 540, 300), fill=255, width=16)
    draw.ellipse((500, 40, 540, 80), fill=255)
    where = np.asarray(stencil) > 0
    painted = rgb.copy()
    painted[where] = (opacity * np.array(colour) + (1 - opacity) * rgb[where]).astype(np.uint8)
    return painted, where


STAINS = (
    "H&E",
    "muscle",
    "lymphocytes",
    "dark nuclei",
    "blood",
    "DAB",
    "DAB everywhere",
    "haematoxylin alone",
)


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.4])
@pytest.mark.parametrize("kind", STAINS)
def test_stained_tissue_is_no_ink(kind, strength):
    density, rng = stained(kind, strength=strength)
    assert ink_mask(density_of(picture(density, rng)), mpp=MPP).mean() < 0.002


@pytest.mark.parametrize("pale", [(0.18, 0.16, 0.10), (0.236, 0.208, 0.1), (0.1, 0.3, 0.12), (0.05, 0.5, 0.4)])
def test_an_even_patch_of_a_colour_that_stains_have_is_no_ink(pale):
    rng = np.random.default_rng(0)
    even = np.ones((*SHAPE, 1)) * np.array(pale)
    assert ink_mask(density_of(picture(even, rng)), mpp=MPP).mean() < 0.002


@pytest.mark.parametrize("kind", ["H&E", "muscle", "DAB"])
@pytest.mark.parametrize("paint", PAINTS)
def test_ink_is_found_on_glass_and_across_tissue(paint, kind):
    density, rng = stained(kind)
    rgb, where = marks(picture(density, rng), PAINTS[paint])
    ink = ink_mask(density_of(rgb), mpp=MPP)
    assert ink[where].mean() > 0.98
    assert ink[ndimage.distance_transform_edt(~where) > 10].mean() < 0.01


@pytest.mark.parametrize("paint", ["black", "blue", "green", "red", "pure red", "pure green"])
def test_half_opaque_strokes_are_found(paint):
    density, rng = stained("H&E")
    rgb, where = marks(picture(density, rng), PAINTS[paint], opacity=0.5)
    ink = ink_mask(density_of(rgb), mpp=MPP)
    where[:100, 480:] = False  # a washed-out dot has no shape that tells it from tissue
    assert ink[where].mean() > 0.9
    assert ink[ndimage.distance_transform_edt(~where) > 10].mean() < 0.02


@pytest.mark.parametrize("mpp", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("colour", INKS)
def test_ink_that_filters_light_is_found_at_any_scale(colour, mpp):
    density, rng = stained("H&E")
    rgb = picture(density, rng)
    cover = ring(rng, Point(260, 210).buffer(90), SHAPE, mpp=MPP, width_um=60.0)
    apply_ink(rng, rgb, cover, random_pen(rng, colour), mpp=MPP)
    factor = round(mpp / MPP)
    ink = ink_mask(density_of(np.asarray(Image.fromarray(rgb).reduce(factor))), mpp=mpp)
    found = np.kron(ink, np.ones((factor, factor), bool))[: SHAPE[0], : SHAPE[1]]
    assert found[cover > 0.5].mean() > 0.95


def test_nothing_is_no_ink():
    assert not ink_mask(np.zeros((40, 50, 3), np.float32), mpp=MPP).any()
    assert not ink_mask(np.zeros((1, 1, 3), np.float32), mpp=8.0).any()
