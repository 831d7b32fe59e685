"""wsplf report: what is on the page."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from PIL import Image
from report_page import TABLE, Page, annotation, write_run
from shapely import box

from wsplf_cli.commands.report import report
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.options import ProjectOptions, ReportOptions
from wsplf_cli.report.scores import read_scores
from wsplf_cli.schema import REVIEWED_KEY
from wsplf_cli.synthetic.pyramid import write_pyramid


def write_cam(run, entry_id, values):
    (run / "cams").mkdir()
    Image.fromarray(values).save(run / "cams" / f"{entry_id}.png")


@pytest.fixture
def entries(make_entry, tiny_slide):
    return [
        make_entry("p.tif", word="tumor", label={"Tumor"}, slide_path=tiny_slide),
        make_entry("n.tif", word="normal", label=set(), slide_path=tiny_slide),
    ]


@pytest.fixture
def page_of(memory_project, recorder, tmp_path):
    """Writes a report and gives its page."""

    def make(entries, *, annotations=None, **options):
        project = memory_project(entries)
        project.annotations = lambda entry_id: (annotations or {}).get(entry_id, [])
        report_options = ReportOptions(out=tmp_path / "out" / "report.html", **options)
        out = report(project, entries, report_options, recorder).page
        page = Page(out.read_text(encoding="utf-8"))
        assert page.open == []
        return page

    return make


def test_the_page_shows_the_cohort_and_loads_nothing_from_elsewhere(entries, page_of):
    page = page_of(entries)
    for words in ("p.tif", "n.tif", "tumor", "normal", "1024 × 768", "0.500", "mm² of tissue"):
        assert words in page.text
    addresses = [value for _, name, value in page.attributes if name in ("href", "src", "xlink:href", "action")]
    assert addresses
    assert all(value.startswith(("data:image/", "#")) for value in addresses)
    assert not [tag for tag, _, _ in page.attributes if tag in ("script", "link", "iframe")]
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert {value[1:] for value in addresses if value.startswith("#")} <= set(ids)


def test_outlines_of_each_origin_and_their_areas_are_shown(entries, page_of):
    square = box(400, 300, 600, 500)
    annotations = {
        "1": [
            annotation(square, origin="pseudolabel"),
            annotation(square.buffer(10), origin="pseudolabel", review="accepted"),
            annotation(square, origin="prediction"),
            annotation(square, origin="human"),
            annotation(box(0, 0, 900, 700), origin="prediction", review="rejected"),
        ]
    }
    page = page_of(entries, annotations=annotations)
    groups = [value for tag, name, value in page.attributes if (tag, name) == ("g", "class")]
    assert groups == ["pseudolabel", "prediction", "human"]
    assert "Prediction 2 1 0 1 0.010" in page.text
    assert "Pseudo-label 2 1 1 0 0.012" in page.text


def test_a_reviewed_image_says_so_and_has_nothing_pending(entries, page_of):
    reviewed = replace(entries[0], metadata={REVIEWED_KEY: "2026-01-31 A. Person"})
    page = page_of([reviewed], annotations={"1": [annotation(box(400, 300, 600, 500), origin="pseudolabel")]})
    assert "reviewed" in page.text
    assert "Pseudo-label 1 0 0 0 0.010" in page.text


def test_the_cam_of_the_newest_run_lies_over_the_thumbnail(entries, page_of, tmp_path):
    run = write_run(tmp_path, "1-pseudolabel-a")
    write_cam(run, "1", np.full((48, 64), 200, np.uint8))
    page = page_of(entries)
    pictures = [value for tag, name, value in page.attributes if (tag, name) == ("image", "href")]
    assert [value[:15] for value in pictures] == ["data:image/jpeg", "data:image/png;", "data:image/jpeg"]
    assert "CAM: blue below" in page.text
    assert ("use", "href", "#picture-1") in page.attributes


def test_what_is_not_there_is_left_out(entries, page_of):
    page = page_of(entries)
    for words in ("Scores", "Training curves", "Dice"):
        assert words not in page.text
    assert "No run of wsplf is recorded" in page.text
    assert "has no entries" in page_of([]).text


def test_names_are_escaped(make_entry, tiny_slide, page_of):
    name = '<script>alert("1")</script>&.tif'
    page = page_of([make_entry(name, slide_path=tiny_slide)])
    assert name in page.text
    assert "script" not in [tag for tag, _, _ in page.attributes]


def test_an_entry_that_cannot_be_shown_gets_a_note_and_the_others_a_picture(
    entries, make_entry, memory_project, page_of, recorder
):
    gone = make_entry("gone.tif", problem="gone.tif: slide not found: x.svs", mpp=None)
    page = page_of([gone, *entries])
    assert "1 slide without a picture" in page.text
    assert "slide not found: x.svs" in page.text
    assert [value for _, name, value in page.attributes if name == "id" and value.startswith("slide-")] == [
        "slide-2",
        "slide-3",
    ]
    assert any("gone.tif" in line for line in recorder.said)


def test_annotations_that_cannot_be_read_become_a_note(entries, memory_project, recorder, tmp_path):
    project = memory_project(entries)

    def broken(entry_id):
        raise SlideError("data.qpdata: cut short")

    project.annotations = broken
    out = report(project, entries, ReportOptions(out=tmp_path / "report.html"), recorder).page
    assert "2 slides without a picture" in Page(out.read_text()).text


def test_kept_evaluations_are_shown_newest_first_by_origin(entries, page_of, tmp_path):
    old = TABLE | {"mean_dice": 0.1111}
    for name, hour, table, origin in [
        ("1-evaluate-a", 8, old, "prediction"),
        ("2-evaluate-b", 9, TABLE, "prediction"),
        ("3-evaluate-c", 7, TABLE, "pseudolabel"),
    ]:
        started = f"2026-05-04T{hour:02}:00:00+00:00"
        write_run(tmp_path, name, started=started, details=table, options={"origin": origin})
    page = page_of(entries)
    assert "Pseudo-label 0.765 0.700 0.600 1.2% 1" in page.text
    assert page.text.index("Pseudo-label 0.765") < page.text.index("Prediction 0.765")
    assert "0.111" not in page.text
    assert "0.568" in page.text


def test_scores_come_from_a_file_of_one_or_several_evaluations(entries, page_of, tmp_path):
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(TABLE))
    assert read_scores(path) == {"scores": TABLE}
    path.write_text(json.dumps({"seconds": 3, "prediction": TABLE, "threshold": TABLE}))
    assert list(read_scores(path)) == ["prediction", "threshold"]
    page = page_of(entries, scores=path)
    assert "threshold 0.765" in page.text
    assert "Prediction 0 0 0" in page.text


def test_a_slide_with_an_empty_truth_has_no_agreement_to_show(entries, page_of, tmp_path):
    row = TABLE["entries"][0] | {"name": "n.tif", "truth_um2": 0, "dice": 1.0, "fp_share": 0.0456}
    path = tmp_path / "scores.json"
    path.write_text(json.dumps({"prediction": TABLE | {"entries": [row]}}))
    page = page_of(entries[1:], scores=path)
    assert "– – – 4.6%" in page.text
    assert "1.000" not in page.text


def test_curves_and_settings_of_the_last_finished_runs_are_shown(entries, page_of, tmp_path):
    curves = {"loss": {"x": [1, 2, 3], "y": {"train": [0.9, 0.5, 0.4], "validation": [None, 0.6, 0.5]}}}
    options = {"project": {"path_class": "Tumor", "slides": None}, "epochs": 3}
    write_run(tmp_path, "1-train-a", curves=curves, options=options, started="2026-05-04T10:00:00+00:00")
    write_run(tmp_path, "2-train-b", curves={}, status="failed", started="2026-05-04T11:00:00+00:00")
    page = page_of(entries)
    for words in ("train: loss", "validation", "project.path_class Tumor", "epochs 3", "seed 7", "device cpu", "9.8.7"):
        assert words in page.text
    assert "project.slides" not in page.text
    lines = [value for tag, name, value in page.attributes if (tag, name) == ("path", "style")]
    assert sum("var(--s0)" in line for line in lines) == 2  # the line and its key
    assert sum("var(--s1)" in line for line in lines) == 2
    assert "wsplf 2-train-b" in page.text


def test_suspected_label_errors_of_the_last_run_are_named_and_linked(make_entry, entries, page_of, tmp_path):
    shown = [*entries, make_entry("lost.tif", word="normal", label=set())]
    before = {"1": {"name": "p.tif", "reason": "of an earlier run"}}
    write_run(
        tmp_path, "1-pseudolabel", details={"suspected_label_errors": before}, started="2026-05-01T10:00:00+00:00"
    )
    suspected = {
        "9": {"name": "gone & away.tif", "reason": "no longer in the project"},
        "3": {"name": "lost.tif", "reason": "has no picture"},
        "2": {"name": "n.tif", "reason": "labelled negative, looks like tumour"},
    }
    write_run(tmp_path, "2-pseudolabel", details={"suspected_label_errors": suspected})
    write_run(tmp_path, "3-pseudolabel", status="failed", started="2026-06-01T10:00:00+00:00")
    page = page_of(shown)
    section = page.text[page.text.index("Labels to check") : page.text.index("Cohort")]
    assert "n.tif labelled negative, looks like tumour" in section
    assert "lost.tif has no picture" in section
    assert "gone & away.tif no longer in the project" in section
    assert section.index("n.tif labelled") < section.index("lost.tif") < section.index("gone & away")
    assert "earlier run" not in page.text
    links = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    assert links.count("#slide-2") == 2, "from the labels to check and from the cohort"
    assert links.count("#slide-1") == 1
    assert {link[1:] for link in links} <= {value for _, name, value in page.attributes if name == "id"}


@pytest.mark.parametrize("details", [{}, {"suspected_label_errors": {}}, {"suspected_label_errors": ["p.tif"]}, None])
def test_without_suspected_label_errors_there_is_no_section_for_them(entries, page_of, tmp_path, details):
    write_run(tmp_path, "1-pseudolabel", details=details)
    assert "Labels to check" not in page_of(entries).text


def test_a_page_that_cannot_be_written_is_one_clear_line(entries, memory_project, recorder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProjectError, match="cannot write the report") as caught:
        report(memory_project([]), [], ReportOptions(out=tmp_path / "file" / "report.html"), recorder)
    assert "--out" in caught.value.hint


def test_the_mpp_override_is_used(make_entry, tmp_path, page_of):
    path = tmp_path / "plain.tif"
    tifffile.imwrite(path, np.full((256, 256, 3), 200, np.uint8), tile=(128, 128), photometric="rgb")
    entry = make_entry("plain", slide_path=path, mpp=None, mpp_source="", width_px0=256, height_px0=256)
    assert "256 × 256 px at 0.250 µm" in page_of([entry], project=ProjectOptions(mpp_override=0.25)).text
    assert "nor the slide says its micrometres per pixel" in page_of([entry]).text


def test_marker_ink_is_shown_with_its_area(make_entry, page_of, tmp_path):
    rgb = np.full((768, 1024, 3), 244, np.uint8)
    rgb[100:660, 100:900] = (222, 150, 190)
    rgb[360:440] = (20, 40, 160)
    write_pyramid(tmp_path / "inked.tif", rgb, mpp=0.5)
    page = page_of([make_entry("inked.tif", word="tumor", label={"Tumor"}, slide_path=tmp_path / "inked.tif")])
    assert "mm² of marker ink left out" in page.text
    assert "Marker ink, left out of tissue, learning and polygons" in page.text
    assert ("g", "class", "marker-ink") in page.attributes


def test_a_slide_without_ink_says_nothing_of_it(entries, page_of):
    assert "marker ink" not in page_of(entries).text.lower()


def test_slides_unlike_those_learned_from_are_named_and_linked(entries, page_of, tmp_path):
    assert "Slides unlike those learned from" not in page_of(entries).text
    unlike = {entries[1].id: {"name": entries[1].name, "reason": "unlike the slides that the model learned from: <b>"}}
    write_run(tmp_path, "1-segment", details={"unlike": unlike})
    page = page_of(entries)
    section = page.text[page.text.index("Slides unlike those learned from") : page.text.index("Cohort")]
    assert f"{entries[1].name} unlike the slides that the model learned from: <b>" in section
    assert ("a", "href", "#slide-2") in page.attributes
