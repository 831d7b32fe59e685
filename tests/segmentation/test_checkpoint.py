import json

import pytest
import torch
from torch import nn

from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.networks.ensemble import Ensemble
from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.models.unet import build
from wsplf_cli.segmentation.operating_point import Bound


def _save(folder, model: nn.Module, **changes):
    fields = {"plugin": "unet", "settings": {"backbone": "small"}, "classes": ("Tumor",), "tile_px": 64, "mpp": 1.0}
    record = Checkpoint(**({**fields, "run_id": "run 1"} | changes))
    checkpoint.save(folder, record, model.state_dict())
    return record


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = build(1, pretrained=False).eval()
    nn.init.normal_(model.logits.weight)
    record = _save(tmp_path / "models" / "default", model)
    return tmp_path / "models" / "default", model, record


def test_a_saved_model_is_built_again_without_any_other_file(saved, monkeypatch):
    folder, model, record = saved
    monkeypatch.setattr("wsplf_cli.networks.backbone._SMALL_ASSET", "not there")
    read, rebuilt = checkpoint.load(folder, device=torch.device("cpu"))
    tiles = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(rebuilt(tiles), model(tiles))
    assert read == record
    assert not rebuilt.training
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_a_model_of_several_encoders_with_its_bounds_is_built_again(tmp_path):
    torch.manual_seed(0)
    settings = {"backbone": "small+resnet18", "output_stride": 32}
    network = build(1, pretrained=False, **settings).eval()
    assert isinstance(network, Ensemble)
    for member in network.members:
        nn.init.normal_(member.logits.weight)
    bound = Bound(alpha=0.01, measured=0.004, guaranteed=0.15, slides=6, patients=6, patients_needed=99)
    record = _save(tmp_path / "m", network, settings=settings, confidences=(0.9,), bounds=(bound,), window_px=128)
    read, rebuilt = checkpoint.load(tmp_path / "m", device=torch.device("cpu"))
    tiles = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(rebuilt(tiles), network(tiles))
    assert read == record


def test_a_model_of_an_earlier_version_has_no_confidences_and_no_bounds(saved):
    folder, _, record = saved
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for key in ("confidences", "bounds", "window_px"):
        del config[key]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    read, _ = checkpoint.load(folder, device=torch.device("cpu"))
    assert read == record
    assert (read.confidences, read.bounds, read.window_px) == ((), (), 0)


def test_saving_again_replaces_the_model_and_leaves_nothing_beside_it(saved):
    folder, model, _ = saved
    _save(folder, model, run_id="run 2")
    assert checkpoint.read(folder).run_id == "run 2"
    assert [path.name for path in folder.parent.iterdir()] == ["default"]


def test_a_folder_that_holds_only_an_onnx_file_says_how_to_use_it(saved):
    folder, _, _ = saved
    (folder / "model.safetensors").unlink()
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"holds no model\.safetensors") as caught:
        checkpoint.load(folder, device=torch.device("cpu"))
    assert caught.value.hint == f"--model {folder / 'model.onnx'}"


def test_a_failed_save_leaves_the_old_model(saved, monkeypatch):
    folder, model, _ = saved

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wsplf_cli.segmentation.checkpoint.files.write_json", full)
    with pytest.raises(ProjectError, match="No space left"):
        _save(folder, model, run_id="run 2")
    assert checkpoint.read(folder).run_id == "run 1"
    assert [path.name for path in folder.parent.iterdir()] == ["default"]


def _edit(folder, **changes):
    path = folder / "config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | changes), encoding="utf-8")


def _break_json(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")


def _cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_break_json, "cannot be read"),
        (_cut_weights, "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
        (lambda folder: _edit(folder, format=99), "format 99"),
        (lambda folder: _edit(folder, kind="other"), "does not describe a segmentation model"),
        (lambda folder: _edit(folder, more=1), "more"),
        (lambda folder: _edit(folder, plugin="nothing"), "unknown model"),
        (lambda folder: _edit(folder, settings={"backbone": "resnet10t"}), "does not fit"),
        (lambda folder: _edit(folder, settings={"depth": 3}), "settings"),
    ],
)
def test_a_damaged_model_gives_one_clear_line(saved, damage, message):
    folder, _, _ = saved
    damage(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        checkpoint.load(folder, device=torch.device("cpu"))
    assert "\n" not in caught.value.message


def test_a_missing_model_lists_those_that_are_there(saved):
    folder, _, _ = saved
    with pytest.raises(ConfigError, match="no model") as caught:
        checkpoint.load(folder.with_name("other"), device=torch.device("cpu"))
    assert "default" in caught.value.hint
