"""TorchScript: the network's probabilities for images of any size, from a file that needs nothing else."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from exported_models import SIDES_PX, described, images, probabilities, random_sam, random_unet
from torch import nn

from wsplf_cli.errors import ConfigError
from wsplf_cli.segmentation.export.formats import torchscript


def load(path, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
        return torch.jit.load(str(path), **options)


def test_any_size_and_batch_gives_the_probabilities(tmp_path):
    model, path = random_unet(), tmp_path / torchscript.FILE
    (note,) = torchscript.write(model, described(), path)
    assert note.startswith("TorchScript gives the network's probabilities")
    network = load(path)
    for side in (*SIDES_PX, 50):
        batch = images(side)[:, :, :, : side - 13]
        with torch.no_grad():
            assert abs(network(batch).numpy() - probabilities(model, batch)).max() < 1e-3


def test_the_file_holds_its_description_and_runs_without_wsplf(tmp_path):
    model, path = random_unet(), tmp_path / torchscript.FILE
    torchscript.write(model, described(), path)
    extra = {"config.json": ""}
    load(path, _extra_files=extra)
    assert json.loads(extra["config.json"])["classes"] == ["Gland", "Tumour: Ätypical"]
    torch.save(images(64), tmp_path / "images.pt")
    code = (
        "import sys, torch, numpy; sys.modules['wsplf_cli'] = sys.modules['timm'] = None;"
        "found = torch.jit.load(sys.argv[1])(torch.load(sys.argv[2])); numpy.save(sys.argv[3], found.detach().numpy())"
    )
    files = [str(tmp_path / name) for name in (torchscript.FILE, "images.pt", "found.npy")]
    subprocess.run([sys.executable, "-c", code, *files], check=True, capture_output=True)
    assert abs(np.load(files[2]) - probabilities(model, images(64))).max() < 1e-3


@pytest.mark.slow
def test_a_sam_segmenter_takes_any_size(tmp_path):
    model, path = random_sam(), tmp_path / torchscript.FILE
    torchscript.write(model, described(plugin="sam", tile_px=64), path)
    for side in (64, 300):
        batch = images(side, batch=2)
        with torch.no_grad():
            assert abs(load(path)(batch).numpy() - probabilities(model, batch)).max() < 1e-3


def test_what_computes_something_else_or_is_unknown_is_not_written(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="the segmenter mine cannot be exported to TorchScript"):
        torchscript.write(nn.Conv2d(3, 1, 1), described(plugin="mine"), tmp_path / torchscript.FILE)
    monkeypatch.setattr(torchscript, "largest_difference", lambda *arguments, **options: 0.5)
    with pytest.raises(ConfigError, match=r"gives other probabilities, by 0\.5"):
        torchscript.write(random_unet(), described(), tmp_path / torchscript.FILE)
    assert list(tmp_path.iterdir()) == []
