"""What a stopped run had finished: kept, read back to the bit, ignored where it is damaged, and removed at the end."""

from uuid import UUID, uuid4

import numpy as np
import pytest
from shapely import Polygon, box

from wsplf_cli.runs.layout import resume_folder
from wsplf_cli.runs.record import start_run
from wsplf_cli.runs.resume import Finished, ResumeStore, finished_polygons, polygons_of
from wsplf_cli.schema import Annotation, PromptedMask


def read(finished):
    return finished


@pytest.fixture
def store(tmp_path):
    return ResumeStore(tmp_path / "resume" / "segment")


def test_a_result_comes_back_to_the_bit(store):
    arrays = {"a.b": np.float16([0.1, np.nan]), "empty": np.zeros((0, 3), np.int8)}
    store.put("CAM", "k1", Finished(arrays, {"x": [1.1, None], "ü": "ß"}))
    finished = ResumeStore(store.folder).get("CAM", "k1", read)
    assert finished.document == {"x": [1.1, None], "ü": "ß"}
    assert finished.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert finished.arrays[name].dtype == array.dtype
        assert finished.arrays[name].tobytes() == array.tobytes()
        assert finished.arrays[name].shape == array.shape


def test_another_key_or_step_is_another_result(store):
    store.put("CAM", "k1", Finished())
    assert store.get("CAM", "k2", read) is None
    assert store.get("features", "k1", read) is None


@pytest.mark.parametrize("size", [0, 10, 150])
def test_a_damaged_file_is_ignored(store, size):
    store.put("CAM", "k1", Finished({"a": np.arange(100)}))
    (path,) = store.folder.iterdir()
    path.write_bytes(path.read_bytes()[:size])
    assert store.get("CAM", "k1", read) is None


def test_a_file_that_does_not_hold_what_is_read_is_ignored(store):
    store.put("CAM", "k1", Finished())
    assert store.get("CAM", "k1", lambda finished: finished.arrays["missing"]) is None


def test_part_files_of_a_killed_run_are_removed_by_the_next(memory_project):
    project = memory_project()
    folder = resume_folder(project.folder, "segment")
    folder.mkdir(parents=True)
    part = folder / ".CAM-k1.npz.0123abcd.wsplf-part"
    part.write_bytes(b"half")
    with start_run(project, "segment", options=None, seed=0) as run:
        assert not part.exists()
        run.resume.put("CAM", "k1", Finished())
        run.finish([])
    assert not folder.exists()


@pytest.mark.parametrize(("stage", "dry_run"), [("segment", True), ("evaluate", False)])
def test_a_run_that_writes_nothing_into_the_project_keeps_nothing(memory_project, stage, dry_run):
    project = memory_project()
    with start_run(project, stage, options=None, seed=0, dry_run=dry_run) as run:
        run.resume.put("CAM", "k1", Finished())
    assert not (project.folder / "wsplf" / "resume").exists()


def test_the_run_that_ends_leaves_nothing(store):
    store.put("CAM", "k1", Finished())
    store.clear()
    assert not store.folder.exists()
    store.clear()


def test_without_a_folder_nothing_is_kept():
    store = ResumeStore(None)
    store.put("CAM", "k1", Finished())
    assert store.get("CAM", "k1", read) is None
    store.clear()


def test_what_cannot_be_written_stops_nothing(store):
    store.folder.parent.mkdir(parents=True)
    store.folder.write_bytes(b"a file where the folder should be")
    store.put("CAM", "k1", Finished())
    assert store.get("CAM", "k1", read) is None


def test_polygons_come_back_with_their_masks_as_those_of_the_new_run(store):
    shape = Polygon([(0.1, 0.2), (9.7, 0.3), (1 / 3, 8)], [[(1, 1), (2, 1), (1, 2)]])
    first = Annotation(uuid4(), shape, "Tumor", run_id="old", measurements={"m": 1 / 3}, metadata={"k": "v"})
    second = Annotation(uuid4(), box(0, 0, 5, 5), None, run_id="old")
    points, labels = np.float32([[1, 2]]), np.int8([1])
    mask = PromptedMask(points, labels, None, box(0, 0, 3, 3), score=0.5, soft_dice=None, used=True)
    store.put("polygons", "k", finished_polygons([first, second], {first.id: [mask]}, {"polygons": 2, "mm2": 0.1}))

    def back(finished):
        return polygons_of(finished, origin="pseudolabel", run_id="new", id_of=lambda number: UUID(int=number))

    annotations, prompted, counts = store.get("polygons", "k", back)
    assert counts == {"polygons": 2, "mm2": 0.1}
    assert [annotation.shape.wkb for annotation in annotations] == [shape.wkb, second.shape.wkb]
    assert [annotation.path_class for annotation in annotations] == ["Tumor", None]
    assert [annotation.id for annotation in annotations] == [UUID(int=0), UUID(int=1)]
    assert {annotation.run_id for annotation in annotations} == {"new"}
    assert (annotations[0].measurements, annotations[0].metadata) == ({"m": 1 / 3}, {"k": "v"})
    (read_mask,) = prompted[UUID(int=0)]
    assert read_mask.shape.equals(mask.shape)
    assert (read_mask.score, read_mask.used, prompted[UUID(int=1)]) == (0.5, True, [])
