"""Slides are matched by what they are, whatever the order, the names or the addresses in the copies."""

import json

import pytest
from readers import base_project, copies_of, square

from wsplf_cli.agreement.match import match_slides, readers_of
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import ProjectOptions


@pytest.fixture
def copies(tiny_slide, tmp_path):
    """Two copies of a project of three entries, each of a slide of its own."""
    for index in (1, 2, 3):
        (tmp_path / "slides" / f"slide{index}.tif").parent.mkdir(exist_ok=True)
        (tmp_path / "slides" / f"slide{index}.tif").write_bytes(tiny_slide.read_bytes())
    base = base_project(tmp_path / "base", tmp_path / "slides" / "slide1.tif", {"P": square(0, 0)}, entries=3)
    document = json.loads(base.read_text())
    for index, image in enumerate(document["images"], start=1):
        image["serverBuilder"]["uri"] = image["serverBuilder"]["uri"].replace("slide1", f"slide{index}")
    base.write_text(json.dumps(document))
    return copies_of(base, tmp_path, ["one", "two"])


def change(copy, function):
    document = json.loads(copy.path.read_text())
    document["images"] = function(document["images"]) or document["images"]
    copy.path.write_text(json.dumps(document))


def matches(*copies, **options):
    readers = readers_of([copy.open() for copy in copies])
    return [
        tuple(entry and entry.id for entry in slide.entries)
        for slide in match_slides(readers, ProjectOptions(**options))
    ]


ALL = [("1", "1"), ("2", "2"), ("3", "3")]


def rename(images):
    for image in images:
        image["imageName"] = f"case {image['entryID']}"


def relink(images):
    for image in images:
        image["serverBuilder"]["uri"] = "file:/elsewhere/" + image["serverBuilder"]["uri"].rpartition("/")[2]


def rename_files(images):
    for image in images:
        image["serverBuilder"]["uri"] = f"file:/elsewhere/{image['entryID']}.svs"


@pytest.mark.parametrize("function", [list, rename, relink, rename_files])
def test_entries_of_the_same_slide_match(copies, function):
    change(copies[1], function)
    assert matches(*copies) == ALL


def test_the_order_and_the_ids_do_not_matter(copies):
    def reverse(images):
        for number, image in enumerate(reversed(images), start=1):
            image["entryID"] = number + 10
        return images[::-1]

    change(copies[1], reverse)
    assert matches(*copies) == [("1", "13"), ("2", "12"), ("3", "11")]


def test_an_image_of_another_size_never_matches(copies):
    def widen(images):
        images[0]["serverBuilder"]["metadata"]["width"] = 2048

    change(copies[1], widen)
    assert matches(*copies) == [("1", None), *ALL[1:], (None, "1")]


def test_a_missing_slide_is_nobody_elses(copies):
    change(copies[0], lambda images: images[1:])
    assert matches(*copies) == [*ALL[1:], (None, "1")]


def test_a_slide_that_could_be_any_of_several_is_left_and_named(copies):
    def rename_and_relink(images):
        for image in images:
            image["serverBuilder"]["uri"] = "file:/elsewhere/same.tif"
            image["imageName"] = "same"

    change(copies[0], rename_and_relink)
    change(copies[1], rename_and_relink)
    change(copies[1], lambda images: [image | {"entryID": image["entryID"] + 5} for image in images])
    slides = match_slides(readers_of([copy.open() for copy in copies]), ProjectOptions())
    assert [len(slide.readers) for slide in slides] == [1] * 6
    assert [bool(slide.reason) for slide in slides] == [False] * 3 + [True] * 3


def test_entries_of_one_slide_are_told_apart_by_their_names(tiny_slide, tmp_path):
    base = base_project(tmp_path / "base", tiny_slide, {"P": square(0, 0)}, entries=3)
    copies = copies_of(base, tmp_path, ["one", "two"])
    change(copies[1], lambda images: [image | {"entryID": 4 - image["entryID"]} for image in images])
    assert matches(*copies) == [("1", "3"), ("2", "2"), ("3", "1")]


def test_images_chooses_slides_by_the_name_that_any_reader_gives_them(copies):
    change(copies[1], rename)
    assert matches(*copies, images="case 2") == [ALL[1]]
    assert matches(*copies, images="S3") == [ALL[2]]
    with pytest.raises(ConfigError, match="finds none"):
        matches(*copies, images="nothing")


def test_a_third_reader_matches_what_the_others_have(copies, tmp_path):
    change(copies[0], lambda images: images[1:])
    (third,) = copies_of(copies[1].path, tmp_path, ["three"])
    change(third, relink)
    assert matches(*copies, third) == [("2", "2", "2"), ("3", "3", "3"), (None, "1", "1")]


def test_readers_are_named_after_their_folders(copies, tmp_path):
    (tmp_path / "other").mkdir()
    (other,) = copies_of(copies[0].path, tmp_path / "other", ["one"])
    assert [reader.name for reader in readers_of([copy.open() for copy in copies])] == ["one", "two"]
    names = [reader.name for reader in readers_of([copies[0].open(), other.open()])]
    assert names == [f"{tmp_path.name}/one", "other/one"]
