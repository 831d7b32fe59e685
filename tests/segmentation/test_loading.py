"""Models found by name or path; a model from elsewhere that does not fit is refused with what to do."""

from pathlib import Path

import numpy as np
import pytest
from exported_models import described, images, probabilities, random_unet, save_model

from wsplf_cli.errors import ConfigError, SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.segmentation.export.formats import onnx
from wsplf_cli.segmentation.loading import (
    describe_model,
    find_model,
    is_from_elsewhere,
    load_model,
    require_classes,
    require_pixel_size,
)


def test_a_name_is_the_models_of_the_project_first(tmp_path, monkeypatch):
    project = tmp_path / "project"
    in_project = project / "wsplf" / "models" / "default"
    monkeypatch.chdir(tmp_path)
    Path("default").mkdir()
    assert find_model(project, "default") == Path("default")
    in_project.mkdir(parents=True)
    assert find_model(project, "default") == in_project
    assert find_model(project, "exports/model.onnx") == Path("exports/model.onnx")
    assert find_model(project, "other") == in_project.with_name("other")
    assert not is_from_elsewhere(project, in_project)
    assert not is_from_elsewhere(Path("project"), Path("project/wsplf/models/default"))
    for elsewhere in (Path("default"), tmp_path / "copied", Path("exports/model.onnx")):
        assert is_from_elsewhere(project, elsewhere)


def test_a_folder_gives_its_probabilities_and_its_threshold(tmp_path):
    model = random_unet()
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model", threshold=None, device="cpu")
    windows = images(64).round().numpy().astype(np.uint8).transpose(0, 2, 3, 1)
    np.testing.assert_allclose(loaded.infer(windows), probabilities(model, images(64).round()), atol=1e-6)
    assert (loaded.threshold, loaded.device, loaded.from_elsewhere) == (0.4, "cpu", False)
    assert load_model(tmp_path / "model", threshold=0.9, device="cpu").threshold == 0.9
    with pytest.raises(ConfigError, match="unknown device 'tpu'"):
        load_model(tmp_path / "model", threshold=None, device="tpu")


def test_an_onnx_file_is_a_model(tmp_path):
    pytest.importorskip("onnx", reason='needs onnx: pip install "wsplf[onnx]"')
    pytest.importorskip("onnxruntime", reason='needs ONNX Runtime: pip install "wsplf[onnx]"')
    model, path = random_unet(), tmp_path / "any name.onnx"
    onnx.write(model, described(), path)
    assert describe_model(path) == described()
    loaded = load_model(path, threshold=None, device="cpu", from_elsewhere=True)
    windows = images(53).round().numpy().astype(np.uint8).transpose(0, 2, 3, 1)
    assert abs(loaded.infer(windows) - probabilities(model, images(53).round())).max() < 1e-3
    assert (loaded.threshold, loaded.device, loaded.from_elsewhere) == (0.4, "cpu", True)


def test_classes_that_the_user_did_not_name_are_refused():
    model = described(classes=("Gland", "Tumor"))
    require_classes(model, ProjectOptions())
    require_classes(model, ProjectOptions(positive=("gland=GLAND", "tumour")))
    with pytest.raises(ConfigError, match=r"the model outlines Gland, Tumor; .* name only LUAD, Tumor") as caught:
        require_classes(model, ProjectOptions(positive=("luad=LUAD", "tumor")))
    assert caught.value.hint == "--positive WORD=Gland"
    with pytest.raises(ConfigError, match="name only Carcinoma"):
        require_classes(described(classes=("Tumor",)), ProjectOptions(path_class="Carcinoma"))


@pytest.mark.parametrize(("mpp_slide", "fits"), [(0.25, True), (0.5, True), (0.62, True), (0.64, False), (2.0, False)])
def test_a_slide_that_is_too_coarse_is_refused(make_entry, mpp_slide, fits):
    entry, model = make_entry("a.svs"), described(mpp=0.5)
    if fits:
        require_pixel_size(entry, model, mpp_slide)
        return
    with pytest.raises(SlideError, match=r"a\.svs: the slide has .* um per pixel, the model needs 0\.5"):
        require_pixel_size(entry, model, mpp_slide)
