"""``wsplf segment --model FILE.onnx`` draws what the model's folder draws."""

import numpy as np
import pytest
import torch
from exported_models import random_unet, save_model
from shapely import union_all

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.options import ProjectOptions

pytest.importorskip("onnx", reason='needs onnx: pip install "wsplf[onnx]"')
pytest.importorskip("onnxruntime", reason='needs ONNX Runtime: pip install "wsplf[onnx]"')


def predictions(path, name="unlabelled.tif"):
    """The predictions on an entry: the union of their shapes by class."""
    project = open_project(path, ProjectOptions())
    (entry,) = [entry for entry in project.entries() if entry.name == name]
    drawn = [annotation for annotation in project.annotations(entry.id) if annotation.origin == "prediction"]
    return {name: union_all([one.shape for one in drawn if one.path_class == name]) for name in ("Tumor", "Stroma")}


@pytest.mark.parametrize("tile_px", [64, 72])  # the second is no multiple of the network's stride
def test_polygons_are_those_of_the_folder(tiny_project, tmp_path, capsys, tile_px):
    model = random_unet()
    with torch.no_grad():
        model.logits.weight *= 0.2
    folder = tiny_project.parent / "wsplf" / "models" / "default"
    save_model(folder, model, classes=("Tumor", "Stroma"), tile_px=tile_px, threshold=0.3)
    project, out = str(tiny_project), str(tmp_path / "export")
    assert cli.main(["model", "export", project, "default", "--out", out]) == 0
    arguments = ["segment", project, "--images", "unlabelled", "--min-area-um2", "200", "--outlines", "network"]
    assert cli.main(arguments) == 0
    of_folder = predictions(tiny_project)
    (tmp_path / "export").rename(tmp_path / "moved")
    assert cli.main([*arguments, "--model", str(tmp_path / "moved" / "model.onnx")]) == 0
    assert f"model model.onnx: Tumor, Stroma; 1 um/px, tiles of {tile_px} px, threshold 0.3" in capsys.readouterr().err
    of_file = predictions(tiny_project)
    areas = [shape.area for shape in of_folder.values()]
    assert max(areas) > 10_000, "something is drawn"
    for name, shape in of_folder.items():
        both = shape.intersection(of_file[name]).area
        assert 2 * both >= 0.999 * (shape.area + of_file[name].area)
    assert np.isfinite(areas).all()
