import numpy as np
import openslide
import pytest
from PIL import Image

from wsplf_cli.synthetic.pyramid import write_pyramid


def pixels(path):
    with openslide.OpenSlide(str(path)) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))


@pytest.mark.parametrize("size", [(700, 520), (256, 256), (100, 30)])
def test_pyramid_is_read_by_openslide_with_its_mpp_levels_and_pixels(tmp_path, size):
    width, height = size
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([120 + 60 * np.sin(x / 40), 120 + 60 * np.cos(y / 30), 0 * x + 90], axis=2).astype(np.uint8)
    write_pyramid(tmp_path / "a.tif", rgb, mpp=0.73, quality=92)
    with openslide.OpenSlide(str(tmp_path / "a.tif")) as slide:
        assert slide.dimensions == size
        assert float(slide.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.73, rel=1e-4)
        assert slide.level_dimensions[1] == (-(-width // 4), -(-height // 4))
        assert slide.level_count == 3
        coarse = np.asarray(slide.read_region((0, 0), 1, slide.level_dimensions[1]).convert("RGB"))
    assert np.abs(pixels(tmp_path / "a.tif").astype(int) - rgb).mean() < 3
    assert np.abs(coarse.astype(int) - np.asarray(Image.fromarray(rgb).reduce(4))).mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
