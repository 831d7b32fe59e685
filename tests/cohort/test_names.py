"""Entry names as file names, and back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from wsplf_cli.cohort.names import EntryNames, file_names, select_entries, stem
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import Entry, Step


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
        assert EntryNames([entry]).find(file_name) == entry


def test_names_that_are_one_on_some_systems_get_the_id(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry(name) for name in ("A.svs", "a.svs", "a/b", "a:b", "x", "x", "x_id5", "u\u0308", "ü")]
    names = file_names(entries)
    assert len({name.casefold() for name in names.values()}) == len(entries)
    assert names[entries[0].id] == f"A.svs_id{entries[0].id}"
    assert all(EntryNames(entries).find(name).id == entry_id for entry_id, name in names.items())


def test_a_long_name_is_cut_to_what_file_systems_take(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry("ü" * 300), make_entry("ü" * 300 + ".svs")]
    names = file_names(entries)
    assert max(len((name + ".geojson.gz").encode()) for name in names.values()) < 255
    assert [EntryNames(entries).find(names[entry.id]) for entry in entries] == entries


def test_an_entry_is_found_by_name_with_or_without_suffix_or_by_its_slide(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry("Slide 1.svs"), make_entry("other.tif"), make_entry("third", slide_path=Path("t.ndpi"))]
    for name in ("Slide 1.svs", "slide 1.SVS", "Slide 1", "slide 1.tiff"):
        assert EntryNames(entries).find(name) == entries[0]
    assert EntryNames(entries).find("t") == entries[2]


def test_exact_name_wins_over_similar_ones(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry("a.svs"), make_entry("a.tif"), make_entry("a")]
    assert [EntryNames(entries).find(entry.name) for entry in entries] == entries
    with pytest.raises(ProjectError, match=r"'A\.png' could be any of 3 entries: a\.svs, a\.tif, a"):
        EntryNames(entries).find("A.png")


def test_unknown_name_tells_the_closest(make_entry: Callable[..., Entry]) -> None:
    with pytest.raises(ProjectError, match="no entry is called 'slide_12'") as caught:
        EntryNames([make_entry("slide_1.svs"), make_entry("slide_21.svs"), make_entry("zebra")]).find("slide_12")
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
    names = EntryNames(entries)
    assert names.of_slide(decomposed) == entries[:2]
    assert names.of_slide(decomposed + ".svs") == entries[:2]
    assert names.of_slide(" ") == []
    assert names.find(decomposed) == entries[0]
    assert select_entries(entries, ProjectOptions(images=f"^{decomposed}")) == entries[:1]


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("Fall 12.3", "Fall 12.3"),
        ("fall 12.3.tif", "Fall 12.3"),
        ("D11", "D11.ome.tif"),
        ("D11.ome", "D11.ome.tif"),
        ("d11.OME.TIFF", "D11.ome.tif"),
        ("scan", "scan.vsi"),
        ("D06.tif - Series 1_2_ overview", "D06.tif - Series 1/2: overview"),
        ("D06.TIF - series 1/2: overview", "D06.tif - Series 1/2: overview"),
        ("back_slash", "back\\slash"),
        ("trailing", "trailing "),
        ("trailing_", "trailing "),
        ("\U0001f610", "\U0001f610.svs"),
    ],
)
def test_a_name_keeps_its_dots_and_is_found_as_its_file_is_called(
    make_entry: Callable[..., Entry], name: str, means: str
) -> None:
    names = (
        "Fall 12.3",
        "Fall 12.4",
        "D11.ome.tif",
        "D1.tif",
        "scan.vsi",
        "back\\slash",
        "trailing ",
        "\U0001f610.svs",
    )
    entries = [make_entry(entry_name) for entry_name in (*names, "D06.tif - Series 1/2: overview")]
    assert EntryNames(entries).find(name).name == means


@pytest.mark.parametrize("name", ["Fall 12", "Fall", "D06", "D11.ome.tif.x", "D", ".tif"])
def test_a_part_of_a_name_is_not_the_name(make_entry: Callable[..., Entry], name: str) -> None:
    entries = [make_entry(entry_name) for entry_name in ("Fall 12.3", "D06.tif - Series 1/2", "D11.ome.tif")]
    with pytest.raises(ProjectError, match="no entry is called"):
        EntryNames(entries).find(name)


def test_names_that_differ_in_case_alone_are_told_apart_where_they_are_exact(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry("A.svs"), make_entry("a.svs")]
    names = EntryNames(entries)
    assert [names.of_slide(entry.name) for entry in entries] == [[entry] for entry in entries]
    assert [names.find(entry.name) for entry in entries] == entries
    with pytest.raises(ProjectError, match="any of 2 entries"):
        names.find("A")


@pytest.mark.parametrize(
    "name", ["B/slide1.tif", "b\\slide1", "D:\\study\\B\\slide1.tif", "study/B/SLIDE1.tif", "./B/slide1.tif"]
)
def test_slides_of_one_name_are_told_apart_by_their_folder(make_entry: Callable[..., Entry], name: str) -> None:
    entries = [
        make_entry("slide1.tif", slide_path=Path("/data/A/slide1.tif")),
        make_entry("slide1.tif", recorded_path="D:/study/B/slide1.tif"),
        make_entry("slide1.tif", slide_path=Path("/data/AB/slide1.tif")),
    ]
    names = EntryNames(entries)
    assert names.of_slide(name) == [entries[1]]
    assert names.find(name) == entries[1]
    assert names.of_slide("slide1") == entries
    assert names.of_slide("C/slide1.tif") == []


def test_a_turned_image_is_meant_by_its_slide_only_for_what_is_in_the_slides_coordinates(
    make_entry: Callable[..., Entry],
) -> None:
    turned = make_entry("overview", slide_path=Path("/data/s.svs"), steps=(Step("rotated", (1,)),))
    names = EntryNames([turned, make_entry("x")])
    assert names.candidates("s") == []
    assert names.candidates("s", in_slide=True) == names.of_slide("s") == names.candidates("Overview") == [turned]


def test_file_names_stay_apart_when_names_look_like_names_with_ids(make_entry: Callable[..., Entry]) -> None:
    entries = [make_entry(name) for name in ("x", "x", "x_id1", "x_id1_id3", "bad \udc80 name")]
    names = file_names(entries)
    assert len(set(names.values())) == len(entries)
    assert names[entries[4].id].encode("utf-8") == b"bad _ name"
