from dataclasses import replace

import numpy as np
import pytest
import tifffile
from shapely import box

from wsplf_cli.errors import SlideError
from wsplf_cli.schema import Entry, TissueMask
from wsplf_cli.slides import tissue
from wsplf_cli.slides.grid import make_grid, read_tile, read_tiles
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import hide_ink, ink_polygons, ink_um2, tissue_mask, tissue_um2
from wsplf_cli.synthetic.pyramid import write_pyramid

MPP = 2.0
WHITE, PINK, PURPLE = (244, 243, 245), (225, 160, 195), (120, 70, 150)
PENS = {
    "blue": (30, 60, 190),
    "navy": (40, 60, 140),
    "midnight": (25, 25, 112),
    "green": (30, 130, 70),
    "black": (28, 26, 27),
    "red": (200, 30, 40),
    "pure red": (255, 0, 0),
}


def write_slide(path, pixels):
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="deflate")
    return path


def blank(rows=900, columns=1200, colour=WHITE):
    noise = np.random.default_rng(0).integers(-2, 3, (rows, columns, 3))
    return np.clip(np.full((rows, columns, 3), colour) + noise, 0, 255).astype(np.uint8)


def disk_of(pixels, centre, radius, colour):
    y, x = np.ogrid[: pixels.shape[0], : pixels.shape[1]]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    pixels[inside] = colour
    return inside


def mask_of(tmp_path, pixels, **options):
    with open_slide(write_slide(tmp_path / "slide.tif", pixels)) as slide:
        return tissue_mask(slide, mpp_slide=MPP, **options)


def at_level_zero(mask, shape):
    rows, columns = (((np.arange(length) + 0.5) / mask.downsample).astype(int) for length in shape)
    return mask.mask[np.ix_(rows, columns)]


def test_stained_tissue_is_found_where_it_is(tmp_path):
    pixels = blank()
    truth = disk_of(pixels, (400, 450), 250, PINK) | disk_of(pixels, (900, 450), 150, PURPLE)
    found = at_level_zero(mask_of(tmp_path, pixels), truth.shape)
    assert (found & truth).sum() / (found | truth).sum() > 0.97


def test_a_white_slide_has_no_tissue_and_a_full_slide_only_tissue(tmp_path):
    assert not mask_of(tmp_path, blank()).mask.any()
    assert not mask_of(tmp_path, np.full((600, 600, 3), 255, np.uint8)).mask.any()
    full = blank(colour=PINK)
    disk_of(full, (300, 300), 200, PURPLE)
    assert mask_of(tmp_path, full).mask.all()


@pytest.mark.parametrize("pen", PENS)
def test_pen_is_not_tissue(tmp_path, pen):
    pixels = blank()
    tissue = disk_of(pixels, (350, 450), 220, PINK)
    ink = np.zeros_like(tissue)
    ink[100:160, 700:1150] = ink[100:800, 1090:1150] = True
    pixels[ink] = PENS[pen]
    found = at_level_zero(mask_of(tmp_path, pixels), tissue.shape)
    assert not found[ink].any()
    assert found[tissue].mean() > 0.97


def test_pure_haematoxylin_is_tissue_and_no_pen(tmp_path):
    pixels = blank()
    tissue = disk_of(pixels, (500, 450), 300, (148, 158, 202))
    assert at_level_zero(mask_of(tmp_path, pixels), tissue.shape)[tissue].mean() > 0.97


def test_a_tinted_background_is_not_tissue(tmp_path):
    pixels = blank(colour=(240, 236, 224))
    tissue = disk_of(pixels, (500, 450), 200, PINK)
    found = at_level_zero(mask_of(tmp_path, pixels), tissue.shape)
    assert found[~tissue].mean() < 0.02
    assert found[tissue].mean() > 0.97


