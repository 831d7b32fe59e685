"""ONNX: the network's probabilities in ONNX Runtime and in OpenCV, and a file that says what it is."""

import json

import numpy as np
import pytest
import torch
from exported_models import SIDES_PX, described, images, probabilities, random_sam, random_unet
from torch import nn

from wsplf_cli.errors import ConfigError
from wsplf_cli.segmentation.export.formats import onnx
from wsplf_cli.segmentation.export.onnx_model import OnnxNetwork

pytest.importorskip("onnx", reason='needs onnx: pip install "wsplf[onnx]"')
pytest.importorskip("onnxruntime", reason='needs ONNX Runtime: pip install "wsplf[onnx]"')


@pytest.fixture(scope="module")
def model():
    return random_unet()


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / onnx.FILE
    notes = onnx.write(model, described(), path)
    assert len(notes) == 1
    assert notes[0].startswith("ONNX Runtime gives the network's probabilities: largest difference ")
    assert notes[0].endswith(" at 32, 64, 80 px")
    return path


@pytest.mark.parametrize("side", SIDES_PX)
def test_onnx_runtime_gives_the_probabilities_at_any_size_and_batch(model, path, side):
    batch = images(side)
    expected = probabilities(model, batch)
    assert expected.shape == (3, 2, side, side)
    assert abs(OnnxNetwork(path, name="file").run(batch.numpy()) - expected).max() < 1e-3


def opencv_probabilities(path, batch):
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV: pip install opencv-python-headless")
    network = cv2.dnn.readNetFromONNX(str(path))
    found = []
    for image in batch.numpy():  # QuPath, too, gives one image at a time
        network.setInput(image[None])
        found.append(network.forward())
    return np.concatenate(found)


def test_opencv_gives_the_probabilities_at_any_size(model, path):
    for side in SIDES_PX:
        batch = images(side)
        assert abs(opencv_probabilities(path, batch) - probabilities(model, batch)).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])
def test_opencv_runs_backbones_with_batch_norm(backbone, tmp_path):
    model = random_unet(backbone=backbone)
    assert len(onnx.write(model, described(settings={"backbone": backbone}), tmp_path / onnx.FILE)) == 1
    for side in (64, 96, 160):
        batch = images(side)
        assert abs(opencv_probabilities(tmp_path / onnx.FILE, batch) - probabilities(model, batch)).max() < 1e-3


def test_only_operators_that_opencv_runs_are_in_the_file(path):
    import onnx as library

    graph = library.load(str(path)).graph
    assert {node.op_type for node in graph.node} <= onnx.OPENCV_OPERATORS
    shape = graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_param or side.dim_value for side in shape] == ["batch", 3, "height", "width"]


def test_the_file_says_what_it_is(path):
    exported = OnnxNetwork(path, name="file")
    assert exported.checkpoint == described()
    assert (exported.contract.multiple_px, exported.contract.only_px) == (16, None)
    about = json.loads((path.parent / "model.onnx.json").read_text(encoding="utf-8"))
    assert about["classes"] == ["Gland", "Tumour: Ätypical"]
    assert (about["mpp"], about["tile_px"], about["threshold"], about["multiple_px"]) == (1.0, 64, 0.4, 16)


def test_the_image_of_the_check_is_as_the_script_makes_it(model, path):
    check = json.loads((path.parent / "model.onnx.json").read_text(encoding="utf-8"))["check"]
    side = check["side_px"]
    image = torch.zeros(1, 3, side, side)
    for y in range(side):
        for x in range(side):
            image[0, :, y, x] = torch.tensor([3 * x + y, x + 2 * y + 40, 2 * x + 3 * y + 80]) % 256
    expected = probabilities(model, image)[0]
    steps = range(0, side, side // 16)
    np.testing.assert_allclose(
        check["diagonal"], [[channel[at, at] for at in steps] for channel in expected], atol=1e-3
    )
    assert np.std(check["diagonal"]) > 0.01


def test_a_network_that_computes_something_else_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.OnnxNetwork, "run", lambda self, batch: np.zeros((len(batch), 2, *batch.shape[2:])))
    with pytest.raises(ConfigError, match="gives other probabilities"):
        onnx.write(model, described(), tmp_path / onnx.FILE)
    assert list(tmp_path.iterdir()) == []


def test_operators_that_opencv_may_not_run_are_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "OPENCV_OPERATORS", onnx.OPENCV_OPERATORS - {"Relu"})
    notes = onnx.write(model, described(), tmp_path / onnx.FILE)
    assert notes[-1] == "warning: OpenCV, and so QuPath, may not run it: Relu"


@pytest.mark.slow
def test_a_sam_segmenter_takes_one_tile_of_its_size(tmp_path):
    model = random_sam()
    notes = onnx.write(model, described(plugin="sam", settings={"sam": "tiny"}, tile_px=96), tmp_path / onnx.FILE)
    assert notes[1] == "it takes one image of 96 x 96 pixels at a time"
    assert notes[2] == "warning: OpenCV 4, and so QuPath, cannot run a SAM segmenter"
    exported = OnnxNetwork(tmp_path / onnx.FILE, name="file")
    batch = images(96)
    assert abs(exported.run(batch.numpy()) - probabilities(model, batch)).max() < 1e-3


def test_what_cannot_be_exported_gets_a_clear_line(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="the tiles have 300 pixels, SAM 256") as caught:
        onnx.write(random_sam(), described(plugin="sam", tile_px=300), tmp_path / onnx.FILE)
    assert caught.value.hint == "--format torchscript, or train with --tile-px 256"
    with pytest.raises(ConfigError, match="the segmenter mine cannot be exported to ONNX"):
        onnx.write(nn.Conv2d(3, 1, 1), described(plugin="mine"), tmp_path / onnx.FILE)
    monkeypatch.setattr(onnx, "MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match="one ONNX file holds at most"):
        onnx.write(nn.Conv2d(3, 100, 1), described(plugin="mine"), tmp_path / onnx.FILE)
