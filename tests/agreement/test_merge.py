"""The merged project: what is decided, disputed and left in it, and that it is written whole, undone and made again."""

import json
import shutil

import pytest
from readers import Copy, base_project, copies_of, identifier, square
from shapely import box

from wsplf_cli import cli
from wsplf_cli.agreement import merge as merge_module
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.agree import agree
from wsplf_cli.commands.undo import undo
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import AgreeOptions, ProjectOptions, UndoOptions
from wsplf_cli.review.memory import read_review
from wsplf_cli.review.regions import review_regions
from wsplf_cli.schema import DISPUTED, REVIEWED_KEY, PathClass, Silent, is_pending

GRID = {f"P{column}{row}": square(column, row) for column in range(5) for row in range(2)}
EDITED = square(3, 1, side=48)
DRAWN, REDRAWN, CLOSE = square(0, 2), square(4, 0, side=56), square(4, 0, side=58)


@pytest.fixture(scope="module")
def copies(tmp_path_factory, tiny_slide):
    """Three readers of two slides; on the first they disagree, the second is decided by all."""
    folder = tmp_path_factory.mktemp("readers")
    base = base_project(folder / "base", tiny_slide, GRID, entries=2)
    alice, bob, carol = readers = copies_of(base, folder, ["alice", "bob", "carol"])
    for reader in readers:
        reader.accept("P00", "P01")
        reader.reject("P10")
        reader.delete("P11")
        reader.draw("region", box(0, 0, 900, 700), path_class="Region*")
        reader.accept(*(f"{name}@2" for name in GRID), entry_id="2")
        reader.mark_reviewed("2")
    alice.accept("P20", "P30", "P31")
    bob.accept("P20")
    bob.reject("P30", "P40")
    bob.edit("P31", EDITED)
    carol.reject("P20", "P40")
    carol.delete("P30")
    carol.accept("P31")
    alice.draw("alice", DRAWN)
    bob.draw("bob", REDRAWN)
    carol.draw("carol", CLOSE)
    alice.accept("P40")
    bob.draw("necrosis", box(600, 600, 700, 700), path_class="Necrosis")
    return readers


@pytest.fixture
def merged(copies, tmp_path):
    """Merges the copies and opens the result."""

    def make(*, rule="all", out=None):
        options = AgreeOptions(merge=out or tmp_path / "merged" / "study.qpproj", rule=rule)
        document = agree([copy.open() for copy in copies], options, Silent())
        return open_project(document["merge"]["project"], ProjectOptions())

    return make


def by_name(project, entry_id="1"):
    """The annotations of an entry by the name that the tests give them."""
    names = {identifier(name): name for name in (*GRID, "alice", "bob", "carol", "region", "necrosis")}
    names |= {identifier(f"{name}@2"): name for name in GRID}
    return {names[annotation.id]: annotation for annotation in project.annotations(entry_id)}


def test_what_all_decided_is_decided_and_the_rest_disputed_or_pending(merged):
    project = merged()
    found = by_name(project)
    reviews = {name: annotation.review for name, annotation in found.items() if annotation.path_class == "Tumor"}
    accepted = dict.fromkeys(("P00", "P01", "P31"), "accepted") | {"carol": "pending"}
    assert reviews == accepted | {"P10": "rejected", "P11": "rejected", "P21": "pending", "P41": "pending"}
    assert {name for name, one in found.items() if one.path_class == DISPUTED} == {"P20", "P30", "alice"}
    assert all(is_pending(one) for one in found.values() if one.path_class == DISPUTED)
    assert found["P20"].name == "alice: accepted; bob: accepted; carol: rejected"
    assert found["P20"].metadata["wsplf.disputed"] == "Tumor"
    assert found["P20"].measurements["wsplf: confidence"] == 0.5
    assert found["P00"].locked
    assert found["P31"].metadata["wsplf.readers"] == "alice: accepted; bob: edited; carol: accepted"
    assert found["P31"].shape.equals(GRID["P31"])


def test_of_outlines_of_the_same_polygon_the_one_that_agrees_best_is_decided(merged):
    """Alice accepted P40 (60 pixels wide), bob and carol rejected it and drew squares of 56 and 58 pixels there."""
    found = by_name(merged())
    assert not {"P40", "bob"} & found.keys()
    assert found["carol"].shape.equals(CLOSE)
    assert found["carol"].origin == "human"
    assert found["carol"].metadata["wsplf.readers"] == "alice: accepted; bob: redrawn; carol: redrawn"


def test_the_majority_decides_more(merged):
    found = by_name(merged(rule="majority"))
    assert found["P20"].review == "accepted"
    assert found["P30"].review == "rejected"
    assert found["alice"].path_class == DISPUTED, "nobody's drawing is lost"


def test_what_is_of_other_classes_comes_along_once(merged):
    found = by_name(merged())
    assert (found["region"].path_class, found["necrosis"].path_class) == ("Region*", "Necrosis")
    assert found["necrosis"].origin == "human"


