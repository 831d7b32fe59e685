"""Images that QuPath derives from a slide, read from a slide whose pixels say where they are."""

import json
from uuid import uuid4

import numpy as np
import pytest
import tifffile
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.create import create
from wsplf_cli.errors import SlideError
from wsplf_cli.options import CreateOptions, ProjectOptions
from wsplf_cli.schema import Annotation, Entry, Step
from wsplf_cli.slides import transforms as views
from wsplf_cli.slides.entry import entry_slide, slide_of
from wsplf_cli.slides.grid import make_grid, read_tile
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.slides.transforms import View, view_of

WIDTH, HEIGHT = 800, 600
TILT = np.deg2rad(30)
NONE = Step("rotated", (0,))
RIGHT, HALF, LEFT = (Step("rotated", (quarter,)) for quarter in (1, 2, 3))
MIRROR, UPSIDE = Step("flipped", (1, 0)), Step("flipped", (0, 1))
CROP = Step("cropped", (120, 70, 410, 300))
TALL = Step("cropped", (100, 400, 420, 400))
BGR = Step("reordered", (2, 1, 0))
TILTED = Step(
    "affine", (1.25 * np.cos(TILT), 1.25 * np.sin(TILT), -1.25 * np.sin(TILT), 1.25 * np.cos(TILT), 380.0, -20.0)
)

#: What the same step does to an array [rows, columns, channels].
AS_ARRAY = {
    NONE: lambda pixels: pixels,
    RIGHT: lambda pixels: np.rot90(pixels, -1),
    HALF: lambda pixels: np.rot90(pixels, 2),
    LEFT: lambda pixels: np.rot90(pixels, 1),
    MIRROR: np.fliplr,
    UPSIDE: np.flipud,
    Step("flipped", (1, 1)): lambda pixels: pixels[::-1, ::-1],
    CROP: lambda pixels: pixels[70:370, 120:530],
    BGR: lambda pixels: pixels[..., ::-1],
}
CHAINS = [
    *[(step,) for step in AS_ARRAY],
    (RIGHT, CROP),
    (CROP, RIGHT),
    (MIRROR, LEFT),
    (RIGHT, MIRROR, CROP),
    (CROP, UPSIDE, LEFT),
    (BGR, HALF, BGR, MIRROR),
]


