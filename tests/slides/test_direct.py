"""The pixels of a file, read past ``Slide``."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wsplf_cli.errors import SlideError
from wsplf_cli.slides.direct import FilePixels
from wsplf_cli.synthetic.pyramid import write_pyramid


@pytest.fixture
def pixels() -> NDArray[np.uint8]:
    """uint8 [300, 400, 3]; the first two channels are half of x and of y."""
    rows, columns = np.mgrid[:300, :400]
    return np.stack([columns / 2, rows / 2, np.full((300, 400), 100)], axis=2).astype(np.uint8)


def test_a_square_of_a_slide_is_at_its_place_and_white_outside(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    write_pyramid(tmp_path / "a.tif", pixels, mpp=0.5)
    with FilePixels(tmp_path / "a.tif", by_openslide=True, crop_to_bounds=True) as file:
        inside, outside = file.read(100, 200, side_px=20), file.read(390, 290, side_px=20)
    assert np.abs(inside.astype(int) - pixels[200:220, 100:120]).max() <= 4
    assert (outside[10:, 10:] == 255).all()


def test_a_square_of_a_picture_is_as_it_is_stored(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with FilePixels(tmp_path / "a.png", by_openslide=False, crop_to_bounds=True) as file:
        assert np.array_equal(file.read(7, 5, side_px=20), pixels[5:25, 7:27])


@pytest.mark.parametrize(("name", "by_openslide"), [("a.txt", True), ("a.txt", False), ("none.png", False)])
def test_a_file_that_cannot_be_read_is_an_error_of_the_slide(tmp_path: Path, name: str, by_openslide: bool) -> None:
    (tmp_path / "a.txt").write_text("no picture")
    with pytest.raises(SlideError, match="cannot be read to compare"):
        FilePixels(tmp_path / name, by_openslide=by_openslide, crop_to_bounds=True)
