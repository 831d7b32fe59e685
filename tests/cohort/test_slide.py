"""A slide of a cohort: what is prepared of it, and what cannot be used."""

import numpy as np
import pytest
from shapely import box

from wsplf_cli.cohort import slide as module
from wsplf_cli.cohort.slide import CohortSlide, prepare_cohort, require_both_labels, tiles_of
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.recipes import Recipe
from wsplf_cli.review.memory import Review
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import Annotation, EntryResult, TileGrid, TissueMask
from wsplf_cli.synthetic.pyramid import write_pyramid

OPTIONS = PseudolabelOptions(recipe=Recipe(tile_px=64))


@pytest.fixture
def entries(make_entry, tiny_slide):
    return [make_entry("a.tif", label={"Tumor"}, slide_path=tiny_slide), make_entry("b.tif", label=set())]


@pytest.fixture
def cohort(entries, memory_project, tiny_slide, recorder, make_entry):
    chosen = [entries[0], make_entry("c.tif", label=set(), slide_path=tiny_slide)]
    return prepare_cohort(memory_project(chosen), chosen, ["Tumor"], OPTIONS, recorder).slides


def test_a_slide_is_prepared_with_tissue_tiles_and_counts(entries, memory_project, recorder):
    prepared = prepare_cohort(memory_project(entries), entries, ["Tumor"], OPTIONS, recorder)
    (slide,), results = prepared.slides, prepared.results
    assert slide.entry is entries[0]
    assert slide.mpp == 0.5
    assert slide.tissue.mask.any()
    assert slide.grid.side_px0 == 128
    tissue_mm2 = np.pi * 380 * 280 * 0.25 / 1e6
    assert results[0].counts["tiles"] == len(slide.grid.xy_px0) > 10
    assert results[0].counts["tissue mm2"] == pytest.approx(tissue_mm2, rel=0.1)


def test_a_slide_that_cannot_be_read_fails_alone(entries, memory_project, recorder):
    prepared = prepare_cohort(memory_project(entries), entries, ["Tumor"], OPTIONS, recorder)
    slides, results = prepared.slides, prepared.results
    assert [result.status for result in results] == ["done", "failed"]
    assert [slide.entry.name for slide in slides] == ["a.tif"]


def test_tiles_overlap_by_half(cohort):
    positions = np.unique(cohort[0].grid.xy_px0[:, 0])
    assert np.diff(positions).min() == 64


def test_the_mpp_is_the_projects_and_a_difference_is_said(make_entry, tiny_slide, memory_project, recorder):
    entry = make_entry("a.tif", label={"Tumor"}, slide_path=tiny_slide, mpp=1.0)
    (slide,) = prepare_cohort(memory_project([entry]), [entry], ["Tumor"], OPTIONS, recorder).slides
    assert slide.mpp == 1.0
    assert slide.grid.side_px0 == 64
    assert any("using the project's" in line for line in recorder.said)


def test_a_review_is_read_for_each_class(entries, memory_project, recorder, monkeypatch):
    project = memory_project(entries)
    drawn = Annotation(id=None, shape=box(0, 0, 50, 50), path_class="Tumor")
    monkeypatch.setattr(project, "annotations", lambda entry_id: [drawn])
    (slide,) = prepare_cohort(project, entries[:1], ["Tumor", "Stroma"], OPTIONS, recorder).slides
    assert [len(slide.regions(name).positive) for name in ("Tumor", "Stroma")] == [1, 0]
    assert [len(slide.regions(name).negative) for name in ("Tumor", "Stroma")] == [0, 1]


def test_a_label_that_names_other_classes_is_negative(cohort):
    assert cohort[0].is_positive("Tumor")
    assert not cohort[0].is_positive("Stroma")
    assert not cohort[1].is_positive("Tumor")