@pytest.fixture(scope="module")
def coded():
    """uint8 [HEIGHT, WIDTH, 3]: red says the column and green the row, in steps of 4; blue tells neighbours apart."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x // 4, y // 4, (x + 2 * y) % 251], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def path(tmp_path_factory, coded):
    """The coded pixels as a pyramid of two levels; the second takes the mean of 2 x 2 pixels."""
    path = tmp_path_factory.mktemp("slides") / "coded.tif"
    half = coded.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        for level, pixels in enumerate((coded, half)):
            resolution = (1e4 / (0.5 * 2**level),) * 2
            writer.write(
                pixels,
                tile=(128, 128),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(level > 0),
                resolution=resolution,
                resolutionunit="CENTIMETER",
            )
    return path


SCANNED = (150, 90)
SCN = """<?xml version="1.0"?>
<scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection sizeX="120000" sizeY="100000"><image>
<pixels sizeX="800" sizeY="600"><dimension r="0" ifd="0" sizeX="800" sizeY="600"/>
<dimension r="1" ifd="1" sizeX="400" sizeY="300"/></pixels>
<view sizeX="80000" sizeY="60000" offsetX="15000" offsetY="9000"/><scanSettings>
<objectiveSettings><objective>20</objective></objectiveSettings>
<illuminationSettings><illuminationSource>brightfield</illuminationSource></illuminationSettings>
</scanSettings></image></collection></scn>"""


@pytest.fixture(scope="module")
def bounded(tmp_path_factory, coded):
    """The coded pixels as the scanned part, at SCANNED, of a larger slide of 1200 x 1000 pixels (Leica's format)."""
    path = tmp_path_factory.mktemp("slides") / "coded.scn"
    half = coded.reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for level, pixels in enumerate((coded, half)):
            writer.write(
                pixels,
                tile=(128, 128),
                photometric="rgb",
                compression="deflate",
                metadata=None,
                description=SCN if level == 0 else None,
                resolution=(1e4 / (0.5 * 2**level),) * 2,
                resolutionunit="CENTIMETER",
            )
    return path


def decoded(pixels):
    """(x, y) on the slide of each pixel, float [rows, columns], right to within two slide pixels."""
    return pixels[..., 0].astype(float) * 4 + 2, pixels[..., 1].astype(float) * 4 + 2


def applied(steps, pixels):
    for step in steps:
        pixels = AS_ARRAY[step](pixels)
    return pixels


@pytest.mark.parametrize("steps", CHAINS, ids=lambda steps: "-".join(f"{s.kind}{s.values}" for s in steps))
def test_turns_mirrors_and_crops_give_the_very_pixels(path, coded, steps):
    expected = applied(steps, coded)
    with open_slide(path, steps=steps) as slide:
        size = slide.width_px0, slide.height_px0
        assert size == expected.shape[1::-1]
        assert np.array_equal(slide.read(0, 0, size_px=size, downsample=1), expected)
        assert np.array_equal(slide.read(31, 17, size_px=(90, 40), downsample=1), expected[17:57, 31:121])
        outside = slide.read(-6, size[1] - 5, size_px=(20, 20), downsample=1)
    assert (outside[:, :6] == 255).all()
    assert (outside[5:] == 255).all()
    assert np.array_equal(outside[:5, 6:], expected[-5:, :14])


@pytest.mark.parametrize("steps", [(), *CHAINS], ids=str)
def test_steps_begin_at_the_scanned_part_of_a_slide(bounded, coded, steps):
    expected = applied(steps, coded)
    with open_slide(bounded, steps=steps) as slide:
        size = slide.width_px0, slide.height_px0
        assert np.array_equal(slide.read(0, 0, size_px=size, downsample=1), expected)
        outside = slide.read(-20, -20, size_px=(30, 30), downsample=1)
    assert (outside[:20] == 255).all()
    assert (outside[:, :20] == 255).all()


def test_steps_begin_at_the_whole_slide_where_it_was_added_without_cropping(bounded, coded):
    whole = np.full((1000, 1200, 3), 255, np.uint8)
    whole[SCANNED[1] : SCANNED[1] + HEIGHT, SCANNED[0] : SCANNED[0] + WIDTH] = coded
    for steps in [(), *CHAINS]:
        expected = applied(steps, whole)
        with open_slide(bounded, crop_to_bounds=False, steps=steps) as slide:
            size = slide.width_px0, slide.height_px0
            assert np.array_equal(slide.read(0, 0, size_px=size, downsample=1), expected)


@pytest.mark.parametrize("steps", [chain for chain in CHAINS if CROP not in chain], ids=str)
@pytest.mark.parametrize("downsample", [2, 4, 2.5, 0.8])
def test_turns_and_mirrors_are_exact_at_any_scale(path, steps, downsample):
    size = (int(WIDTH / downsample), int(HEIGHT / downsample))
    with open_slide(path) as slide:
        whole = slide.read(0, 0, size_px=size, downsample=downsample)
    expected = applied(steps, whole)
    with open_slide(path, steps=steps) as slide:
        turned = slide.read(0, 0, size_px=expected.shape[1::-1], downsample=downsample)
    assert np.array_equal(turned, expected)


@pytest.mark.parametrize("downsample", [1, 2, 3.7])
@pytest.mark.parametrize(
    "steps",
    [(TILTED,), (RIGHT, TILTED), (CROP, TILTED), (TILTED, Step("cropped", (200, 200, 300, 250)), LEFT)],
    ids=["tilted", "turned tilted", "cropped tilted", "tilted cropped turned"],
)
def test_an_affine_image_shows_each_pixel_in_its_place(path, steps, downsample):
    view = view_of(steps, (WIDTH, HEIGHT))
    a, b, c, d, e, f = view.slide_from_view
    corner, size = (view.width_px0 * 0.4, view.height_px0 * 0.4), (30, 25)
    with open_slide(path, steps=steps) as slide:
        assert (slide.width_px0, slide.height_px0) == (view.width_px0, view.height_px0)
        seen_x, seen_y = decoded(slide.read(*corner, size_px=size, downsample=downsample))
    x = corner[0] + (np.arange(size[0]) + 0.5) * downsample
    y = (corner[1] + (np.arange(size[1]) + 0.5) * downsample)[:, None]
    assert np.abs(seen_x - (a * x + b * y + c)).max() < 4.5
    assert np.abs(seen_y - (d * x + e * y + f)).max() < 4.5
    assert abs((seen_x - (a * x + b * y + c)).mean()) < 0.5
    assert abs((seen_y - (d * x + e * y + f)).mean()) < 0.5


def test_even_scaling_by_an_affine_map_is_an_exact_read_of_the_slide(path):
    doubled = Step("affine", (2.0, 0.0, 0.0, 2.0, 10.0, 6.0))
    with open_slide(path) as slide, open_slide(path, steps=(doubled,)) as larger:
        assert (larger.width_px0, larger.height_px0) == (2 * WIDTH, 2 * HEIGHT)
        expected = slide.read(45, 27, size_px=(50, 40), downsample=1)
        assert np.array_equal(larger.read(100, 60, size_px=(50, 40), downsample=2), expected)


def test_a_map_that_is_a_quarter_turn_but_for_rounding_is_exact(path, coded):
    angle = np.pi / 2
    turn = Step("affine", (np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle), float(HEIGHT), 0.0))
    with open_slide(path, steps=(turn,)) as slide:
        size = slide.width_px0, slide.height_px0
        assert size == (HEIGHT, WIDTH)
        assert np.array_equal(slide.read(0, 0, size_px=size, downsample=1), np.rot90(coded, -1))


