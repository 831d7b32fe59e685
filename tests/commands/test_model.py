"""``wsplf model``: what is listed and shown, and that the project is only read."""

import json
from pathlib import Path

import pytest
from exported_models import random_unet, save_model

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.model import card_of, export, list_models, show_model
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ModelExportOptions, ProjectOptions


@pytest.fixture
def models(tiny_project):
    folder = tiny_project.parent / "wsplf" / "models"
    save_model(folder / "default", random_unet(), scores={"validation_dice": 0.8})
    save_model(folder / "a-second", random_unet(1), classes=("Tumor",), mpp=0.5)
    return folder


def state(project):
    """All files of a project's folder and their content."""
    return {path: path.read_bytes() for path in project.parent.rglob("*") if path.is_file()}


def opened(project):
    backend = open_project(project, ProjectOptions())
    return backend, backend.entries()


def test_the_models_of_a_project_are_listed_by_name(tiny_project, models):
    (models / "broken").mkdir()
    (models / "broken" / "config.json").write_text("{")
    (models / ".default.1234.part").mkdir()
    (models / ".default.1234.part" / "config.json").write_text("{}")
    second, broken, default = list_models(tiny_project)
    assert (second["name"], second["classes"], second["mpp"], second["problem"]) == ("a-second", ("Tumor",), 0.5, "")
    assert (default["tile_px"], default["threshold"], default["scores"]) == (64, 0.4, {"validation_dice": 0.8})
    assert broken["name"] == "broken"
    assert "cannot be read" in broken["problem"]


def test_a_project_without_models_has_none(tiny_project):
    assert list_models(tiny_project) == []
    with pytest.raises(ProjectError, match="no such project"):
        list_models(tiny_project.parent / "other.qpproj")


def test_a_model_is_shown_by_name_or_by_folder(tiny_project, models, tmp_path):
    shown = show_model(tiny_project, "a-second")
    assert (shown["name"], shown["path"], shown["run"]) == ("a-second", models / "a-second", "run 1")
    save_model(tmp_path / "elsewhere", random_unet(), run_id="run 9")
    assert show_model(tiny_project, str(tmp_path / "elsewhere"))["run"] == "run 9"
    with pytest.raises(ConfigError, match="no model at") as caught:
        show_model(tiny_project, "third")
    assert caught.value.hint == "choose one of: a-second, default"


def test_an_export_reads_the_project_only(tiny_project, models, tmp_path, recorder):
    before = state(tiny_project)
    document = export(*opened(tiny_project), "default", ModelExportOptions(tmp_path / "out", "hf"), recorder)
    assert state(tiny_project) == before
    assert document["file"] == tmp_path / "out" / "model.safetensors"
    assert recorder.said == list(document["notes"])
    assert "It outlines: Gland, Tumour: Ätypical." in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_an_export_of_an_export_is_refused(tiny_project, models, tmp_path, recorder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"model\.onnx is an export already"):
        export(*opened(tiny_project), "model.onnx", ModelExportOptions(), recorder)


def test_the_card_that_came_with_a_model_is_its_card(tiny_project, models, tmp_path):
    save_model(tmp_path / "elsewhere", random_unet())
    assert card_of(*opened(tiny_project), str(tmp_path / "elsewhere")).startswith("---\nlibrary_name: wsplf\n")
    (tmp_path / "elsewhere" / "README.md").write_text("# Glands of clinic A\n", encoding="utf-8")
    assert card_of(*opened(tiny_project), str(tmp_path / "elsewhere")) == "# Glands of clinic A\n"


def test_the_commands_print_one_document_or_lines(tiny_project, models, capsys):
    name = str(tiny_project)
    assert cli.main(["model", "list", name]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:4] == ["a-second", "Tumor", "0.5000", "64"]
    assert cli.main(["model", "list", name, "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["models"]] == ["a-second", "default"]
    assert cli.main(["model", "show", name, "default"]) == 0
    assert "classes: Gland, Tumour: Ätypical\nmpp: 1.0\n" in capsys.readouterr().out
    assert cli.main(["model", "show", name, "default", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == {"backbone": "small"}
    assert cli.main(["model", "card", name, "default"]) == 0
    text = capsys.readouterr().out
    assert cli.main(["model", "card", name, "default", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["card"] == text
    out = str(tiny_project.parent.parent / "out")
    assert cli.main(["model", "export", name, "default", "--out", out, "--format", "hf"]) == 0
    assert capsys.readouterr().out.startswith(f"model: {out}")
    assert cli.main(["model", "export", name, "default", "--out", out, "--format", "hf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == out
    assert cli.main(["model", "export", name, "default", "--format", "keras"]) == 2
    assert "hf, onnx, torchscript" in capsys.readouterr().err
