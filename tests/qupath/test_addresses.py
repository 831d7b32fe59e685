"""Addresses of images: as QuPath writes them, as people type them, and what lies below what."""

import unicodedata
from pathlib import Path

import pytest

from wsplf_cli.qupath.addresses import file_uri, moved, moves_of
from wsplf_cli.qupath.images import existing, uri_path


@pytest.mark.parametrize(
    ("path", "like", "uri"),
    [
        ("/a b/ü+#%=.svs", "", "file:/a%20b/%C3%BC+%23%25=.svs"),
        ("/a/b.svs", "file:///old.svs", "file:///a/b.svs"),
        ("/a/b.svs", "file:/D:/old.svs", "file:/a/b.svs"),
        ("D:/a/b.svs", "file:/old.svs", "file:/D:/a/b.svs"),
        ("D:/a/b.svs", "file:///D:/old.svs", "file:///D:/a/b.svs"),
        ("//server/share/a.svs", "file:/D:/old.svs", "file://server/share/a.svs"),
        ("//server/share/a.svs", "file:////server/old.svs", "file:////server/share/a.svs"),
        ("/a/b.svs", "D:\\old.svs", "file:/a/b.svs"),
    ],
)
def test_an_address_is_written_in_the_form_of_the_old_one(path, like, uri):
    assert file_uri(path, like=like) == uri
    assert uri_path(uri) == path


OLD_FORMS = {
    "file:/D:/My%20Slides/a%20b_%C3%BC.svs": [
        "D:\\My Slides",
        "D:/My Slides/",
        "d:\\my slides",
        "file:/D:/My%20Slides",
        "file:///d:/My%20Slides/",
        "D:/My%20Slides",
    ],
    "file://server/share/My%20Slides/a%20b_%C3%BC.svs": [
        "\\\\server\\share\\My Slides",
        "//SERVER/share/My Slides",
        "file://server/share/My%20Slides",
        "file:////server/share/My%20Slides/",
    ],
    "file:////server/share/My%20Slides/a%20b_%C3%BC.svs": [
        "\\\\server\\share\\My Slides",
        "file://server/share/My%20Slides",
    ],
    "file:/srv/My%20Slides/a%20b_%C3%BC.svs": [
        "/srv/My Slides",
        "/srv/My%20Slides/",
        "file:///srv/My%20Slides",
        "file:/srv/My Slides",
    ],
}


@pytest.mark.parametrize(("uri", "old"), [(uri, old) for uri, olds in OLD_FORMS.items() for old in olds])
def test_the_old_place_may_be_typed_as_any_system_writes_it(tmp_path, uri, old):
    assert moved(uri, moves_of(f"{old}={tmp_path}")) == tmp_path / "a b_ü.svs"


@pytest.mark.parametrize("name", ["a+b.svs", "a#b.svs", "100%.svs", "a%20b.svs", "a=b&c.svs", "a;b,c!.svs"])
def test_odd_characters_survive(tmp_path, name):
    (tmp_path / name).touch()
    uri = file_uri(f"/old place/{name}")
    found = moved(uri, moves_of(f"/old place={tmp_path}"))
    assert found == tmp_path / name
    assert uri_path(file_uri(found.as_posix())) == found.as_posix()


def test_a_folder_with_a_percent_in_its_name_is_taken_as_it_stands(tmp_path):
    moves = moves_of(f"/data/my%20slides={tmp_path}")
    assert moved("file:/data/my%2520slides/a.svs", moves) == tmp_path / "a.svs"
    assert moved("file:/data/my%20slides/a.svs", moves) == tmp_path / "a.svs"


def test_a_move_ends_at_a_folder():
    moves = moves_of("/data/old=/new")
    assert moved("file:/data/older/a.svs", moves) is None
    assert moved("file:/data/old.svs", moves) is None
    assert moved("file:/data/old/deep/a.svs", moves) == Path("/new/deep/a.svs").absolute()
    assert moved("file:/data/Old/a.svs", moves) is None
    assert moved("https://omero.example/data/old/a.svs", moves) is None


def test_the_longest_old_place_wins_whatever_the_order():
    for typed in (["D:\\=/disk", "D:\\study\\b=/b"], ["D:\\study\\b=/b", "D:\\=/disk"]):
        moves = [move for one in typed for move in moves_of(one)]
        assert moved("file:/D:/study/b/x.svs", moves) == Path("/b/x.svs").absolute()
        assert moved("file:/D:/study/c/x.svs", moves) == Path("/disk/study/c/x.svs").absolute()


def test_a_single_file_can_be_moved(tmp_path):
    assert moved("file:/old/a.svs", moves_of(f"/old/a.svs={tmp_path / 'b.svs'}")) == tmp_path / "b.svs"


def test_an_equals_sign_in_a_name_is_told_from_the_one_between(tmp_path):
    odd = tmp_path / "x=y"
    odd.mkdir()
    assert moved("file:/old/a.svs", moves_of(f"/old={odd}")) == odd / "a.svs"
    assert moved("file:/p=q/a.svs", moves_of(f"/p=q={tmp_path}")) == tmp_path / "a.svs"


@pytest.mark.parametrize("typed", ["", "=", "/old=", "=/new", "/old", "relative=/new", "https://a/b=/new"])
def test_what_is_no_move_is_none(typed):
    assert moves_of(typed) == []


def test_a_name_is_found_in_the_other_form_of_unicode(tmp_path):
    stored = tmp_path / unicodedata.normalize("NFD", "ü.svs")
    stored.touch()
    assert existing(tmp_path / unicodedata.normalize("NFC", "ü.svs")).samefile(stored)
    assert existing(tmp_path / "none.svs") is None
    composed = "file:/old/%C3%BC"
    assert moved(f"{composed}/a.svs", moves_of(unicodedata.normalize("NFD", "/old/ü") + "=/new")) is not None


def test_a_path_is_found_whose_names_are_in_several_forms_of_unicode(tmp_path):
    stored = tmp_path / "Ko\u0308ln" / "M\u00fcller" / "pie\u0301.svs"
    stored.parent.mkdir(parents=True)
    stored.touch()
    for typed in ("K\u00f6ln/Mu\u0308ller/pi\u00e9.svs", "Ko\u0308ln/M\u00fcller/pi\u00e9.svs"):
        assert existing(tmp_path / typed).samefile(stored)
    assert existing(tmp_path / "K\u00f6ln" / "pi\u00e9.svs") is None
    assert existing(tmp_path / "none" / "pi\u00e9.svs") is None
