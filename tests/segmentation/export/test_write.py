"""The folder of an export: what is in it, what stays in it, and folders that are left alone."""

import json

import pytest
import torch
from exported_models import images, probabilities, random_unet, save_model

from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.segmentation import checkpoint, likeness
from wsplf_cli.segmentation.export import write
from wsplf_cli.segmentation.export.write import export_model
from wsplf_cli.segmentation.likeness import TrainingAppearance


@pytest.fixture
def source(tmp_path):
    save_model(tmp_path / "models" / "default", random_unet())
    return tmp_path / "models" / "default"


def test_a_folder_as_on_the_hub_is_a_model_folder(source, tmp_path):
    export = export_model(source, tmp_path / "out", file_format="hf", card="# card\n")
    assert export.file == tmp_path / "out" / "model.safetensors"
    assert sorted(path.name for path in export.folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (tmp_path / "out" / "README.md").read_text() == "# card\n"
    described, network = checkpoint.load(tmp_path / "out", device=torch.device("cpu"))
    assert described == checkpoint.read(source)
    expected = probabilities(random_unet(), images(64))
    assert (probabilities(network, images(64)) == expected).all()


def test_what_the_training_slides_look_like_goes_along(source, tmp_path):
    (source / likeness.FILE).write_bytes(likeness.to_bytes(TrainingAppearance({}, 6, 3)))
    for file_format in ("hf", "torchscript"):
        export_model(source, tmp_path / file_format, file_format=file_format, card="")
        assert likeness.read(tmp_path / file_format / likeness.FILE) == TrainingAppearance({}, 6, 3)


def test_several_formats_stand_in_one_folder_and_a_card_that_is_there_stays(source, tmp_path):
    export_model(source, tmp_path / "out", file_format="hf", card="# card")
    (tmp_path / "out" / "README.md").write_text("license: mit")
    export = export_model(source, tmp_path / "out", file_format="torchscript", card="# card")
    assert export.notes[-1] == "README.md is there already: left as it is"
    assert (tmp_path / "out" / "README.md").read_text() == "license: mit"
    assert {"model.pt", "model.safetensors"} <= {path.name for path in export.folder.iterdir()}


def test_a_folder_with_something_else_is_left_alone(source, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "README.md").write_text("mine")
    (tmp_path / "file").write_text("mine")
    another = tmp_path / "another"
    save_model(another, random_unet(), run_id="run 2")
    for out, message in ((other, "other files"), (another, "another model"), (tmp_path / "file", "is a file")):
        with pytest.raises(ConfigError, match=message) as caught:
            export_model(source, out, file_format="hf", card="")
        assert caught.value.hint == "give a new folder: --out DIR"
    with pytest.raises(ConfigError, match="the model's own folder"):
        export_model(source, source, file_format="hf", card="")
    assert [path.name for path in other.iterdir()] == ["README.md"]
    assert json.loads((another / "config.json").read_text())["run_id"] == "run 2"


def test_unknown_formats_and_models_are_named(source, tmp_path):
    with pytest.raises(ConfigError, match="unknown format 'keras'") as caught:
        export_model(source, tmp_path / "out", file_format="keras", card="")
    assert caught.value.hint == "choose one of: hf, onnx, torchscript"
    with pytest.raises(ConfigError, match="no model at"):
        export_model(source.parent / "other", tmp_path / "out", file_format="hf", card="")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_half_written_file(source, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.files, "write_bytes", full)
    with pytest.raises(ProjectError, match="No space left"):
        export_model(source, tmp_path / "out", file_format="hf", card="")
    assert list((tmp_path / "out").iterdir()) == []