def test_small_specks_and_small_holes_go(tmp_path):
    pixels = blank()
    tissue = disk_of(pixels, (500, 450), 300, PINK)
    disk_of(pixels, (500, 450), 25, WHITE)
    disk_of(pixels, (1100, 100), 15, PURPLE)
    found = at_level_zero(mask_of(tmp_path, pixels), tissue.shape)
    assert found[450, 500]
    assert not found[60:140, 1060:1140].any()


def test_tissue_area_is_in_square_micrometres(tmp_path):
    pixels = blank()
    disk_of(pixels, (600, 450), 300, PINK)
    assert tissue_um2(mask_of(tmp_path, pixels), mpp_slide=MPP) == pytest.approx(np.pi * 600**2, rel=0.02)


def test_a_tiny_slide_still_has_a_mask(tmp_path):
    mask = mask_of(tmp_path, blank(16, 16, PINK))
    assert mask.mask.shape == (16, 16)
    assert mask.mask.all()


@pytest.fixture
def full():
    return TissueMask(np.ones((90, 120), bool), 10.0)


def test_tiles_cover_the_slide_without_gaps(full):
    grid = make_grid("1", full, tile_px=100, mpp=1.13, mpp_slide=0.5, min_tissue=0)
    assert grid.side_px0 == pytest.approx(226)
    covered = np.zeros((1200, 1500), int)
    for x, y in grid.xy_px0:
        covered[y : y + 226, x : x + 226] += 1
    assert (covered[:900, :1200] == 1).mean() > 0.99
    assert (covered[:900, :1200] > 0).all()
    assert grid.xy_px0.dtype == np.int32
    assert grid.tissue.dtype == np.float32


def test_overlap_moves_tiles_closer(full):
    apart = make_grid("1", full, tile_px=100, mpp=1, mpp_slide=0.5, min_tissue=0)
    close = make_grid("1", full, tile_px=100, mpp=1, mpp_slide=0.5, min_tissue=0, overlap=0.5)
    assert np.diff(np.unique(apart.xy_px0[:, 0])).tolist() == [200] * 5
    assert np.diff(np.unique(close.xy_px0[:, 0])).tolist() == [100] * 10
    assert close.xy_px0[:, 1].max() + 200 >= 900


def test_tissue_share_is_exact_to_parts_of_a_mask_pixel():
    mask = np.zeros((60, 60), bool)
    mask[:, :25] = True
    grid = make_grid("1", TissueMask(mask, 7.0), tile_px=100, mpp=1, mpp_slide=1, min_tissue=0.0)
    first_row = grid.xy_px0[:, 1] == 0
    assert grid.xy_px0[first_row, 0].tolist() == [0, 100]
    assert grid.tissue[first_row].tolist() == pytest.approx([1.0, 0.75])


def test_tiles_with_too_little_tissue_are_left_out():
    mask = np.zeros((100, 100), bool)
    mask[:30, :100] = True
    grid = make_grid("1", TissueMask(mask, 10.0), tile_px=100, mpp=2, mpp_slide=1, min_tissue=0.6)
    assert set(grid.xy_px0[:, 1].tolist()) == {0}
    assert (grid.tissue >= 0.6).all()


def test_no_tissue_is_said_loudly(full):
    with pytest.raises(SlideError, match="no tissue"):
        make_grid("1", TissueMask(np.zeros((9, 9), bool), 1.0), tile_px=64, mpp=1, mpp_slide=1, min_tissue=0.1)
    speck = TissueMask(np.pad(np.ones((2, 2), bool), 50), 10.0)
    with pytest.raises(SlideError, match="no tile has 50%") as caught:
        make_grid("1", speck, tile_px=200, mpp=1, mpp_slide=1, min_tissue=0.5)
    assert "min-tissue" in caught.value.hint


