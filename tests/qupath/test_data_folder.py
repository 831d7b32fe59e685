"""What summary.json counts, in every form, and what an entry without its data file has lost."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from wsplf_cli.errors import SlideError
from wsplf_cli.qupath.data_folder import (
    file_bytes,
    find_data,
    how_to_restore,
    lost_objects,
    parse_summary,
    unused_folders,
)


def summary_of(**hierarchy: Any) -> bytes:
    return json.dumps({"timestamp": 1, "imageType": "UNSET", "hierarchy": hierarchy}).encode()


@pytest.mark.parametrize(
    ("hierarchy", "words", "annotations"),
    [
        ({"nObjects": 37, "objectTypeCounts": {"Root objects": 1, "Annotations": 36}}, "36 annotations", 36),
        ({"objectTypeCounts": {"Annotations": 1, "TMA cores": 2, "Cells": 1}}, "1 annotation, 2 TMA cores, 1 cell", 1),
        ({"nObjects": 122, "objectTypeCounts": {"Root objects": 1, "Cells": 121}}, "121 cells", 0),
        ({"nObjects": 13}, "12 objects of other kinds", 0),
        ({"nObjects": 4, "annotationClassificationCounts": {"Tumor": 2, "Unclassified": 1}}, "3 annotations", 3),
        ({"nObjects": "4", "objectTypeCounts": {"Annotations": "3"}}, "3 annotations", 3),
        ({"nObjects": 1, "objectTypeCounts": {"Root objects": 1}}, "", 0),
        ({"nObjects": 0}, "", 0),
    ],
)
def test_objects_are_counted_in_every_form(hierarchy: dict[str, Any], words: str, annotations: int) -> None:
    summary = parse_summary(summary_of(**hierarchy))
    assert (str(summary), summary.annotations, summary.known) == (words, annotations, True)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"{}", b'{"hierarchy": null}', b"\xff\xfe"])
def test_a_summary_that_counts_nothing_is_not_known(content: bytes) -> None:
    assert not parse_summary(content).known


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({}, ""),
        ({"server.json": b"{}", "thumbnail.jpg": b"x"}, ""),
        ({"summary.json": summary_of(nObjects=1)}, ""),
        (
            {"summary.json": summary_of(objectTypeCounts={"Annotations": 36})},
            "missing, but summary.json counts 36",
        ),
        (
            {"summary.json": summary_of(objectTypeCounts={"TMA cores": 9})},
            "summary.json counts 9 TMA cores",
        ),
        ({"summary.json": b""}, "missing, but its summary.json does not say how many objects it held"),
        ({"data.qpdata": b""}, "the file is empty"),
        (
            {"data.qpdata": b"", "summary.json": summary_of(nObjects=3)},
            "(0 bytes); summary.json counts 2 objects",
        ),
        ({"data.qpdata": b"x", "summary.json": summary_of(nObjects=3)}, ""),
        ({"data.qpdata.bkp": b"x", "summary.json": summary_of(nObjects=3)}, ""),
        ({"data.qpdata.bkp": b"", "summary.json": summary_of(nObjects=3)}, "data.qpdata.bkp: the file is empty"),
    ],
)
def test_only_what_was_counted_is_lost(tmp_path: Path, files: dict[str, bytes], says: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    loss = lost_objects(tmp_path)
    assert (says in loss) if says else not loss


def test_an_entry_without_a_folder_lost_nothing_that_is_known(tmp_path: Path) -> None:
    assert lost_objects(tmp_path / "data" / "7") == ""
    assert find_data(tmp_path / "data" / "7") is None


def test_a_link_that_leads_nowhere_is_a_missing_file(tmp_path: Path) -> None:
    (tmp_path / "data.qpdata").symlink_to(tmp_path / "gone")
    (tmp_path / "summary.json").write_bytes(summary_of(nObjects=3))
    assert "is missing" in lost_objects(tmp_path)


def test_a_copy_that_qupath_left_is_named(tmp_path: Path) -> None:
    assert "--accept-missing-data" in how_to_restore(tmp_path)
    (tmp_path / "data.qpdata.bkp").write_bytes(b"x")
    assert f"{tmp_path / 'data.qpdata.bkp'}: rename it to data.qpdata" in how_to_restore(tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error_of_the_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(SlideError, match=r"data\.qpdata: cannot be read: Permission denied"):
        file_bytes(tmp_path / "data.qpdata")


def test_folders_that_no_entry_uses_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("1", "2", "10", "9", "notes", ".hidden"):
        (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / "11").write_text("a file")
    assert [path.name for path in unused_folders(tmp_path, {"1", "3"})] == ["2", "9", "10"]
    assert unused_folders(tmp_path / "none", {"1"}) == []
