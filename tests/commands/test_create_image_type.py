"""wsplf project create --image-type."""

import json
from uuid import uuid4

import pytest
from shapely import box

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.create import create
from wsplf_cli.options import CreateOptions, ProjectOptions
from wsplf_cli.qupath import qpdata
from wsplf_cli.schema import Annotation


@pytest.mark.parametrize("image_type", ["BRIGHTFIELD_H_E", "BRIGHTFIELD_H_DAB", "BRIGHTFIELD_OTHER"])
def test_the_image_type_stands_in_the_data_as_qupath_writes_it(tmp_path, tiny_slide, recorder, image_type):
    report = create(tmp_path / "new", [tiny_slide], CreateOptions(image_type=image_type), recorder)
    folder = tmp_path / "new" / "data" / "1"
    content = (folder / "data.qpdata").read_bytes()
    data = qpdata.loads(content)
    assert (data.image_type, data.annotation_nodes()) == (image_type, [])
    assert data.dumps() == content
    assert f"{tmp_path / 'new' / 'project.qpproj'}::1".encode() in content
    assert (b"H&E default" if image_type == "BRIGHTFIELD_H_E" else b"H-DAB default") in content
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["imageType"] == image_type
    assert summary["hierarchy"]["objectTypeCounts"] == {"Root objects": 1}
    assert summary["server"] == {"width": 1024, "height": 768, "sizeC": 3, "sizeZ": 1, "sizeT": 1}
    assert report.details["image_type"] == image_type
    assert recorder.said[-1].endswith(f"1 of 1 slides; image type: {image_type}")


def test_without_an_image_type_qupath_is_left_to_ask(tmp_path, tiny_slide, recorder):
    create(tmp_path / "new", [tiny_slide], CreateOptions(), recorder)
    assert not (tmp_path / "new" / "data" / "1" / "data.qpdata").exists()
    assert recorder.said[-1].endswith("image type: not set, QuPath asks when it opens one")


def test_annotations_keep_the_image_type(tmp_path, tiny_slide, recorder):
    create(tmp_path / "new", [tiny_slide], CreateOptions(image_type="BRIGHTFIELD_H_E"), recorder)
    project = open_project(tmp_path / "new", ProjectOptions())
    polygon = Annotation(uuid4(), box(1, 1, 50, 50), "Tumor", run_id="r")
    project.replace("1", origin="pseudolabel", annotations=[polygon])
    data = qpdata.loads((tmp_path / "new" / "data" / "1" / "data.qpdata").read_bytes())
    assert (data.image_type, len(data.annotation_nodes())) == ("BRIGHTFIELD_H_E", 1)


def test_an_image_type_that_qupath_does_not_have_is_refused(tmp_path, tiny_slide, capsys):
    assert cli.main(["project", "create", str(tmp_path / "new"), str(tiny_slide), "--image-type", "H&E"]) == 2
    assert "BRIGHTFIELD_H_E" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
