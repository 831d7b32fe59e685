"""Entry names as file names, and back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from wsplf_cli.cohort.names import entries_named, file_names, find_entry, select_entries, stem
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import Entry


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("slide 1 ü.svs", "slide 1 ü.svs"),
        ("a/b:c?d", "a_b_c_d"),
        ("dots...", "dots___"),
        (".hidden", "_hidden"),
        ("CON", "_CON"),
        ("nul.svs", "_nul.svs"),
        ("", "_"),
        ("scan.czi - Scene #1", "scan.czi - Scene #1"),
        ("tab\there", "tab_here"),
    ],
)
def test_names_are_made_safe(make_entry: Callable[..., Entry], name: str, file_name: str) -> None:
    entry = make_entry(name)
    assert file_names([entry]) == {entry.id: file_name}
    if name:
        assert find_entry(file_name, [entry]) == entry


def test_names_that_are_one_on_some_systems_get_the_id(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry(name) for name in ("A.svs", "a.svs", "a/b", "a:b", "x", "x", "x_id5", "u\u0308", "ü")]
    names = file_names(entries)
    assert len({name.casefold() for name in names.values()}) == len(entries)
    assert names[entries[0].id] == f"A.svs_id{entries[0].id}"
    assert all(find_entry(name, entries).id == entry_id for entry_id, name in names.items())


def test_a_long_name_is_cut_to_what_file_systems_take(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry("ü" * 300), make_entry("ü" * 300 + ".svs")]
    names = file_names(entries)
    assert max(len((name + ".geojson.gz").encode()) for name in names.values()) < 255
    assert [find_entry(names[entry.id], entries) for entry in entries] == entries


def test_an_entry_is_found_by_name_with_or_without_suffix_or_by_its_slide(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry("Slide 1.svs"), make_entry("other.tif"), make_entry("third", slide_path=Path("t.ndpi"))]
    for name in ("Slide 1.svs", "slide 1.SVS", "Slide 1", "slide 1.tiff"):
        assert find_entry(name, entries) == entries[0]
    assert find_entry("t", entries) == entries[2]


def test_exact_name_wins_over_similar_ones(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry("a.svs"), make_entry("a.tif"), make_entry("a")]
    assert [find_entry(entry.name, entries) for entry in entries] == entries
    with pytest.raises(ProjectError, match=r"'A\.png' could be any of 3 entries: a\.svs, a\.tif, a"):
        find_entry("A.png", entries)


def test_unknown_name_tells_the_closest(make_entry: Callable[..., Entry]) -> None:
    with pytest.raises(ProjectError, match="no entry is called 'slide_12'") as caught:
        find_entry("slide_12", [make_entry("slide_1.svs"), make_entry("slide_21.svs"), make_entry("zebra")])
    assert caught.value.hint == "--image 'slide_1.svs' or 'slide_21.svs'"


def test_stem_is_the_name_without_the_suffixes_of_files() -> None:
    names = ["a.svs.geojson.gz", "a.svs.GeoJSON", "a.svs.json", "a.svs.xml", "a.svs.gz", "a.svs"]
    assert {stem(name) for name in names} == {"a.svs"}


def test_images_selects_by_regular_expression(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry("D00.tif"), make_entry("E00.tif")]
    assert [entry.name for entry in select_entries(entries, ProjectOptions(images="^D"))] == ["D00.tif"]
    assert len(select_entries(entries, ProjectOptions())) == 2


def test_images_that_find_nothing_are_an_error(make_entry: Callable[..., Entry]) -> None:
    with pytest.raises(ConfigError, match="finds none of 1"):
        select_entries([make_entry("D00.tif")], ProjectOptions(images="X"))


def test_a_name_in_another_unicode_form_is_the_same_name(make_entry: Callable[..., Entry]) -> None:
    composed, decomposed = "\u00fcber.svs", "u\u0308ber"
    entries = [make_entry(composed), make_entry("other.svs", slide_path=Path("slides") / composed), make_entry("x")]
    assert entries_named(decomposed, entries) == entries[:2]
    assert entries_named(decomposed + ".svs", entries) == entries[:2]
    assert entries_named("", entries) == []
