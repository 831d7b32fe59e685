"""Files are written whole or not at all; records become JSON."""

import errno
import json
import uuid
from pathlib import Path

import numpy as np
import pytest

from wsplf_cli.files import json_text, json_value, replacing, write_bytes, write_json
from wsplf_cli.schema import EntryResult, SlideLabel


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    with pytest.raises(TypeError), replacing(path) as part, part.open("wb") as stream:
        stream.writelines([b"half", "not bytes"])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(OSError, match=r"No space.*a\.json"), replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_permissions_of_a_replaced_file_stay(tmp_path):
    path = tmp_path / "a.json"
    write_bytes(path, b"old")
    path.chmod(0o640)
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


def test_json_has_no_nan_and_reads_back(tmp_path):
    write_json(tmp_path / "a.json", {"x": float("nan"), "y": [np.float32(0.5), np.inf, np.int64(3)], "ü": np.zeros(2)})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"x": None, "y": [0.5, None, 3], "ü": [0.0, 0.0]}


def test_records_sets_paths_and_ids_become_json():
    value = json_value({"label": SlideLabel(frozenset("ba")), "path": Path("a/b"), "id": uuid.UUID(int=1), 3: True})
    assert value == {"label": {"classes": ["a", "b"]}, "path": "a/b", "id": str(uuid.UUID(int=1)), "3": True}
    assert json.loads(json_text(EntryResult("1", "a", "done")))["status"] == "done"
