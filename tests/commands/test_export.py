"""wsplf export."""

import gzip
from pathlib import Path

import pytest
from annotation_exchange import DATA, export_project, with_annotations

from wsplf_cli.errors import ConfigError
from wsplf_cli.qupath import geojson


def test_export_writes_a_file_for_each_entry_with_all_annotations(tiny_project: Path, tmp_path: Path) -> None:
    before = with_annotations(tiny_project)
    report = export_project(tiny_project, tmp_path / "out")
    names = ["negative.tif.geojson", "positive.tif.geojson", "unlabelled.tif.geojson"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    read = geojson.read(tmp_path / "out" / "positive.tif.geojson")
    assert [one.id for one in read] == [one.id for one in before]
    assert [entry.counts for entry in report.entries] == [{"annotations": 11}, {"annotations": 0}, {"annotations": 0}]
    assert geojson.load(tmp_path / "out" / "positive.tif.geojson").rgb["Mine"] == (9, 8, 7)
    assert report.failed == 0


@pytest.mark.parametrize(("origin", "count"), [(("human",), 8), (("pseudolabel", "prediction"), 3), ((), 11)])
def test_export_chooses_by_origin(tiny_project: Path, tmp_path: Path, origin: tuple[str, ...], count: int) -> None:
    with_annotations(tiny_project)
    export_project(tiny_project, tmp_path, origin=origin)
    assert len(geojson.read(tmp_path / "positive.tif.geojson")) == count


def test_unknown_origin_is_refused_before_anything_is_written(tiny_project: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--origin must be one of: human, pseudolabel, prediction, not mine"):
        export_project(tiny_project, tmp_path / "out", origin=("mine",))
    assert not (tmp_path / "out").exists()


def test_folder_that_is_a_file_is_one_clear_line(tiny_project: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="the folder cannot be made"):
        export_project(tiny_project, tmp_path / "out")


def test_entry_that_cannot_be_read_fails_and_the_others_are_exported(tiny_project: Path, tmp_path: Path) -> None:
    with_annotations(tiny_project)
    data = tiny_project.parent / DATA.format(1)
    data.write_bytes(data.read_bytes()[:-40])
    report = export_project(tiny_project, tmp_path / "out")
    assert [entry.status for entry in report.entries] == ["failed", "done", "done"]
    assert report.failed == 1
    assert not (tmp_path / "out" / "positive.tif.geojson").exists()


def test_export_twice_gives_the_same_bytes_and_changes_nothing(tiny_project: Path, tmp_path: Path) -> None:
    with_annotations(tiny_project)
    before = (tiny_project.parent / DATA.format(1)).read_bytes()
    for name in ("a", "b"):
        export_project(tiny_project, tmp_path / name, compress=True)
    first, second = (tmp_path / name / "positive.tif.geojson.gz" for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert gzip.decompress(first.read_bytes()).startswith(b'{"type":"FeatureCollection"')
    assert (tiny_project.parent / DATA.format(1)).read_bytes() == before