def test_a_tile_shows_its_place_on_the_slide(tmp_path):
    pixels = blank(512, 512)
    pixels[200:400, 100:300] = PURPLE
    path = write_slide(tmp_path / "slide.tif", pixels)
    entry = Entry("1", "slide", path, 512, 512, MPP, "QuPath")
    mask = TissueMask(np.ones((64, 64), bool), 8.0)
    grid = make_grid("1", mask, tile_px=50, mpp=4.0, mpp_slide=MPP, min_tissue=0)
    index = grid.xy_px0.tolist().index([100, 200])
    with open_slide(path) as slide:
        tile = read_tile(slide, grid, index)
    assert tile.shape == (50, 50, 3)
    assert np.abs(tile[2:-2, 2:-2].astype(int) - PURPLE).max() <= 1
    tiles = read_tiles(entry, grid, [0, index])
    assert np.array_equal(tiles[1], tile)
    assert tiles[0].mean() > 235


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "damaged.tif"
    noise = np.random.default_rng(0).integers(0, 120, (256, 512, 3), dtype=np.uint8)
    noise[..., 1] //= 3
    write_pyramid(path, noise, mpp=MPP, levels=1)
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.pages[0].dataoffsets[1]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * 64)
    return Entry("1", "damaged", path, 512, 256, MPP, "QuPath")


def test_a_damaged_tile_is_white_and_logged(damaged, caplog):
    grid = make_grid("1", TissueMask(np.ones((32, 64), bool), 8.0), tile_px=128, mpp=MPP, mpp_slide=MPP, min_tissue=0.5)
    tiles = read_tiles(damaged, grid, np.arange(8))
    white = (tiles == 255).all(axis=(1, 2, 3))
    assert white.tolist() == [False, False, True, True] * 2
    assert "damaged" in caplog.text
    with pytest.raises(SlideError, match="damaged"):
        read_tiles(damaged, grid, [3])


def test_a_slide_that_cannot_be_read_at_all_has_no_mask(damaged):
    with open_slide(damaged.slide_path) as slide, pytest.raises(SlideError, match="damaged"):
        tissue_mask(slide, mpp_slide=MPP)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["D00", "D03", "D06"])
def test_the_tissue_of_real_slides_is_found(shared_data, name):
    with open_slide(shared_data / "glas-dev" / "slides" / f"{name}.tif") as slide:
        mask = tissue_mask(slide, mpp_slide=0.62)
        thumbnail, _ = slide.thumbnail(mask.mask.shape[1])
    glass = np.abs(thumbnail.astype(int) - 241).max(axis=2) < 3
    assert 0.15 < mask.mask.mean() < 0.45
    assert mask.mask[glass[: mask.mask.shape[0]]].mean() < 0.05


def test_ink_is_known_with_its_outlines_and_area(tmp_path):
    pixels = blank()
    disk_of(pixels, (350, 450), 220, PINK)
    assert mask_of(tmp_path, pixels).ink is None
    assert ink_polygons(mask_of(tmp_path, pixels)) == []
    pixels[430:480, 50:1150] = PENS["blue"]
    mask = mask_of(tmp_path, pixels)
    assert mask.ink.shape == mask.mask.shape
    assert not (mask.ink & mask.mask).any()
    assert ink_um2(mask, mpp_slide=MPP) == pytest.approx(50 * 1100 * MPP**2, rel=0.35)
    (outline,) = ink_polygons(mask)
    assert outline.buffer(1).contains(box(50, 430, 1150, 480))
    assert outline.area * MPP**2 == pytest.approx(ink_um2(mask, mpp_slide=MPP), rel=0.03)


def test_a_caller_that_does_not_mind_ink_gets_it_as_its_colour_says(tmp_path):
    pixels = blank()
    pixels[430:480, 50:1150] = PENS["blue"]
    slide = open_slide(write_slide(tmp_path / "s.tif", pixels))
    mask = tissue_mask(slide, mpp_slide=MPP, find_ink=False)
    assert mask.ink is None
    assert tissue_um2(mask, mpp_slide=MPP) == pytest.approx(50 * 1100 * MPP**2, rel=0.1)


