"""Entries that lost their data file, or a part of it: an error, until the user accepts the loss."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from annotation_exchange import with_annotations
from shapely import box

from wsplf_cli.backends.embedded import EmbeddedProject, open_project
from wsplf_cli.errors import SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import atomic, qpdata
from wsplf_cli.schema import Annotation

COUNT = 11


def polygon(x_px0: float = 100) -> Annotation:
    return Annotation(uuid4(), box(x_px0, 100, x_px0 + 20, 120), "Tumor", run_id="r9")


@pytest.fixture
def folder(tiny_project: Path) -> Path:
    """The data folder of an entry with eleven annotations."""
    assert len(with_annotations(tiny_project)) == COUNT
    return tiny_project.parent / "data" / "1"


@pytest.fixture
def opened(tiny_project: Path) -> Any:
    def run(**options: Any) -> EmbeddedProject:
        return open_project(tiny_project, ProjectOptions(**options))

    return run


USES = {
    "annotations": lambda project: project.annotations("1"),
    "objects": lambda project: project.objects("1"),
    "replace": lambda project: project.replace("1", origin="pseudolabel", annotations=[polygon()]),
    "replace by nothing": lambda project: project.replace("1", origin="pseudolabel", annotations=[]),
    "add": lambda project: project.add("1", [polygon()]),
}
LOSSES = {
    "missing": ("data.qpdata: the file is missing, but summary.json counts 11 annotations", None),
    "empty": (r"data.qpdata: the file is empty \(0 bytes\); summary.json counts 11 annotations", b""),
    "truncated": ("data.qpdata: cannot be read: .*; summary.json counts 11 annotations", b"\xac\xed\x00\x05w"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("loss", LOSSES)
def test_lost_data_is_an_error_of_every_use_and_nothing_is_written(
    folder: Path, opened: Any, use: str, loss: str
) -> None:
    says, content = LOSSES[loss]
    (folder / "data.qpdata").unlink()
    if content is not None:
        (folder / "data.qpdata").write_bytes(content)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(SlideError, match=says) as error:
        USES[use](opened())
    assert "restore it from a backup" in error.value.hint
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_the_copy_that_qupath_left_is_named_beside_an_empty_file(folder: Path, opened: Any) -> None:
    (folder / "data.qpdata").rename(folder / "data.qpdata.bkp")
    (folder / "data.qpdata").write_bytes(b"")
    for options in ({}, {"accept_missing_data": True}):
        with pytest.raises(SlideError) as error:
            opened(**options).annotations("1")
        assert f"{folder / 'data.qpdata.bkp'}: rename it to data.qpdata" in error.value.hint


def test_the_copy_that_qupath_left_is_read_where_the_file_is_missing_and_a_warning_says_so(
    folder: Path, opened: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "data.qpdata").rename(folder / "data.qpdata.bkp")
    assert len(opened().annotations("1")) == COUNT
    assert "data.qpdata is missing: data.qpdata.bkp is read" in caplog.text


@pytest.mark.parametrize("content", [None, b""])
def test_a_loss_that_is_accepted_makes_the_entry_whole_again(folder: Path, opened: Any, content: bytes | None) -> None:
    (folder / "data.qpdata").unlink()
    if content is not None:
        (folder / "data.qpdata").write_bytes(content)
    assert opened(accept_missing_data=True).annotations("1") == []
    opened(accept_missing_data=True).replace("1", origin="pseudolabel", annotations=[])
    assert opened().annotations("1") == []
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert summary["hierarchy"]["objectTypeCounts"] == {"Root objects": 1}


def test_annotations_are_added_to_an_entry_whose_loss_is_accepted(folder: Path, opened: Any) -> None:
    (folder / "data.qpdata").unlink()
    assert opened(accept_missing_data=True).add("1", [polygon()]) == 1
    assert len(opened().annotations("1")) == 1


@pytest.mark.parametrize("use", USES)
def test_a_file_with_fewer_annotations_than_were_counted_is_an_error(folder: Path, opened: Any, use: str) -> None:
    older = qpdata.create(version="0.6.0", server=None, path="/a.tif", properties={})
    older.add([polygon()], colours={})
    (folder / "data.qpdata").write_bytes(older.dumps())
    with pytest.raises(SlideError, match=r"data.qpdata: 1 of the 11 annotations that summary.json counts are there"):
        USES[use](opened())
    opened(accept_missing_data=True).replace("1", origin="pseudolabel", annotations=[])
    assert len(opened().annotations("1")) == 1


def test_a_file_with_more_objects_than_were_counted_is_read(folder: Path, opened: Any) -> None:
    path = folder / "summary.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"Annotations":11', '"Annotations":2'), encoding="utf-8")
    assert len(opened().annotations("1")) == COUNT


@pytest.mark.parametrize("fewer", [False, True])
@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_write_that_is_stopped_leaves_no_summary_that_counts_more_than_the_file_holds(
    folder: Path, opened: Any, monkeypatch: pytest.MonkeyPatch, fewer: bool, stop_at: int
) -> None:
    put, renamed = atomic.files.put, []

    def stop(part: Path, path: Path) -> None:
        renamed.append(path)
        if len(renamed) > stop_at:
            raise KeyboardInterrupt
        put(part, path)

    project = opened()
    replacing = [] if fewer else [polygon(100 + 30 * index) for index in range(6)]
    with monkeypatch.context() as patch:
        patch.setattr(atomic.files, "put", stop)
        try:
            project.replace("1", origin="pseudolabel", annotations=replacing)
        except KeyboardInterrupt:
            assert stop_at == 1
    assert len(opened().annotations("1")) in {COUNT, COUNT - 2 + len(replacing)}
