import json
import shutil
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pytest

from wsplf_cli.errors import ProjectError
from wsplf_cli.qupath import colours, gson, project_file
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.qupath.images import uri_path
from wsplf_cli.schema import Entry, PathClass


def _image(path: Path, **fields: Any) -> Image:
    size = {"width_px0": 100, "height_px0": 80, "mpp": 0.5, "levels": [(1, 100, 80), (4, 25, 20)]}
    return Image(path, **({"name": path.name} | size | fields))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study folder: slides/a b_ü.tif and a project beside it."""
    slide = tmp_path / "study" / "slides" / "a b_ü.tif"
    slide.parent.mkdir(parents=True)
    slide.write_bytes(b"slide")
    metadata = {"label": "tumor", "odd": "a<b & c='d'"}
    images = [_image(slide, metadata=metadata, tags=["train"]), _image(slide, name="uncalibrated", mpp=None)]
    create_project(
        tmp_path / "study" / "project", images, classes=[PathClass("Tumor"), PathClass("My: class", (1, 2, 3))]
    )
    return tmp_path / "study"


def _sizes(sizes: dict[str, tuple[int, int]]) -> Any:
    return lambda path, **_: sizes.get(path.name if path.parent.name == "slides" else f"{path.parent.name}/{path.name}")


def _entries(
    folder: Path, *, slides: Path | None = None, sizes: dict[str, tuple[int, int]] | None = None
) -> list[Entry]:
    return project_file.entries(project_file.read(folder), slides=slides, measure=_sizes(sizes or {}))


def _edit(folder: Path, change: dict[str, Any]) -> None:
    """Change the server builder of the first entry."""
    path = folder / "project.qpproj"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["images"][0]["serverBuilder"] |= change
    path.write_text(json.dumps(document), encoding="utf-8")


def test_created_project_is_read_back(study: Path) -> None:
    first, second = _entries(study / "project")
    assert (first.id, first.name, first.mpp, first.mpp_source) == ("1", "a b_ü.tif", 0.5, "QuPath calibration")
    assert (first.width_px0, first.height_px0, first.crop_to_bounds) == (100, 80, True)
    assert (first.slide_path, first.problem) == (study / "slides" / "a b_ü.tif", "")
    assert (first.metadata, first.tags) == ({"label": "tumor", "odd": "a<b & c='d'"}, ("train",))
    assert (second.name, second.mpp, second.mpp_source, second.metadata) == ("uncalibrated", None, "", {})
    assert project_file.read_classes(study / "project") == [
        PathClass("Tumor", (200, 0, 0)),
        PathClass("My: class", (1, 2, 3)),
    ]


def test_created_project_has_what_old_versions_need(study: Path) -> None:
    document = json.loads((study / "project" / "project.qpproj").read_text(encoding="utf-8"))
    assert {"version", "createTimestamp", "modifyTimestamp", "lastID", "uri", "images"} <= set(document)
    for image in document["images"]:
        assert image["metadata"] is not None
        assert image["serverBuilder"]["args"] == []
        assert " " not in image["serverBuilder"]["uri"]
    with pytest.raises(ProjectError, match="already exists"):
        create_project(study / "project", [], classes=[])


def test_project_is_written_back_in_gsons_style(study: Path) -> None:
    path = study / "project" / "project.qpproj"
    text = path.read_text(encoding="utf-8")
    assert r"a\u003cb \u0026 c\u003d\u0027d\u0027" in text
    assert "a b_ü.tif" in text
    assert gson.dumps(gson.loads(text), indent=True) == text


def test_json_keeps_numbers_as_java_wrote_them() -> None:
    text = '{"a":1.0E-5,"b":[NaN,1.10,-Infinity],"c":{},"d":[],"e":null,"f":"\\u2028\\"\\t"}'
    assert gson.dumps(gson.loads(text), indent=False) == text


def test_json_loses_no_number_and_no_repeated_key() -> None:
    text = '{"a":1,"b":{"x":-0,"y":12345678901234567890123,"x":1.0,"z":1E400},"a":1.0,"c":-0.0,"a":2}'
    document = gson.loads(text)
    assert (document["a"], document["b"]["x"]) == (2, 1.0)
    assert gson.dumps(document, indent=False) == text
    document["a"] = 3
    document["new"] = 1
    del document["b"]
    assert gson.dumps(document, indent=False) == '{"a":1,"a":1.0,"c":-0.0,"a":3,"new":1}'


def test_metadata_is_set_and_the_rest_kept(study: Path) -> None:
    path = study / "project" / "project.qpproj"
    document = json.loads(path.read_text(encoding="utf-8"))
    document |= {"unknown": {"x": 1.50}, "modifyTimestamp": 1}
    document["images"][1]["metadata"] = None
    path.write_text(gson.dumps(document, indent=True), encoding="utf-8")
    before = path.read_bytes()
    project_file.set_metadata(project_file.read(path), {"1": {"label": "normal"}, "2": {"new": "ü"}})
    first, second = _entries(study / "project")
    assert first.metadata == {"label": "normal", "odd": "a<b & c='d'"}
    assert second.metadata == {"new": "ü"}
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after["unknown"] == {"x": 1.5}
    assert after["modifyTimestamp"] > 1
    assert (path.parent / "project.qpproj.backup").read_bytes() == before


def test_setting_what_is_there_writes_nothing(study: Path) -> None:
    path = study / "project" / "project.qpproj"
    project_file.set_metadata(project_file.read(path), {"1": {"label": "tumor"}})
    assert not (path.parent / "project.qpproj.backup").exists()


def test_what_another_program_wrote_stays_when_metadata_is_set(study: Path) -> None:
    path = study / "project" / "project.qpproj"
    project, other = project_file.read(path), project_file.read(path)
    project_file.set_metadata(other, {"1": {"label": "normal", "stain": "H&E"}})
    project_file.set_metadata(project, {"1": {"label": "other"}})
    assert project_file.read(path).images[0]["metadata"].items() >= {"label": "other", "stain": "H&E"}.items()
    project_file.set_metadata(project, {"1": {"label": "again"}})


def test_project_changed_by_another_program_is_not_written(study: Path) -> None:
    path = study / "project" / "project.qpproj"
    project = project_file.read(path)
    path.write_text(path.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ProjectError, match="changed by another program"):
        project_file.write(project)
    with pytest.raises(ProjectError, match="no entry has the id 77"):
        project_file.set_metadata(project_file.read(path), {"77": {"label": "normal"}})


@pytest.mark.parametrize("name", ["project.qpproj", "gone/project.qpproj"])
def test_missing_project_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError, match="no such project"):
        project_file.read(tmp_path / name)


def test_folder_must_hold_exactly_one_project(study: Path, tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="holds no QuPath projects"):
        project_file.read(tmp_path)
    shutil.copy(study / "project" / "project.qpproj", study / "project" / "second.qpproj")
    with pytest.raises(ProjectError, match=r"2 QuPath projects \(project.qpproj, second.qpproj\)"):
        project_file.read(study / "project")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not an object"),
        (b'{"name": "package.json"}', "neither 'version' nor 'images'"),
        (b'{"version": "0.6.0", "images": {}}', "not a list"),
        (b'{"version": "0.6.0", "images": [{"entryID": "../../etc"}]}', "not a number"),
    ],
)
def test_file_that_is_no_project_is_one_clear_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "project.qpproj"
    path.write_bytes(content)
    with pytest.raises(ProjectError, match=reason) as caught:
        project_file.read(path)
    assert "\n" not in caught.value.message
    assert path.read_bytes() == content


def test_bare_nan_and_missing_keys_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "project.qpproj"
    calibration = '{"pixelWidth":{"value":NaN,"unit":"µm"},"pixelHeight":{"value":1,"unit":"µm"}}'
    builder = f'{{"builderType":"uri","uri":"file:/gone.tif","metadata":{{"pixelCalibration":{calibration}}}}}'
    path.write_text(
        f'{{"version":"0.5.0","images":[{{}},{{"entryID":1,"serverBuilder":{builder}}}]}}', encoding="utf-8"
    )
    bare, nan = _entries(path)
    assert (bare.id, bare.name, bare.slide_path) == ("0", "unnamed", None)
    assert "does not say where its image is" in bare.problem
    assert (nan.name, nan.mpp) == ("gone.tif", None)


def test_moved_project_finds_its_slides_without_an_option(study: Path, tmp_path: Path) -> None:
    moved = study.rename(tmp_path / "elsewhere")
    assert _entries(moved / "project")[0].slide_path == moved / "slides" / "a b_ü.tif"


def test_slide_is_found_by_name_and_size(study: Path, tmp_path: Path) -> None:
    (study / "slides").rename(tmp_path / "gone")
    archive = tmp_path / "archive" / "deep" / "deeper" / "deepest" / "far"
    for folder in ("one", "two"):
        (archive / folder).mkdir(parents=True)
        (archive / folder / "a b_ü.tif").write_bytes(b"slide")
    project = study / "project"
    entry = _entries(project, slides=tmp_path / "archive")[0]
    assert entry.slide_path is None
    assert "--slides DIR" in entry.problem
    sizes = {"one/a b_ü.tif": (5, 5), "two/a b_ü.tif": (100, 80)}
    assert _entries(project, slides=tmp_path / "archive", sizes=sizes)[0].slide_path == archive / "two" / "a b_ü.tif"
    shutil.rmtree(archive / "two")
    assert _entries(project, slides=tmp_path / "archive", sizes=sizes)[0].slide_path is None
    assert _entries(project, slides=tmp_path / "archive")[0].slide_path == archive / "one" / "a b_ü.tif"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_slide_in_another_form_of_unicode_is_found_at_its_address_and_by_its_name(
    study: Path, tmp_path: Path, form: Literal["NFC", "NFD"]
) -> None:
    stored = study / "slides" / "a b_ü.tif"
    copied = stored.rename(stored.with_name(unicodedata.normalize(form, stored.name)))
    at_address = _entries(study / "project")[0].slide_path
    assert at_address is not None
    assert at_address.samefile(copied)
    (study / "slides").rename(tmp_path / "gone")
    by_name = _entries(study / "project", slides=tmp_path / "gone")[0].slide_path
    assert by_name is not None
    assert by_name.samefile(tmp_path / "gone" / copied.name)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:/a/b%20c_%C3%BC.tif", "/a/b c_ü.tif"),
        ("file:///a/b.tif", "/a/b.tif"),
        ("file://localhost/a/b.tif", "/a/b.tif"),
        ("file:/D:/slides/b.svs", "D:/slides/b.svs"),
        ("file:///D:/slides/b.svs", "D:/slides/b.svs"),
        ("file://server/share/b.svs", "//server/share/b.svs"),
        ("file:////server/share/b.svs", "//server/share/b.svs"),
        ("D:\\slides\\b.svs", "D:/slides/b.svs"),
        ("\\\\server\\share\\b.svs", "//server/share/b.svs"),
        ("/a/b.tif", "/a/b.tif"),
        ("https://omero.example/webclient/img_detail/1/", None),
        ("relative.tif", None),
    ],
)
def test_addresses_of_every_system_are_understood(uri: str, path: str | None) -> None:
    assert uri_path(uri) == path


def test_windows_project_with_its_slides_finds_them(study: Path) -> None:
    path = study / "project" / "project.qpproj"
    text = path.read_text(encoding="utf-8").replace((study / "project").as_uri(), "file:/D:/my%20study/project")
    path.write_text(text, encoding="utf-8")
    _edit(study / "project", {"uri": "file:/D:/my%20study/slides/a%20b_%C3%BC.tif"})
    assert _entries(study / "project")[0].slide_path == study / "slides" / "a b_ü.tif"


def test_size_that_the_project_lacks_is_taken_from_the_slide(study: Path) -> None:
    _edit(study / "project", {"metadata": None})
    entry = _entries(study / "project", sizes={"a b_ü.tif": (31, 17)})[0]
    assert (entry.width_px0, entry.height_px0, entry.mpp) == (31, 17, None)


def test_arguments_of_the_reader_are_understood(study: Path) -> None:
    _edit(study / "project", {"args": ["--no-crop"]})
    assert not _entries(study / "project")[0].crop_to_bounds
    _edit(study / "project", {"args": ["--series", "0"]})
    assert _entries(study / "project")[0].problem == ""
    _edit(study / "project", {"args": ["--series", "3"]})
    assert "image 3 of its file" in _entries(study / "project")[0].problem
    _edit(study / "project", {"args": None, "uri": "https://omero.example/1"})
    assert "not a file" in _entries(study / "project")[0].problem


def test_classes_are_added_once_and_the_file_kept(study: Path) -> None:
    folder = study / "project"
    path = project_file.classes_path(folder)
    assert project_file.add_classes(folder, [PathClass("Tumor")]) is None
    content = project_file.add_classes(folder, [PathClass("Stroma"), PathClass("Odd")])
    assert content is not None
    assert json.loads(content)["pathClasses"][2:] == [{"name": "Stroma", "color": -6895466}, {"name": "Odd"}]
    path.write_bytes(b'{"pathClasses": [{"name": " "}, {"name": "A", "color": -1.0}, {"name": "B", "color": null}]}')
    assert project_file.read_classes(folder) == [PathClass("A", (255, 255, 255)), PathClass("B")]
    path.write_bytes(b"nonsense")
    with pytest.raises(ProjectError, match="not a QuPath class list"):
        project_file.read_classes(folder)


def test_colours_are_qupaths() -> None:
    assert colours.pack_rgb((200, 0, 0)) == -3670016
    assert colours.unpack_rgb(-3670016) == (200, 0, 0)
    assert colours.unpack_rgb(None) is None
