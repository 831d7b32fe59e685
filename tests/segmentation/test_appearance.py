"""The numbers of tiles: what moves them, and what does not."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from wsplf_cli.errors import SlideError
from wsplf_cli.networks.augment import restain
from wsplf_cli.networks.inference import as_batch
from wsplf_cli.schema import Entry, TissueMask
from wsplf_cli.segmentation import appearance as module
from wsplf_cli.segmentation.appearance import SIDE_PX, TILES, Appearance, describe_slide, describe_tiles, restained
from wsplf_cli.slides.entry import slide_of
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.synthetic.pyramid import write_pyramid


def tissue_tiles(count, *, seed=0, nuclei=0.2):
    """Tiles of pink tissue with blue nuclei of about three pixels."""
    rng = np.random.default_rng(seed)
    tiles = []
    for _ in range(count):
        nucleus = gaussian_filter(rng.random((SIDE_PX, SIDE_PX)), 2)
        is_nucleus = nucleus > np.quantile(nucleus, 1 - nuclei)
        tiles.append(np.where(is_nucleus[..., None], (92, 60, 140), (222, 150, 190)) + rng.normal(0, 5, (1, 1, 3)))
    return np.clip(tiles, 0, 255).astype(np.uint8)


def slide_rgb(seed=0, side_px=1024):
    """Pink tissue with blue nuclei in the middle of white glass."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.random((side_px, side_px)), 2)
    rgb = np.full((side_px, side_px, 3), 243, np.uint8)
    inside = np.s_[150:-150, 150:-150]
    rgb[inside] = np.where(field[inside][..., None] > np.quantile(field, 0.8), (92, 60, 140), (222, 150, 190))
    return rgb


def entry_of(path, side_px=1024, mpp=1.0):
    return Entry("1", path.name, path, side_px, side_px, mpp, "slide")


def described(path, **fields):
    entry = entry_of(path, **fields)
    tissue = tissue_mask(slide_of(entry), mpp_slide=entry.mpp)
    return describe_slide(entry, tissue, mpp=1.0, mpp_slide=entry.mpp)


def test_each_tile_has_a_row_in_each_aspect():
    looks = describe_tiles(tissue_tiles(3))
    assert (looks.colour.shape, looks.sharpness.shape, looks.texture.shape) == ((3, 6), (3, 4), (3, 256))
    assert {array.dtype for array in (looks.colour, looks.sharpness, looks.texture)} == {np.dtype(np.float32)}
    assert all(np.isfinite(array).all() for array in (looks.colour, looks.sharpness, looks.texture))


def test_colour_is_the_density_and_the_ratios_of_dark_and_of_pale_tissue():
    tile = np.full((1, SIDE_PX, SIDE_PX, 3), (222, 150, 190), np.uint8)
    tile[:, :64] = (92, 60, 140)
    dark, pale = (-np.log10((np.array(rgb) + 1) / 256) for rgb in ((92, 60, 140), (222, 150, 190)))
    (strength_dark, strength_pale, *ratios) = describe_tiles(tile).colour[0]
    assert strength_dark == pytest.approx(np.log(dark.mean()), abs=0.02)
    assert strength_pale == pytest.approx(np.log((0.2 / 0.7 * dark + 0.5 / 0.7 * pale).mean()), abs=0.02)
    assert ratios[:2] == pytest.approx(np.log(dark[[0, 2]] / dark[1]), abs=0.02)


def test_a_tile_without_glass_pixels_or_of_one_colour_is_described_too():
    assert np.isfinite(describe_tiles(np.full((1, SIDE_PX, SIDE_PX, 3), 100, np.uint8)).colour).all()


def test_tiles_with_hardly_any_tissue_are_left_out():
    tiles = np.full((3, SIDE_PX, SIDE_PX, 3), 250, np.uint8)
    tiles[1] = tissue_tiles(1)[0]
    assert len(describe_tiles(tiles)) == 1
    empty = describe_tiles(tiles[:1])
    assert (empty.colour.shape, empty.sharpness.shape, empty.texture.shape) == ((0, 6), (0, 4), (0, 256))


