import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from shapely import box

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import Entry, Step
from wsplf_cli.slides.entry import choose_pixel_size, entry_slide
from wsplf_cli.slides.open import open_slide, slide_for
from wsplf_cli.slides.properties import mean_mpp
from wsplf_cli.synthetic import pyramid

WIDTH, HEIGHT = 901, 603


def write_pyramid(path, pixels, *, mpp=0.5, levels=3):
    """Tiled TIFF; every level is one more page marked as a reduced image, which is what OpenSlide takes for a level."""
    with tifffile.TiffWriter(path) as writer:
        for level in range(levels):
            step = 2**level
            rows, columns = pixels.shape[0] // step, pixels.shape[1] // step
            blocks = pixels[: rows * step, : columns * step].reshape(rows, step, columns, step, 3)
            writer.write(
                np.round(blocks.mean(axis=(1, 3))).astype(np.uint8),
                tile=(128, 128),
                photometric="rgb",
                compression="deflate",
                subfiletype=int(level > 0),
                resolution=None if mpp is None else tuple(1e4 / (side * step) for side in np.broadcast_to(mpp, 2)),
                resolutionunit=None if mpp is None else "CENTIMETER",
            )
    return path


@pytest.fixture(scope="module")
def ramp():
    """Red rises with x, green with y, so that a colour says where it came from."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x / 4, y / 3, np.full_like(x, 100)], axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def ramp_path(tmp_path_factory, ramp):
    return write_pyramid(tmp_path_factory.mktemp("slides") / "ramp ü.tif", ramp)


def entry_for(path, **changes):
    values = {"width_px0": WIDTH, "height_px0": HEIGHT, "mpp": None, "mpp_source": ""} | changes
    return Entry(id="1", name="ramp", slide_path=path, **values)


def test_a_pyramid_has_its_size_levels_and_mpp(ramp_path):
    with open_slide(ramp_path) as slide:
        assert (slide.width_px0, slide.height_px0) == (WIDTH, HEIGHT)
        assert [(level.width_px, level.height_px) for level in slide.levels] == [(901, 603), (450, 301), (225, 150)]
        assert slide.levels[1].downsample == pytest.approx((901 / 450, 603 / 301))
        assert slide.mpp == pytest.approx(0.5)
        assert slide.mpp_source == "TIFF resolution"


def test_reading_at_level_zero_gives_the_very_pixels(ramp_path, ramp):
    with open_slide(ramp_path) as slide:
        region = slide.read(37, 21, size_px=(300, 200), downsample=1)
    assert np.array_equal(region, ramp[21:221, 37:337])


@pytest.mark.parametrize("downsample", [0.7, 1.3, 2.0, 2.7, 4.1, 7.9])
def test_a_pixel_comes_from_its_exact_place_at_any_scale(ramp_path, downsample):
    x_px0, y_px0, size = 100.3, 50.6, (60, 40)
    with open_slide(ramp_path) as slide:
        region = slide.read(x_px0, y_px0, size_px=size, downsample=downsample).astype(float)
    x = x_px0 + (np.arange(size[0]) + 0.5) * downsample
    y = y_px0 + (np.arange(size[1]) + 0.5) * downsample
    # integer steps of the ramp hide at most a few level-0 pixels; a drift of one result pixel would show at the end
    assert np.abs(region[..., 0].mean(axis=0) * 4 + 1.5 - x).max() < 4
    assert np.abs(region[..., 1].mean(axis=1) * 3 + 1.0 - y).max() < 4


def test_neighbouring_regions_are_the_same_as_one(ramp_path):
    with open_slide(ramp_path) as slide:
        whole = slide.read(10, 20, size_px=(100, 60), downsample=3.3)
        right = slide.read(10 + 50 * 3.3, 20, size_px=(50, 60), downsample=3.3)
    assert np.abs(whole[:, 50:].astype(int) - right).max() <= 1


def test_a_large_read_is_split_without_a_seam(ramp_path, monkeypatch):
    with open_slide(ramp_path) as slide:
        whole = slide.read(-5, -5, size_px=(200, 120), downsample=4.4)
        monkeypatch.setattr("wsplf_cli.slides.open.MAX_READ_PX", 5000)
        parts = slide.read(-5, -5, size_px=(200, 120), downsample=4.4)
    assert np.abs(whole.astype(int) - parts).max() <= 3


def test_outside_the_slide_is_white(ramp_path, ramp):
    with open_slide(ramp_path) as slide:
        corner = slide.read(-10, -20, size_px=(40, 40), downsample=1)
        far = slide.read(5000, 5000, size_px=(8, 8), downsample=2.5)
    assert (corner[:20] == 255).all()
    assert (corner[:, :10] == 255).all()
    assert np.array_equal(corner[20:, 10:], ramp[:20, :30])
    assert (far == 255).all()


def test_a_thumbnail_covers_the_slide(ramp_path):
    with open_slide(ramp_path) as slide:
        pixels, downsample = slide.thumbnail(100)
    assert pixels.shape == (67, 100, 3)
    assert downsample == pytest.approx(WIDTH / 100)
    assert pixels[0, -1, 0] > 200 > 20 > pixels[0, 0, 0]


def test_screen_resolution_is_not_taken_for_mpp(tmp_path, ramp):
    path = write_pyramid(tmp_path / "screen.tif", ramp, mpp=352.8, levels=1)
    with open_slide(path) as slide:
        assert slide.mpp is None
        assert "not that of a microscope" in slide.mpp_source


def test_missing_foreign_and_broken_files_are_one_clear_line(tmp_path):
    text = tmp_path / "text.svs"
    text.write_bytes(b"II*\0 this is no slide")
    for path, word in [(tmp_path / "absent.svs", "not found"), (text, "not a slide"), (tmp_path, "not found")]:
        with pytest.raises(SlideError, match=word) as caught:
            open_slide(path)
        assert "\n" not in caught.value.message
        assert caught.value.hint


def with_damaged_tile(folder):
    """A slide of four tiles of noise whose last one is damaged."""
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    path = folder / "damaged.tif"
    pyramid.write_pyramid(path, noise, mpp=0.5, levels=1)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[3]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 64)
    return path


def test_threads_that_read_beside_damage_get_their_pixels(tmp_path):
    with open_slide(with_damaged_tile(tmp_path)) as slide:
        corners = [(0, 0), (256, 0), (0, 256), (256, 256)]
        expected = [slide.read(*corner, size_px=(200, 200), downsample=1) for corner in corners[:3]]

        def read(turn):
            corner = corners[turn % 4]
            try:
                return slide.read(*corner, size_px=(200, 200), downsample=1)
            except SlideError:
                return None

        with ThreadPoolExecutor(8) as pool:
            pixels = list(pool.map(read, range(400)))
    for turn, tile in enumerate(pixels):
        if turn % 4 == 3:
            assert tile is None
        else:
            assert np.array_equal(tile, expected[turn % 4])


def test_damage_is_reported_and_other_regions_still_read(tmp_path):
    with open_slide(with_damaged_tile(tmp_path)) as slide:
        with pytest.raises(SlideError, match="damaged"):
            slide.read(256, 256, size_px=(100, 100), downsample=1)
        assert slide.read(0, 0, size_px=(100, 100), downsample=1).std() > 10


def test_the_handle_is_shared_within_a_process_and_bounded(tmp_path, ramp, ramp_path):
    assert slide_for(ramp_path) is slide_for(ramp_path)
    first = slide_for(ramp_path)
    for number in range(5):
        slide_for(write_pyramid(tmp_path / f"{number}.tif", ramp[:64, :64], levels=1))
    assert slide_for(ramp_path) is not first
    assert first.read(0, 0, size_px=(4, 4), downsample=1).shape == (4, 4, 3)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_its_own_handle(ramp_path):
    parent = slide_for(ramp_path)
    child = os.fork()
    if child == 0:
        own = slide_for(ramp_path)
        ok = own is not parent and own.read(5, 5, size_px=(9, 9), downsample=2).shape == (9, 9, 3)
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert slide_for(ramp_path) is parent


def test_the_project_calibration_comes_before_the_slide(ramp_path):
    entry = entry_for(ramp_path, mpp=0.25, mpp_source="QuPath")
    _, pixel_size = entry_slide(entry, mpp_override=3.0)
    assert (pixel_size.mpp, pixel_size.source) == (0.25, "QuPath")
    assert "0.25" in pixel_size.warning
    assert "0.5" in pixel_size.warning


def test_agreeing_calibrations_give_no_warning(ramp_path):
    _, pixel_size = entry_slide(entry_for(ramp_path, mpp=0.51, mpp_source="QuPath"))
    assert pixel_size.warning == ""


def test_one_number_for_oblong_pixels_keeps_their_area(tmp_path, ramp):
    path = write_pyramid(tmp_path / "oblong.tif", ramp, mpp=1.0)
    entry = entry_for(path, mpp=mean_mpp((1.24, 0.62)), mpp_xy=(1.24, 0.62), mpp_source="QuPath")
    pixel_size = entry_slide(entry)[1]
    assert pixel_size.mpp**2 == pytest.approx(1.24 * 0.62)
    assert pixel_size.text == "1.24 x 0.62 (mean 0.8768)"
    assert "1.24 x 0.62 (mean 0.8768) um per pixel, the TIFF resolution 1;" in pixel_size.warning
    square = pixel_size.in_square_pixels(box(0, 0, 100, 200))
    assert square.area == pytest.approx(20_000)
    assert np.array(square.bounds) * pixel_size.mpp == pytest.approx([0, 0, 124, 124])


def test_a_slide_with_oblong_pixels_says_both_sides(tmp_path, ramp):
    path = write_pyramid(tmp_path / "oblong.tif", ramp, mpp=(1.24, 0.62))
    with open_slide(path) as slide:
        assert slide.view_mpp_xy == pytest.approx((1.24, 0.62))
        assert slide.mpp**2 == pytest.approx(1.24 * 0.62)
    with open_slide(path, steps=(Step("rotated", (1,)),)) as slide:
        assert slide.view_mpp_xy == pytest.approx((0.62, 1.24))
    assert entry_slide(entry_for(path))[1].text == "1.24 x 0.62 (mean 0.8768)"


def test_swapped_sides_are_a_disagreement(tmp_path, ramp):
    path = write_pyramid(tmp_path / "square.tif", ramp, mpp=0.5)
    assert entry_slide(entry_for(path, mpp=0.5, mpp_xy=(0.25, 1.0)))[1].warning
    assert not entry_slide(entry_for(path, mpp=0.5, mpp_xy=(0.49, 0.51)))[1].warning


def test_the_slide_says_its_mpp_before_the_override(ramp_path):
    assert entry_slide(entry_for(ramp_path), mpp_override=3.0)[1].mpp == pytest.approx(0.5)


def test_without_any_mpp_the_override_is_asked_for_and_used(tmp_path, ramp):
    path = write_pyramid(tmp_path / "plain.tif", ramp, mpp=None)
    with open_slide(path) as slide:
        with pytest.raises(SlideError) as caught:
            choose_pixel_size(entry_for(path), slide)
        assert "--mpp-override" in caught.value.hint
        assert choose_pixel_size(entry_for(path), slide, mpp_override=0.4).mpp == 0.4


def test_an_entry_whose_slide_has_another_size_is_refused(ramp_path):
    with pytest.raises(SlideError, match=r"901 x 603.*900 x 603"):
        entry_slide(entry_for(ramp_path, width_px0=900))


def test_an_entry_with_a_problem_says_it():
    with pytest.raises(SlideError, match="rotated"):
        entry_slide(entry_for(None, problem="ramp: rotated images are not read"))


class Tall:
    """A stand-in for an OpenSlide handle with bounds, which no writer at hand can make."""

    dimensions = (1000, 800)
    level_dimensions = ((1000, 800), (250, 200))
    level_downsamples = (1.0, 4.0)

    def __init__(self, properties):
        self.properties = properties
        y, x = np.mgrid[:800, :1000]
        whole = np.stack([x // 4, y // 4, x * 0, x * 0 + 255], axis=2).astype(np.uint8)
        self.images = [Image.fromarray(whole), Image.fromarray(whole[2::4, 2::4].copy())]

    def read_region(self, location, level, size):
        x, y = (round(value / self.level_downsamples[level]) for value in location)
        return self.images[level].crop((x, y, x + size[0], y + size[1]))

    def close(self):
        self.images = []


def test_the_origin_is_the_corner_of_the_bounds(monkeypatch):
    names = {"x": "120", "y": "80", "width": "600", "height": "500"}
    properties = {f"openslide.bounds-{key}": value for key, value in names.items()}
    monkeypatch.setattr("wsplf_cli.slides.open._open_handle", lambda path: Tall(properties))
    with open_slide(Path("bounds")) as slide:
        assert (slide.width_px0, slide.height_px0) == (600, 500)
        assert slide.read(8, 12, size_px=(1, 1), downsample=1).tolist() == [[[32, 23, 0]]]
        assert (slide.read(590, 490, size_px=(30, 30), downsample=1)[10:, 10:] == 255).all()
        assert slide.read(280, 120, size_px=(1, 1), downsample=4)[0, 0].tolist() == [100, 50, 0]
    with open_slide(Path("bounds"), crop_to_bounds=False) as slide:
        assert (slide.width_px0, slide.height_px0) == (1000, 800)
        assert slide.read(8, 12, size_px=(1, 1), downsample=1).tolist() == [[[2, 3, 0]]]


def test_points_of_the_file_are_placed_in_the_image(monkeypatch):
    names = {"x": "120", "y": "80", "width": "600", "height": "500"}
    properties = {f"openslide.bounds-{key}": value for key, value in names.items()}
    monkeypatch.setattr("wsplf_cli.slides.open._open_handle", lambda path: Tall(properties))
    points = np.array([[120.0, 80.0], [160.0, 140.0]])
    steps = (Step("cropped", (40, 60, 100, 80)), Step("rotated", (1,)))
    with open_slide(Path("bounds")) as plain, open_slide(Path("bounds"), crop_to_bounds=False) as whole:
        assert plain.from_file(points).tolist() == [[0, 0], [40, 60]]
        assert whole.from_file(points).tolist() == points.tolist()
    with open_slide(Path("bounds"), steps=steps) as turned:
        assert turned.from_file(points)[1].tolist() == [80, 0]


def test_bounds_beyond_the_slide_are_white_there_as_the_size_is_qupaths(monkeypatch):
    names = {"x": "900", "y": "700", "width": "200", "height": "150"}
    properties = {f"openslide.bounds-{key}": value for key, value in names.items()}
    monkeypatch.setattr("wsplf_cli.slides.open._open_handle", lambda path: Tall(properties))
    with open_slide(Path("bounds")) as slide:
        assert (slide.width_px0, slide.height_px0) == (200, 150)
        pixels = slide.read(0, 0, size_px=(200, 150), downsample=1)
    assert (pixels[100:] == 255).all()
    assert (pixels[:, 100:] == 255).all()
    assert pixels[0, 0].tolist() == [225, 175, 0]


def test_bounds_that_make_no_sense_are_left_aside(monkeypatch):
    properties = {f"openslide.bounds-{key}": value for key, value in [("x", "5"), ("y", "nan"), ("width", "x")]}
    monkeypatch.setattr("wsplf_cli.slides.open._open_handle", lambda path: Tall(properties))
    with open_slide(Path("bounds")) as slide:
        assert (slide.width_px0, slide.height_px0) == (1000, 800)


def test_the_bounds_come_before_a_turn_or_crop(monkeypatch):
    names = {"x": "120", "y": "80", "width": "600", "height": "500"}
    properties = {f"openslide.bounds-{key}": value for key, value in names.items()}
    monkeypatch.setattr("wsplf_cli.slides.open._open_handle", lambda path: Tall(properties))
    turned, cropped = Step("rotated", (1,)), Step("cropped", (40, 60, 100, 80))
    with open_slide(Path("bounds")) as plain, open_slide(Path("bounds"), steps=(turned,)) as slide:
        whole = plain.read(0, 0, size_px=(600, 500), downsample=1)
        assert (slide.width_px0, slide.height_px0) == (500, 600)
        assert np.array_equal(slide.read(0, 0, size_px=(500, 600), downsample=1), np.rot90(whole, -1))
    with open_slide(Path("bounds"), steps=(cropped, turned)) as slide:
        assert slide.read(0, 0, size_px=(1, 1), downsample=1).tolist() == [[[160 // 4, 219 // 4, 0]]]
    with open_slide(Path("bounds"), crop_to_bounds=False, steps=(cropped,)) as slide:
        assert slide.read(0, 0, size_px=(1, 1), downsample=1).tolist() == [[[40 // 4, 60 // 4, 0]]]


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".jpg"])
def test_a_plain_picture_is_a_slide_of_one_level(tmp_path, ramp, suffix):
    path = tmp_path / f"picture{suffix}"
    Image.fromarray(ramp).save(path, quality=95)
    with open_slide(path) as slide:
        assert (slide.width_px0, slide.height_px0, len(slide.levels)) == (WIDTH, HEIGHT, 1)
        assert (slide.mpp, slide.mpp_source) == (None, "not in the slide")
        pixels = slide.read(100, 50, size_px=(60, 40), downsample=1)
        corner = slide.read(-10, -10, size_px=(20, 20), downsample=1)
    assert np.abs(pixels.astype(int) - ramp[50:90, 100:160]).max() <= (0 if "n" in suffix.lower() else 12)
    assert (corner[:10] == 255).all()


def test_a_picture_that_cannot_be_read_is_one_clear_line(tmp_path, monkeypatch):
    broken, deep, large = (tmp_path / f"{name}.png" for name in ("broken", "deep", "large"))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(large)
    broken.write_bytes(large.read_bytes()[:60])
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(deep)
    for path, word in [(broken, "damaged or cut short"), (deep, "16 bits"), (large, "64 x 64 pixels")]:
        if path == large:
            monkeypatch.setattr("wsplf_cli.slides.open.MAX_PICTURE_PX", 63)
        with pytest.raises(SlideError, match=word) as caught:
            open_slide(path)
        assert "\n" not in caught.value.message
        assert path.name in caught.value.message
        assert caught.value.hint
