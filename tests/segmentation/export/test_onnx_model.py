"""An ONNX file as a model: what it says of itself, windows of any side, and files that cannot be used."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from exported_models import described, images, probabilities, random_unet

from wsplf_cli.errors import ConfigError, MissingDependency
from wsplf_cli.segmentation.export import onnx_model
from wsplf_cli.segmentation.export.formats import onnx
from wsplf_cli.segmentation.export.onnx_model import OnnxNetwork, load_library, pick_provider


def test_a_missing_library_is_named_with_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingDependency, match="ONNX files need onnxruntime") as caught:
        OnnxNetwork(tmp_path / "model.onnx", name="model.onnx")
    assert caught.value.hint == 'pip install "wsplf[onnx]"'


@pytest.mark.parametrize(
    ("providers", "device", "picked"),
    [
        (["CPUExecutionProvider"], "auto", "cpu"),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "auto", "cuda"),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "cpu", "cpu"),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "cuda", "cuda"),
        (["CPUExecutionProvider"], "cuda", None),
        (["CUDAExecutionProvider", "CPUExecutionProvider"], "mps", None),
    ],
)
def test_the_device_is_one_that_onnx_runtime_has(monkeypatch, providers, device, picked):
    runtime = SimpleNamespace(get_available_providers=lambda: providers)
    monkeypatch.setattr(onnx_model, "load_library", lambda name: runtime)
    if picked is not None:
        assert pick_provider(device) == picked
        return
    with pytest.raises(ConfigError, match=f"--device {device}: ONNX Runtime finds none here"):
        pick_provider(device)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    pytest.importorskip("onnx", reason='needs onnx: pip install "wsplf[onnx]"')
    pytest.importorskip("onnxruntime", reason='needs ONNX Runtime: pip install "wsplf[onnx]"')
    path = tmp_path_factory.mktemp("export") / onnx.FILE
    onnx.write(random_unet(), described(), path)
    return path


@pytest.mark.parametrize("side", [64, 72, 53])
def test_windows_of_any_side_give_the_probabilities_of_the_network(path, side):
    windows = images(side).round().numpy().astype(np.uint8).transpose(0, 2, 3, 1)
    batch = images(side).round()
    found = OnnxNetwork(path, name="file").infer(windows)
    assert found.dtype == np.float32
    assert abs(found - probabilities(random_unet(), batch)).max() < 1e-3


def with_metadata(path, target, **changes):
    """A copy of the file with other metadata; None removes one."""
    library = load_library("onnx")
    model = library.load(str(path))
    values = {entry.key: entry.value for entry in model.metadata_props} | changes
    del model.metadata_props[:]
    library.helper.set_model_props(model, {key: value for key, value in values.items() if value is not None})
    library.save(model, str(target))
    return target


def test_a_file_of_another_program_gets_a_clear_line(path, tmp_path):
    library = load_library("onnx")
    model = library.load(str(path))
    del model.metadata_props[:]
    library.save(model, str(tmp_path / "foreign.onnx"))
    with pytest.raises(ConfigError, match=r"foreign\.onnx does not say its classes, pixel size, tile and threshold"):
        OnnxNetwork(tmp_path / "foreign.onnx", name="foreign.onnx")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wsplf.mpp": None}, "has missing or unknown keys: mpp"),
        ({"wsplf.format": "2"}, "has format 2, this wsplf reads 1"),
        ({"wsplf.classes": "[Tumor"}, "the metadata of model.onnx are damaged"),
        ({"wsplf.multiple_px": None}, "the metadata of model.onnx are damaged"),
    ],
)
def test_damaged_metadata_are_named(path, tmp_path, changes, message):
    changed = with_metadata(path, tmp_path / "model.onnx", **changes)
    with pytest.raises(ConfigError, match=message):
        OnnxNetwork(changed, name="model.onnx")


def test_a_file_that_is_not_onnx_or_not_there_is_named(path, tmp_path):
    (tmp_path / "text.onnx").write_text("no network")
    for name in ("text.onnx", "missing.onnx"):
        with pytest.raises(ConfigError, match=f"{name} cannot be read as ONNX"):
            OnnxNetwork(tmp_path / name, name=name)