def test_the_disputed_class_has_a_colour_and_the_classes_of_the_project_stay(merged):
    classes = merged().path_classes()
    assert classes[0] == PathClass("Tumor", (200, 0, 0))
    assert PathClass(DISPUTED, (0, 158, 224)) in classes


def test_an_image_that_all_reviewed_and_decided_stays_marked(merged):
    first, second = merged().entries()
    assert not first.reviewed
    assert second.metadata[REVIEWED_KEY] == "A. Person"


def test_a_later_run_learns_nothing_from_a_disputed_polygon_and_leaves_it(merged):
    project = merged()
    regions = review_regions(project.annotations("1"), "Tumor")
    disputed = by_name(project)["P20"].shape
    assert any(shape.equals(disputed) for shape in regions.ignored)
    assert not any(shape.intersects(disputed) for shape in (*regions.positive, *regions.negative))
    project.replace("1", origin="pseudolabel", annotations=[])
    found = by_name(project)
    assert found["P20"].path_class == DISPUTED
    assert "P21" not in found, "a pending pseudo-label is replaced as always"


def test_deleting_a_disputed_polygon_is_a_decision_that_is_remembered(merged):
    project = merged()
    shape = by_name(project)["P20"].shape
    Copy(project.path).delete("P20")
    project = open_project(project.path, ProjectOptions())
    review = read_review(project, project.entries()[0], ["Tumor"], Silent())
    assert any(negative.equals(shape) for negative in review.of("Tumor").negative)


def contents(project):
    """All that is in the entries' data, as bytes, and the project's files."""
    data = sorted(project.folder.glob("data/*/data.qpdata"))
    return [path.read_bytes() for path in data], (project.folder / "classifiers" / "classes.json").read_bytes()


def test_merge_undo_and_merge_again_give_the_same(merged, copies):
    project = merged()
    before, document = contents(project), json.loads(project.path.read_text())
    report = undo(project.path, None, UndoOptions(), Silent())
    assert report.failed == 0
    bare = open_project(project.path, ProjectOptions())
    assert [bare.annotations(entry.id) for entry in bare.entries()] == [[], []]
    assert not any(entry.reviewed for entry in bare.entries())
    assert DISPUTED not in {path_class.name for path_class in bare.path_classes()}
    again = merged()
    assert contents(again) == before
    assert json.loads(again.path.read_text())["images"] == document["images"]
    assert cli.main(["undo", str(project.path)]) == 0


def test_the_projects_of_the_readers_are_only_read(merged, copies):
    def files():
        return {path: path.read_bytes() for copy in copies for path in copy.path.parent.rglob("*") if path.is_file()}

    before = files()
    merged()
    assert files() == before


def test_an_existing_project_a_folder_in_use_and_a_readers_project_are_refused(merged, copies, tmp_path):
    project = merged()
    with pytest.raises(ProjectError, match="already exists") as caught:
        merged()
    assert "wsplf undo" in caught.value.hint
    with pytest.raises(ProjectError, match="is there already"):
        merged(out=project.folder / "other.qpproj")
    with pytest.raises(ProjectError, match="in the project of alice"):
        merged(out=copies[0].path.parent / "merged" / "study.qpproj")


def test_a_project_whose_merge_was_undone_takes_only_the_same_slides(merged, copies, tmp_path):
    project = merged()
    undo(project.path, None, UndoOptions(), Silent())
    options = AgreeOptions(project=ProjectOptions(images="S1"), merge=project.path)
    with pytest.raises(ProjectError, match="made of other slides"):
        agree([copy.open() for copy in copies], options, Silent())


def test_a_failure_leaves_nothing(merged, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(merge_module, "_keep_written", fail)
    with pytest.raises(ProjectError, match="No space left"):
        merged()
    assert list(tmp_path.iterdir()) == []


def test_a_slide_that_the_first_reader_lacks_is_taken_from_another(copies, tmp_path, recorder):
    shutil.copytree(copies[0].path.parent, tmp_path / "less")
    path = tmp_path / "less" / copies[0].path.name
    document = json.loads(path.read_text())
    document["images"] = document["images"][:1]
    path.write_text(json.dumps(document))
    less = type(copies[0])(path)
    options = AgreeOptions(merge=tmp_path / "merged.qpproj")
    result = agree([less.open(), copies[1].open()], options, recorder)
    assert result["unmatched"] == [{"slide": "S2.tif", "in": ["bob"], "missing": ["less"], "reason": ""}]
    project = open_project(tmp_path / "merged.qpproj", ProjectOptions())
    assert [(entry.id, entry.name) for entry in project.entries()] == [("1", "S1.tif"), ("3", "S2.tif")]
    assert {annotation.review for annotation in project.annotations("3")} == {"accepted"}
    assert project.entries()[1].slide_path is not None


def test_detections_and_annotations_of_the_first_reader_stay_as_they_are(copies, merged, tmp_path):
    project = merged()
    assert len(project.objects("1")) == len(project.annotations("1")) + 1, "and the root"
    drawn = [one for one in copies[0].annotations() if one.path_class == "Region*"]
    kept = [one for one in project.annotations("1") if one.path_class == "Region*"]
    assert kept == drawn
