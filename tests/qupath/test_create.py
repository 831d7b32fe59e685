"""New projects: what QuPath records of slides."""

import pytest

from wsplf_cli.qupath.create import create_project, level_sizes
from wsplf_cli.qupath.project_file import locate


def test_levels_of_a_slide_with_bounds_are_those_of_the_scanned_part():
    levels = [(1000, 800), (250, 200), (62, 50)]
    assert level_sizes(levels, shown_px=(1000, 800)) == [(1, 1000, 800), (4, 250, 200), (16, 62, 50)]
    assert level_sizes(levels, shown_px=(603, 501)) == [(1, 603, 501), (4, 150, 125), (16, 37, 31)]
    assert level_sizes([(901, 603), (300, 201)], shown_px=(901, 603))[1] == (3, 300, 201)
    assert level_sizes([(1000, 1000), (400, 390)], shown_px=(1000, 1000))[1][0] == pytest.approx(2.5320, abs=1e-3)
    assert level_sizes([(100, 100), (100, 100)], shown_px=(100, 100)) == [(1, 100, 100)]


def test_a_companion_file_of_macos_is_no_project(tmp_path):
    (tmp_path / "._project.qpproj").write_bytes(b"\0\5\x16\7")
    path = create_project(tmp_path, [], classes=[])
    assert locate(tmp_path) == path
