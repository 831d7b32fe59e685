"""SAM's prompts and masks of the polygons of an entry, written and read again."""

from uuid import uuid4

import numpy as np
import pytest
from shapely import MultiPolygon, Polygon, box

from wsplf_cli.errors import ProjectError
from wsplf_cli.runs.layout import prompts_file
from wsplf_cli.runs.prompted import keep_prompted, read_prompted
from wsplf_cli.schema import PromptedMask


def test_prompts_and_masks_come_back(tmp_path):
    points = np.array([[10.25, 20.0], [30.0, 40.5]], np.float32)
    labels = np.array([1, 0], np.int8)
    first = PromptedMask(points, labels, np.array([0, 0, 50, 60], np.float32), box(0, 0, 50, 60), 0.91234, 0.75, True)
    second = PromptedMask(points[:1], labels[:1], None, MultiPolygon(), 0.5, None, False)
    polygon, other = uuid4(), uuid4()
    keep_prompted(tmp_path, "7", {polygon: [first, second], other: []})
    read = read_prompted(tmp_path, "7")
    assert read[other] == []
    boxed, plain = read[polygon]
    assert boxed.points_px0 == pytest.approx(points, abs=0.06)
    assert boxed.point_labels.tolist() == [1, 0]
    assert boxed.box_px0.tolist() == [0, 0, 50, 60]
    assert boxed.shape.equals(first.shape)
    assert (boxed.score, boxed.soft_dice, boxed.used) == (0.9123, 0.75, True)
    assert (plain.box_px0, plain.soft_dice, plain.used) == (None, None, False)
    assert plain.shape.is_empty


def test_a_run_that_kept_none_has_none(tmp_path):
    assert read_prompted(tmp_path, "7") is None


def test_a_damaged_file_is_named(tmp_path):
    keep_prompted(
        tmp_path, "7", {uuid4(): [PromptedMask(np.ones((1, 2)), np.ones(1), None, Polygon(), 0.5, None, True)]}
    )
    prompts_file(tmp_path, "7").write_bytes(b"no gzip")
    with pytest.raises(ProjectError, match=r"7\.json\.gz: not a record of SAM's prompts"):
        read_prompted(tmp_path, "7")