def test_what_a_person_decided_about_tiles_is_known_only_where_it_teaches(make_entry):
    grid = TileGrid("1", 64, 1.0, 64.0, np.array([[0, 0], [64, 0]], np.int32), np.ones(2, np.float32))
    regions = {
        "Tumor": ReviewRegions(positive=(box(64, 0, 96, 64),)),
        "Stroma": ReviewRegions(ignored=(box(0, 0, 64, 64),)),
    }
    slide = CohortSlide(make_entry(), 1.0, TissueMask(np.ones((4, 4), bool), 8.0), grid, Review("1", (), regions))
    layers = slide.known_tiles("Tumor", np.arange(2))
    assert layers.shape == (2, 2, 8, 8)
    assert not layers[0].any()
    assert layers[1, 0].tolist() == [[1] * 4 + [0] * 4] * 8
    assert slide.known_tiles("Stroma", np.arange(2)) is None
    assert slide.known_tiles("Lymphocytes", np.arange(2)) is None


@pytest.mark.parametrize("kept_bytes", [0, 10**9])
def test_tiles_are_the_same_from_memory_and_from_the_slide(cohort, monkeypatch, kept_bytes):
    monkeypatch.setattr(module, "KEPT_BYTES", kept_bytes)
    reads = []
    read_tiles = module.read_tiles
    monkeypatch.setattr(
        module,
        "read_tiles",
        lambda entry, grid, indices, mask: reads.append(len(indices)) or read_tiles(entry, grid, indices, mask=mask),
    )
    tiles = tiles_of(cohort)[0]
    assert tiles.slide is cohort[0]
    indices = np.array([5, 2])
    expected = read_tiles(cohort[0].entry, cohort[0].grid, indices)
    for _ in range(2):
        assert np.array_equal(tiles.read(indices), expected)
    assert reads == ([len(tiles)] if kept_bytes else [2, 2])


def test_both_labels_are_needed_and_the_reasons_are_given(cohort):
    require_both_labels(cohort, "Tumor", [])
    results = [EntryResult("9", "x.tif", "failed", reason="x.tif: damaged"), EntryResult("1", "a.tif", "done")]
    with pytest.raises(ProjectError, match=r"^no positive slide can be used: x\.tif: damaged$") as caught:
        require_both_labels(cohort[1:], "Tumor", results)
    assert "wsplf doctor" in caught.value.hint
    with pytest.raises(ProjectError, match="no negative slide"):
        require_both_labels(cohort[:1], "Tumor", results)


def test_the_data_of_an_entry_is_read_once_for_all_classes(entries, memory_project, recorder, monkeypatch):
    project, reads = memory_project(entries), []
    monkeypatch.setattr(project, "annotations", lambda entry_id: reads.append(entry_id) or [])
    prepare_cohort(project, entries, ["Tumor", "Stroma"], OPTIONS, recorder)
    assert reads == [entry.id for entry in entries]


def test_a_slide_with_marker_ink_says_so_and_its_tiles_do_not_show_it(make_entry, memory_project, recorder, tmp_path):
    rng = np.random.default_rng(0)
    rgb = np.full((768, 1024, 3), 244, np.uint8)
    rgb[100:660, 100:900] = (222, 150, 190)
    rgb[100:660, 100:900][rng.random((560, 800)) < 0.2] = (92, 60, 140)
    rgb[380:440] = (200, 30, 40)
    write_pyramid(tmp_path / "inked.tif", rgb, mpp=0.5)
    entry = make_entry("inked.tif", label={"Tumor"}, slide_path=tmp_path / "inked.tif")
    prepared = prepare_cohort(memory_project([entry]), [entry], ["Tumor"], OPTIONS, recorder)
    (slide,) = prepared.slides
    assert prepared.results[0].counts["ink mm2"] == pytest.approx((60 + 2 * 16) * 1024 * 0.25 / 1e6, rel=0.2)
    assert any("1 slide shows marker ink" in message for message in recorder.said)
    (tiles,) = tiles_of([slide])
    assert len(tiles) > 10
    pixels = tiles.read(np.arange(len(tiles))).astype(int)
    assert not ((pixels[..., 0] > 150) & (pixels[..., 1] < 60)).any()
