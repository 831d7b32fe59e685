import os

import numpy as np
import pytest

from wsplf_cli import cache
from wsplf_cli.cache import Store, identity, keep_arrays, kept_arrays, key_of
from wsplf_cli.options import TileOptions

ARRAY = np.arange(512, dtype=np.float16).reshape(2, 16, 16)
FILE_BYTES = ARRAY.nbytes + 128  # with numpy's header


def stored(folder):
    return sorted(path.stem for path in folder.rglob("*.npy"))


def test_an_array_comes_back_in_half_precision_from_memory_and_from_disk(tmp_path):
    Store(tmp_path, most_bytes=10**6).put("a/b", ARRAY.astype(np.float32))
    again = Store(tmp_path, most_bytes=10**6)
    found = again.get("a/b")
    assert found.dtype == np.float16
    assert np.array_equal(found, ARRAY)
    assert again.get("a/b") is found
    assert again.get("a/c") is None


def test_without_a_folder_or_bytes_nothing_is_written(tmp_path):
    for store in (Store(None, most_bytes=10**6), Store(tmp_path, most_bytes=0)):
        store.put("a/b", ARRAY)
        assert store.get("a/b") is not None
    assert stored(tmp_path) == []


def test_the_files_stay_within_the_bound_and_the_least_recently_used_go_first(tmp_path):
    store = Store(tmp_path, most_bytes=4 * FILE_BYTES, memory_bytes=0)
    for number in range(4):
        store.put(f"s/{number}", ARRAY)
        os.utime(tmp_path / "s" / f"{number}.npy", ns=(number + 1, number + 1))
    assert store.get("s/0") is not None  # used now, so 1 is the oldest
    store.put("s/4", ARRAY)
    assert stored(tmp_path) == ["0", "3", "4"]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.npy")) <= store.most_bytes


def test_memory_is_bounded_too(tmp_path):
    store = Store(None, most_bytes=0, memory_bytes=2 * ARRAY.nbytes)
    for name in "abc":
        store.put(name, ARRAY)
    assert [store.get(name) is not None for name in "abc"] == [False, True, True]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00nonsense", b"no array"])
def test_a_damaged_file_is_as_if_it_were_not_there(tmp_path, content):
    (tmp_path / "a.npy").write_bytes(content)
    store = Store(tmp_path, most_bytes=10**6)
    assert store.get("a") is None
    store.put("a", ARRAY)
    assert np.array_equal(Store(tmp_path, most_bytes=10**6).get("a"), ARRAY)


def test_a_folder_that_cannot_be_written_does_not_stop_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    store = Store(tmp_path / "file", most_bytes=10**6)
    store.put("a", ARRAY)
    assert np.array_equal(store.get("a"), ARRAY)


def test_a_folder_that_may_only_be_read_is_of_use(tmp_path, monkeypatch):
    Store(tmp_path, most_bytes=10**6).put("a", ARRAY)

    def refuse(*args, **rest):
        raise PermissionError("read-only")

    monkeypatch.setattr("wsplf_cli.cache.os.utime", refuse)
    assert np.array_equal(Store(tmp_path, most_bytes=10**6).get("a"), ARRAY)


def test_the_key_changes_with_the_options_and_with_the_slide(tmp_path):
    slide = tmp_path / "slide.tif"
    slide.write_bytes(b"1")
    before = key_of((identity(slide), TileOptions()))
    assert before == key_of((identity(slide), TileOptions()))
    assert before != key_of((identity(slide), TileOptions(mpp=0.5)))
    slide.write_bytes(b"12")
    assert before != key_of((identity(slide), TileOptions()))


@pytest.fixture
def user(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "wsplf"


def test_arrays_of_the_user_come_back_as_they_were(user):
    assert kept_arrays("tissue", "a") is None
    arrays = {"shape": np.array([2, 3]), "values": np.arange(6, dtype=np.uint8)}
    keep_arrays("tissue", "a", arrays)
    kept = kept_arrays("tissue", "a")
    assert kept is not None
    assert all((kept[name] == array).all() and kept[name].dtype == array.dtype for name, array in arrays.items())
    assert [path.name for path in (user / "tissue").iterdir()] == ["a.npz"]


def test_a_damaged_file_of_the_user_is_no_array(user):
    keep_arrays("tissue", "a", {"values": np.zeros(3)})
    (user / "tissue" / "a.npz").write_bytes(b"PK")
    assert kept_arrays("tissue", "a") is None


def test_a_users_folder_that_cannot_be_written_stops_nothing(user):
    user.write_text("a file")
    keep_arrays("tissue", "a", {"values": np.zeros(3)})
    assert kept_arrays("tissue", "a") is None


def test_the_files_of_the_user_that_were_used_last_stay(user, monkeypatch):
    monkeypatch.setattr(cache, "MOST_FILES", 20)
    for number in range(20):
        keep_arrays("tissue", f"{number}", {"values": np.zeros(3)})
        os.utime(user / "tissue" / f"{number}.npz", ns=(number, number))
    kept_arrays("tissue", "0")
    keep_arrays("tissue", "20", {"values": np.zeros(3)})
    left = {path.stem for path in (user / "tissue").iterdir()}
    assert left == {str(number) for number in range(21)} - {"1", "2"}