def test_networks_see_white_where_ink_lies(full):
    ink = np.zeros((90, 120), bool)
    ink[:, 42:45] = True  # from x = 420 to 450
    pixels = np.full((30, 100, 3), 77, np.uint8)
    hidden = hide_ink(pixels, replace(full, ink=ink), origin_px0=(380.0, -20.0), downsample=2.0)
    assert (hidden[:10] == 77).all()  # outside the slide
    assert (hidden[10:, 20:35] == 255).all()
    assert (hidden[10:, :20] == 77).all()
    assert (hidden[10:, 35:] == 77).all()
    assert (pixels == 77).all()
    assert hide_ink(pixels, full, origin_px0=(0.0, 0.0), downsample=2.0) is pixels


def test_tiles_are_white_where_ink_lies(tmp_path):
    path = write_slide(tmp_path / "slide.tif", blank(512, 512, colour=PURPLE))
    entry = Entry("1", "slide", path, 512, 512, MPP, "QuPath")
    ink = np.zeros((64, 64), bool)
    ink[:, 20:30] = True
    mask = TissueMask(np.ones((64, 64), bool), 8.0, ink=ink)
    grid = make_grid("1", mask, tile_px=64, mpp=8.0, mpp_slide=MPP, min_tissue=0)
    tiles = read_tiles(entry, grid, [0], mask=mask)
    assert (tiles[0, :, 40:60] == 255).all()
    assert tiles[0, :, :40].max() < 200
    assert read_tiles(entry, grid, [0]).max() < 200


@pytest.fixture
def found(monkeypatch):
    """How often tissue was searched for."""
    calls = []
    find = tissue._find_tissue
    monkeypatch.setattr(tissue, "_find_tissue", lambda *args, **named: calls.append(named) or find(*args, **named))
    return calls


def test_the_mask_of_a_slide_is_found_once_with_its_ink(tmp_path, found):
    pixels = blank()
    disk_of(pixels, (350, 450), 220, PINK)
    pixels[100:160, 700:1150] = PENS["blue"]
    path = write_slide(tmp_path / "slide.tif", pixels)
    masks = []
    for _ in range(2):
        with open_slide(path) as slide:
            masks.append(tissue_mask(slide, mpp_slide=MPP))
    first, again = masks
    assert len(found) == 1
    assert (first.mask == again.mask).all()
    assert (first.ink == again.ink).all()
    assert first.downsample == again.downsample


def test_a_kept_mask_is_not_taken_for_another_file_scale_or_question(tmp_path, found):
    pixels = blank()
    path = write_slide(tmp_path / "slide.tif", pixels)
    with open_slide(path) as slide:
        tissue_mask(slide, mpp_slide=MPP)
        tissue_mask(slide, mpp_slide=MPP, mpp=16.0)
        tissue_mask(slide, mpp_slide=MPP, find_ink=False)
    disk_of(pixels, (350, 450), 220, PINK)
    with open_slide(write_slide(path, pixels)) as slide:
        assert tissue_mask(slide, mpp_slide=MPP).mask.any()
    with open_slide(path, crop_to_bounds=False) as slide:
        tissue_mask(slide, mpp_slide=MPP)
    assert len(found) == 5


def test_a_mask_of_a_slide_that_could_not_be_read_everywhere_is_not_kept(tmp_path, found, monkeypatch):
    with open_slide(write_slide(tmp_path / "slide.tif", blank())) as slide:
        read = slide.read

        def damaged(x_px0, y_px0, **named):
            if y_px0 > 0:
                raise SlideError("damaged")
            return read(x_px0, y_px0, **named)

        monkeypatch.setattr(slide, "read", damaged)
        monkeypatch.setattr(tissue, "STRIP_ROWS", 64)
        tissue_mask(slide, mpp_slide=MPP)
        tissue_mask(slide, mpp_slide=MPP)
    assert len(found) == 2
