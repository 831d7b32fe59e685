"""The search of folders for images: links, companion files of macOS, folders that cannot be read."""

import os
import shutil
from pathlib import Path

import pytest

from wsplf_cli.qupath.images import Finder, distinct_files, files_in

symlinks = pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")


@pytest.fixture
def archive(tmp_path):
    """A folder with a.tif, and in a folder below it b.tif."""
    folder = tmp_path / "archive"
    (folder / "below").mkdir(parents=True)
    (folder / "a.tif").write_bytes(b"a")
    (folder / "below" / "b.tif").write_bytes(b"b")
    return folder


def names_in(folder, **limits):
    return [path.relative_to(folder).as_posix() for path in files_in(folder, **limits)]


def finder(folder, slides):
    return Finder(folder / "project.qpproj", recorded_uri="", slides=slides, measure=lambda path, **_: (10, 10))


@symlinks
def test_linked_folders_and_files_are_followed(tmp_path, archive):
    study = tmp_path / "study"
    study.mkdir()
    (study / "linked").symlink_to(archive, target_is_directory=True)
    (study / "c.tif").symlink_to(archive / "a.tif")
    assert names_in(study) == ["c.tif", "linked/a.tif", "linked/below/b.tif"]


@symlinks
def test_links_in_a_circle_end_and_each_folder_is_searched_once(archive):
    (archive / "below" / "up").symlink_to(archive, target_is_directory=True)
    (archive / "below" / "itself").symlink_to(archive / "below" / "itself")
    (archive / "beside").symlink_to(archive / "below", target_is_directory=True)
    assert names_in(archive) == ["a.tif", "below/b.tif"]


@symlinks
def test_a_broken_link_is_named(archive, caplog):
    (archive / "gone.tif").symlink_to(archive / "absent.tif")
    assert names_in(archive) == ["a.tif", "below/b.tif"]
    assert "gone.tif is a link to something that is not there" in caplog.text


def test_a_folder_without_permission_is_named(archive, monkeypatch, caplog):
    scandir = os.scandir

    def refuse(folder):
        if folder == archive / "below":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names_in(archive) == ["a.tif"]
    assert f"{archive / 'below'} is not searched: Permission denied" in caplog.text


def test_a_folder_that_is_too_large_to_search_whole_is_named(archive, caplog):
    assert names_in(archive, most=2) == ["a.tif"]
    assert "holds more than 2 files" in caplog.text


@symlinks
def test_a_link_to_the_data_of_a_project_is_not_searched(tmp_path, archive):
    (tmp_path / "other" / "data" / "1").mkdir(parents=True)
    (tmp_path / "other" / "project.qpproj").write_text("{}")
    (tmp_path / "other" / "data" / "1" / "thumbnail.jpg").write_bytes(b"")
    (archive / "elsewhere").symlink_to(tmp_path / "other" / "data", target_is_directory=True)
    assert names_in(archive) == ["a.tif", "below/b.tif"]


def test_companion_files_of_macos_are_passed_over(archive):
    (archive / "._a.tif").write_bytes(b"\0\5\x16\7")
    (archive / "below" / "._b.tif").write_bytes(b"\0\5\x16\7")
    assert names_in(archive) == ["a.tif", "below/b.tif"]


@symlinks
def test_a_file_is_found_under_each_name_that_leads_to_it(tmp_path, archive):
    (archive / "S1.tif").symlink_to(archive / "a.tif")
    search = finder(tmp_path, archive)
    assert search.find("file:/D:/S1.tif", size_px0=(10, 10)) == archive / "S1.tif"
    assert search.find("file:/D:/a.tif", size_px0=(10, 10)) == archive / "a.tif"


def test_one_file_under_several_paths_counts_once(archive):
    os.link(archive / "a.tif", archive / "below" / "a.tif")
    shutil.copy(archive / "a.tif", archive / "below" / "c.tif")
    paths = [archive / "a.tif", archive / "below" / "a.tif", archive / "below" / "c.tif", archive / "absent.tif"]
    assert distinct_files(paths) == [archive / "a.tif", archive / "below" / "c.tif"]


def test_files_of_a_drive_that_does_not_number_them_are_told_apart(archive, monkeypatch):
    stat = Path.stat

    def without_number(path, **options):
        status = list(stat(path, **options))
        status[1] = 0
        return os.stat_result(status)

    monkeypatch.setattr(Path, "stat", without_number)
    assert names_in(archive) == ["a.tif", "below/b.tif"]
    assert len(distinct_files([archive / "a.tif", archive / "below" / "b.tif"])) == 2