def test_a_large_warp_is_split_without_a_seam(path, monkeypatch):
    with open_slide(path, steps=(TILTED,)) as slide:
        whole = slide.read(250, 300, size_px=(120, 90), downsample=2)
        monkeypatch.setattr(views, "MAX_WARP_PX", 2000)
        parts = slide.read(250, 300, size_px=(120, 90), downsample=2)
    assert np.abs(whole.astype(int) - parts).max() <= 2


def test_outside_a_warped_image_is_white(path):
    with open_slide(path, steps=(TILTED,)) as slide:
        corner = slide.read(-20, -20, size_px=(30, 30), downsample=1)
    assert (corner[:20] == 255).all()
    assert (corner[:, :20] == 255).all()


def test_mpp_follows_the_scale_and_not_the_turn(path):
    larger = Step("affine", (4.0, 0.0, 0.0, 1.0, 0.0, 0.0))
    for steps, mpp in [((RIGHT, CROP, MIRROR), 0.5), ((TILTED,), 0.4), ((larger,), 0.25)]:
        with open_slide(path, steps=steps) as slide:
            assert slide.mpp == pytest.approx(mpp)


def test_the_size_that_an_affine_image_records_is_taken():
    assert view_of([Step("affine", TILTED.values, size_px0=(11, 12))], (WIDTH, HEIGHT)).width_px0 == 11
    with pytest.raises(ValueError, match="without inverse"):
        view_of([Step("affine", (1.0, 2.0, 2.0, 4.0, 0.0, 0.0))], (WIDTH, HEIGHT))
    assert view_of([], (3, 4)) == View(3, 4)


def entry_for(path, *steps):
    view = view_of(steps, (WIDTH, HEIGHT))
    return Entry("1", "coded", path, view.width_px0, view.height_px0, 0.5 * view.scale, "QuPath", steps=steps)


def test_entries_of_one_slide_share_no_view(path):
    plain, turned = entry_for(path), entry_for(path, RIGHT)
    assert slide_of(plain) is not slide_of(turned)
    assert slide_of(turned) is slide_of(entry_for(path, RIGHT))
    assert entry_slide(turned)[1].warning == ""
    with pytest.raises(SlideError, match=r"600 x 800.*800 x 600"):
        entry_slide(Entry("1", "coded", path, WIDTH, HEIGHT, 0.5, "QuPath", steps=(RIGHT,)))


@pytest.mark.parametrize("steps", [(RIGHT,), (CROP, MIRROR), (LEFT, CROP)], ids=["turned", "cropped", "both"])
def test_tiles_of_a_derived_image_are_read_in_its_coordinates(path, coded, steps):
    slide, pixel_size = entry_slide(entry_for(path, *steps))
    grid = make_grid(
        "1", tissue_mask(slide, mpp_slide=0.5), tile_px=64, mpp=0.5, mpp_slide=pixel_size.mpp, min_tissue=0
    )
    expected = applied(steps, coded)
    for index in range(0, len(grid.xy_px0), 5):
        x, y = grid.xy_px0[index]
        inside = expected[y : y + 64, x : x + 64]
        assert np.array_equal(read_tile(slide, grid, index)[: inside.shape[0], : inside.shape[1]], inside)


# ---- through a project -----------------------------------------------------------------------------------------------


