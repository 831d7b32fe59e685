"""The scripts of this folder that need no project: they run with tiny sizes, on the CPU."""

import subprocess
import sys
from pathlib import Path

import openslide
import pytest

from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import tissue_mask, tissue_um2

FOLDER = Path(__file__).parent


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(FOLDER / script), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=540).stdout


@pytest.mark.slow
def test_a_large_slide_is_a_pyramid_with_the_tissue_that_was_asked_for(tmp_path):
    path = tmp_path / "large.tif"
    run("large_slide.py", str(path), "--side-px", "16384", "--image-px", "512", "--tissue-mm2", "1.5")
    with openslide.OpenSlide(str(path)) as handle:
        assert handle.level_dimensions == ((16384, 16384), (4096, 4096), (1024, 1024))
        assert float(handle.properties[openslide.PROPERTY_NAME_MPP_X]) == pytest.approx(0.25, rel=1e-3)
    with open_slide(path) as slide:
        tissue = tissue_mask(slide, mpp_slide=0.25)
    assert tissue_um2(tissue, mpp_slide=0.25) / 1e6 == pytest.approx(1.5, rel=0.2)
    columns = tissue.mask.any(axis=0).nonzero()[0]
    assert columns[-1] - columns[0] > 0.5 * tissue.mask.shape[1]  # spread over the slide


@pytest.mark.slow
def test_the_gpu_script_measures_every_row_on_a_cpu():
    lines = run("gpu.py", "--device", "cpu", "--quick").splitlines()
    assert lines[1] == "|---|---|"
    table = {line.split(" | ")[0].strip("| "): line.split(" | ")[1] for line in lines[2:]}
    assert "windows/s" in table["CAM, small"]
    assert "windows/s" in table["segmentation, U-Net with small"]
    assert "of a matrix product" in table["SAM tiny, half precision"]
    assert "times as fast" in table["epoch of tuning the decoder of SAM tiny"]
    assert table["peak memory: MIL network of the paper"].startswith("resnet18, 2 tiles of 64 px")
    assert "within the tolerance" in table["difference from the CPU, U-Net with small"]


def test_the_gpu_script_says_which_rows_it_left_out():
    lines = run("gpu.py", "--device", "cpu", "--quick", "--limit-s", "0").splitlines()
    assert len(lines) == 9
    assert all("not measured: out of time" in line for line in lines[2:])