def test_blur_moves_the_sharpness_and_the_stain_moves_the_colour():
    tiles = tissue_tiles(6)
    plain = describe_tiles(tiles)
    blurred = describe_tiles(np.stack([gaussian_filter(tile, (1.5, 1.5, 0)) for tile in tiles]))
    stained = describe_tiles(np.clip(256 * (tiles / 256) ** (1.3, 1.0, 0.7), 0, 255).astype(np.uint8))

    def moved(looks: Appearance, aspect: str) -> float:
        return float(np.abs(getattr(looks, aspect).mean(axis=0) - getattr(plain, aspect).mean(axis=0)).max())

    assert moved(blurred, "sharpness") > 0.5 > 0.2 > moved(stained, "sharpness")
    assert moved(stained, "colour") > 0.2
    assert (blurred.sharpness[:, 0] < plain.sharpness[:, 0]).all(), "the finest structures are gone"


def test_a_slide_has_the_same_tiles_each_time_and_no_more_than_it_needs(tmp_path):
    write_pyramid(tmp_path / "a.tif", slide_rgb(), mpp=1.0)
    first, again = described(tmp_path / "a.tif"), described(tmp_path / "a.tif")
    assert len(first) == TILES
    np.testing.assert_array_equal(first.texture, again.texture)


def test_the_same_tissue_at_twice_the_pixels_looks_the_same_and_at_a_false_pixel_size_does_not(tmp_path):
    rgb = slide_rgb()
    write_pyramid(tmp_path / "a.tif", rgb, mpp=1.0, quality=95)
    write_pyramid(tmp_path / "fine.tif", rgb.repeat(2, axis=0).repeat(2, axis=1), mpp=0.5, quality=95)
    coarse, fine, false = (
        described(tmp_path / "a.tif"),
        described(tmp_path / "fine.tif", side_px=2048, mpp=0.5),
        described(tmp_path / "fine.tif", side_px=2048, mpp=1.0),
    )
    means = [looks.sharpness.mean(axis=0) for looks in (coarse, fine, false)]
    assert np.abs(means[0] - means[1])[1:].max() < 0.15, "all scales but the finest, which resampling smooths"
    assert np.abs(means[0] - means[2]).max() > 0.3


def test_a_slide_without_tissue_has_no_tile_and_one_that_is_gone_is_an_error(tmp_path):
    write_pyramid(tmp_path / "a.tif", np.full((512, 512, 3), 243, np.uint8), mpp=1.0)
    entry = entry_of(tmp_path / "a.tif", side_px=512)
    none = TissueMask(np.zeros((64, 64), bool), 8.0)
    assert len(describe_slide(entry, none, mpp=1.0, mpp_slide=1.0)) == 0
    gone = Entry("1", "gone.tif", tmp_path / "gone.tif", 512, 512, 1.0, "slide")
    with pytest.raises(SlideError, match="not found"):
        describe_slide(gone, none, mpp=1.0, mpp_slide=1.0)


def test_the_network_is_built_once_in_a_process():
    assert module._network() is module._network()
    assert not module._network().training


def test_building_the_network_draws_none_of_the_random_numbers_of_a_training():
    before = torch.get_rng_state()
    module._network.__wrapped__()
    assert torch.equal(torch.get_rng_state(), before)


def test_colour_is_stained_anew_as_the_pixels_are():
    tiles = tissue_tiles(12)
    colour = describe_tiles(tiles).colour
    anew = restained(colour, draws=3, seed=4)
    assert (anew.shape, anew.dtype) == ((3, 12, 6), np.float32)
    side = np.concatenate(list(tiles))[None]  # one image: all tiles are stained alike
    generator = torch.Generator().manual_seed(4)
    pixels = restain(as_batch(side).expand(3, -1, -1, -1), generator).permute(0, 2, 3, 1).mul(255).round().byte()
    for of_features, of_pixels in zip(anew, pixels.numpy(), strict=True):
        described = describe_tiles(of_pixels.reshape(tiles.shape)).colour
        assert np.abs(described - colour).max() > 0.1
        assert of_features == pytest.approx(described, abs=0.06)
    assert np.array_equal(anew, restained(colour, draws=3, seed=4))