def builder_of(step):
    names = ["ROTATE_NONE", "ROTATE_90", "ROTATE_180", "ROTATE_270"]
    if step.kind == "rotated":
        return {"builderType": "rotated", "rotation": names[int(step.values[0])]}
    if step.kind == "flipped":
        return {"builderType": "flipped", "flip": {(1, 0): "HORIZONTAL", (0, 1): "VERTICAL"}[step.values]}
    if step.kind == "cropped":
        x, y, width, height = step.values
        return {
            "builderType": "cropped",
            "region": {"x": x, "y": y, "width": width, "height": height, "z": 0, "t": 0},
        }
    keys = ("m00", "m10", "m01", "m11", "m02", "m12")
    return {"builderType": "affine", "transform": dict(zip(keys, step.values, strict=True))}


@pytest.fixture
def derived_project(tmp_path, path, bounded, recorder):
    """Makes a project of one entry with the given steps, on one of three slides."""

    def make(kind, *steps):
        create(tmp_path / "project", [path if kind == "plain" else bounded], CreateOptions(), recorder)
        project = tmp_path / "project" / "project.qpproj"
        document = json.loads(project.read_text(encoding="utf-8"))
        builder = document["images"][0]["serverBuilder"]
        if kind == "not cropped":
            builder["args"] = ["--no-crop"]
            builder["metadata"] |= {"width": 1200, "height": 1000}
        for step in steps:
            builder = {**builder_of(step), "builder": builder}
        document["images"][0]["serverBuilder"] = builder
        project.write_text(json.dumps(document), encoding="utf-8")
        return project

    return make


def after(steps, point, size):
    """Where a point of the image before the steps is after them: the other way round than views.py calculates."""
    (x, y), (width, height) = point, size
    for step in steps:
        if step.kind == "rotated":
            quarter = int(step.values[0])
            x, y = [(x, y), (height - y, x), (width - x, height - y), (y, width - x)][quarter]
            width, height = (height, width) if quarter % 2 else (width, height)
        elif step.kind == "flipped":
            x, y = (width - x if step.values[0] else x), (height - y if step.values[1] else y)
        elif step.kind == "cropped":
            x, y = x - step.values[0], y - step.values[1]
            width, height = step.values[2:]
        else:
            m00, m10, m01, m11, m02, m12 = step.values
            x, y = m00 * x + m01 * y + m02, m10 * x + m11 * y + m12
    return x, y


@pytest.mark.parametrize("kind", ["plain", "cropped to its bounds", "not cropped"])
@pytest.mark.parametrize(
    "steps",
    [
        (),
        *[(step,) for step in (NONE, RIGHT, HALF, LEFT, MIRROR, UPSIDE, CROP, TILTED)],
        (LEFT, TALL),
        (CROP, LEFT),
        (MIRROR, RIGHT),
        (CROP, TILTED),
        (LEFT, TALL, UPSIDE),
        (CROP, HALF, TILTED),
    ],
    ids=lambda steps: "-".join(f"{s.kind}{s.values[:1]}" for s in steps),
)
def test_an_annotation_lies_on_the_tissue_it_was_drawn_on(derived_project, kind, steps):
    """Outline a spot of the slide in the entry's coordinates, write it, read it back, and look at its pixels."""
    spot = (300.0, 220.0)  # of the coded pixels; inside the crops
    if kind == "not cropped":
        x, y = after(steps, (spot[0] + SCANNED[0], spot[1] + SCANNED[1]), (1200, 1000))
    else:
        x, y = after(steps, spot, (WIDTH, HEIGHT))
    project = open_project(derived_project(kind, *steps), ProjectOptions())
    shape = box(x - 6, y - 6, x + 6, y + 6)
    project.replace("1", origin="prediction", annotations=[Annotation(uuid4(), shape, "Tumor")])
    reopened = open_project(project.path, ProjectOptions())
    (found,) = reopened.annotations("1")
    slide, _ = entry_slide(reopened.entries()[0])
    left, top, right, _ = found.shape.bounds
    seen_x, seen_y = decoded(slide.read(left, top, size_px=(24, 24), downsample=(right - left) / 24))
    assert abs(seen_x.mean() - spot[0]) < 1
    assert abs(seen_y.mean() - spot[1]) < 1


def test_a_slide_with_bounds_is_recorded_as_qupath_records_it(derived_project):
    metadata = json.loads(derived_project("cropped").read_text(encoding="utf-8"))["images"][0]["serverBuilder"][
        "metadata"
    ]
    assert (metadata["width"], metadata["height"], metadata["magnification"]) == (WIDTH, HEIGHT, 20.0)
    assert [(level["downsample"], level["width"]) for level in metadata["levels"]] == [(1.0, 800), (2.0, 400)]
    assert metadata["preferredTileWidth"] == 256
