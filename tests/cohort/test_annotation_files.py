"""ASAP's XML into entries: groups, classes, coordinates."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from annotation_exchange import feature, feature_collection, import_into, opened
from shapely import box

from wsplf_cli.commands.import_ import import_files
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import ImportOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Silent, Step

OUTLINE = '<Annotation Name="{}" Type="{}" PartOfGroup="{}"><Coordinates>{}</Coordinates></Annotation>'


def _asap(path: Path, *outlines: tuple[str, tuple[float, float, float, float]], kind: str = "Polygon") -> Path:
    body = ""
    for number, (group, (left, top, right, bottom)) in enumerate(outlines):
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        points = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(corners))
        body += OUTLINE.format(f"A{number}", kind, group, points)
    path.write_text(f"<ASAP_Annotations><Annotations>{body}</Annotations></ASAP_Annotations>", encoding="utf-8")
    return path


def test_asap_groups_of_camelyon_become_tumour_with_holes(tiny_project: Path, tmp_path: Path, recorder: Any) -> None:
    path = _asap(tmp_path / "positive.xml", ("_0", (0, 0, 100, 100)), ("_2", (10, 10, 20, 20)), ("None", (0, 0, 5, 5)))
    report = import_into(tiny_project, path, tracker=recorder)
    tumour, other = opened(tiny_project).annotations("1")
    assert (tumour.path_class, tumour.name, tumour.origin) == ("Tumor", "A0", "human")
    assert tumour.shape.equals(box(0, 0, 100, 100) - box(10, 10, 20, 20))
    assert other.path_class is None
    assert "positive.xml: groups: _0 -> Tumor, _2 -> cut out of the others" in recorder.said
    assert report.entries[0].counts == {"added": 2, "already there": 0, "left out": 1}
    assert import_into(tiny_project, path).entries[0].counts == {"added": 0, "already there": 2, "left out": 1}


def test_asap_groups_are_mapped_by_option(tiny_project: Path, tmp_path: Path, recorder: Any) -> None:
    boxes = [(group, (n * 50, 0, n * 50 + 40, 40)) for n, group in enumerate(["_2", "metastases", "lymph"])]
    path = _asap(tmp_path / "positive.xml", *boxes, ("mark", (5, 5, 9, 9)))
    options = ("_2=Stroma", "metastases=Tumor:Positive", "LYMPH=", "mark=-", "typo=x")
    import_into(tiny_project, path, tracker=recorder, asap_class=options)
    assert [one.path_class for one in opened(tiny_project).annotations("1")] == ["Stroma", "Tumor: Positive"]
    assert opened(tiny_project).annotations("1")[0].shape.area == pytest.approx(1600 - 16)
    assert "warning: --asap-class: no file has the group typo" in recorder.said


@pytest.mark.parametrize("pair", ["Tumor", "=Tumor", " =x"])
def test_mapping_that_is_none_is_refused(tiny_project: Path, tmp_path: Path, pair: str) -> None:
    path = _asap(tmp_path / "positive.xml", ("_0", (0, 0, 100, 100)))
    with pytest.raises(ConfigError, match="must be GROUP=CLASS"):
        import_into(tiny_project, path, asap_class=(pair,))


def test_mapping_without_an_asap_file_is_refused(tiny_project: Path, tmp_path: Path) -> None:
    path = feature_collection(tmp_path / "positive.geojson", feature(box(0, 0, 1, 1)))
    with pytest.raises(ConfigError, match="no file is one"):
        import_into(tiny_project, path, asap_class=("_0=Tumor",))


def test_asap_file_of_another_slide_is_refused(tiny_project: Path, tmp_path: Path) -> None:
    report = import_into(tiny_project, _asap(tmp_path / "positive.xml", ("_0", (90_000, 0, 90_100, 100))))
    assert "none of its annotations lies in positive.tif" in report.entries[0].reason


def test_malformed_asap_file_is_one_clear_line(tiny_project: Path, tmp_path: Path) -> None:
    report = import_into(tiny_project, _asap(tmp_path / "positive.xml", ("_0", (5, 5, 5, 5))))
    assert "positive.xml: annotation 0 ('A0'): its polygon has 1 point" in report.entries[0].reason


def test_asap_needs_the_slide_where_its_bounds_matter(tiny_slide: Path, tmp_path: Path) -> None:
    slide = tmp_path / "copy.tif"
    shutil.copy(tiny_slide, slide)
    image = Image(slide, "copy.tif", 1024, 768, 0.5, [(1.0, 1024, 768)])
    project = create_project(tmp_path / "project", [image], classes=[])
    slide.unlink()
    report = import_into(project, _asap(tmp_path / "copy.xml", ("_0", (0, 0, 100, 100))))
    assert report.failed == 1
    assert "only the slide says where the image begins" in report.entries[0].reason
    assert opened(project).annotations("1") == []


def test_asap_coordinates_are_turned_with_the_image(tiny_project: Path, tmp_path: Path) -> None:
    project = opened(tiny_project)
    (entry, *_) = project.entries()
    turned = replace(entry, width_px0=768, height_px0=1024, steps=(Step("rotated", (1,)),))
    path = _asap(tmp_path / "positive.xml", ("_0", (0, 0, 100, 50)))
    import_files(project, [turned], [path], ImportOptions(), Silent())
    (one,) = opened(tiny_project).annotations("1")
    assert one.shape.bounds == pytest.approx((768 - 50, 0, 768, 100))


def test_asap_groups_are_compared_as_classes_are(tiny_project: Path, tmp_path: Path) -> None:
    groups = ["tumor:necrotic", "Ko\u0308rnig", "METASTASES"]
    boxes = [(group, (n * 50, 0, n * 50 + 40, 40)) for n, group in enumerate(groups)]
    options = ("Tumor: Necrotic=Tumor: Necrotic", "k\u00f6rnig=Grains")
    import_into(tiny_project, _asap(tmp_path / "positive.xml", *boxes), asap_class=options)
    classes = [annotation.path_class for annotation in opened(tiny_project).annotations("1")]
    assert classes == ["Tumor: Necrotic", "Grains", "Tumor"]
