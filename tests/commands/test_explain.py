"""wsplf explain on a small cohort: the page, the facts, and what is said where there is nothing to explain."""

import hashlib
import json
import re
import shutil
from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest
from PIL import Image
from pseudolabel_runs import copy, make_project, paint, run_pseudolabel, use_small_fits
from qupath_objects import delete_annotations
from report_page import Page
from shapely import Point, box

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.explain import default_folder, explain
from wsplf_cli.commands.report import report
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import ExplainOptions, ProjectOptions, PseudolabelOptions, ReportOptions
from wsplf_cli.recipes import Recipe
from wsplf_cli.schema import Annotation, Silent
from wsplf_cli.weak.kept.fit import load_fit

TUMOUR = box(140, 160, 320, 340)
LABELS = {"p1": "tumor", "p2": "tumor", "p3": "tumor", "n1": "normal", "n2": "normal", "n3": "normal"}


@pytest.fixture(scope="module")
def unrun(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    slides = {
        name: (paint(TUMOUR if label == "tumor" else None, seed=seed), {"label": label})
        for seed, (name, label) in enumerate(LABELS.items())
    }
    return make_project(folder, slides)


def run(path, **recipe):
    with pytest.MonkeyPatch.context() as patch:
        use_small_fits(patch)
        return run_pseudolabel(path, PseudolabelOptions(recipe=Recipe(**recipe)))


@pytest.fixture(scope="module")
def first(unrun, tmp_path_factory):
    return run(copy(unrun, tmp_path_factory.mktemp("first")))


@pytest.fixture
def largest(first):
    return max(first.annotations("p1"), key=lambda annotation: annotation.shape.area)


def explained(path, tmp_path, polygon=None, **options):
    """The facts of the polygons, and the page."""
    project = open_project(path, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    out = tmp_path / "page.html"
    document = explain(project, entries, polygon, ExplainOptions(out=out, **options), Silent())
    return document["polygons"], Page(out.read_text(encoding="utf-8"))


def hashes(folder):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_a_polygon_has_its_facts_and_nothing_is_written_into_the_project(first, largest, tmp_path):
    before = hashes(first.path.parent)
    (facts,), page = explained(first.path, tmp_path, str(largest.id))
    assert hashes(first.path.parent) == before
    assert (facts["kind"], facts["class"], facts["image"], facts["missing"]) == ("pseudo-label", "Tumor", "p1.tif", [])
    assert facts["decisions"][0] == "No person has decided on it yet."
    assert facts["run"] == first.report.run_id
    for words in ("p1.tif", "slide labelled tumor", first.report.run_id, str(largest.id), facts["backbone_digest"]):
        assert words in page.text
    for sentence in facts["why"]:
        assert sentence in page.text


def test_the_page_loads_nothing_and_needs_no_script(first, largest, tmp_path):
    _, page = explained(first.path, tmp_path, str(largest.id))
    addresses = [value for _, name, value in page.attributes if name in ("href", "src", "xlink:href", "action")]
    assert all(value.startswith(("data:image/", "#")) for value in addresses)
    assert not [tag for tag, _, _ in page.attributes if tag in ("script", "link", "iframe")]
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert {value[1:] for value in addresses if value.startswith("#")} <= set(ids)
    assert page.open == []


def test_the_evidence_is_the_classifiers_own(first, largest, tmp_path):
    (facts,), _ = explained(first.path, tmp_path, str(largest.id))
    evidence = facts["evidence"]
    assert evidence["average"] + sum(evidence["parts_um"].values()) == pytest.approx(evidence["logit"], abs=0.02)
    assert evidence["probe"] == "of a probe that did not learn from this slide"
    assert largest.shape.buffer(8).contains(Point(evidence["centre_px0"]))


@pytest.mark.slow
def test_in_all_tissue_the_logit_is_that_of_the_cam(unrun, tmp_path):
    first = run(copy(unrun, tmp_path), search_in="tissue")
    largest = max(first.annotations("p1"), key=lambda annotation: annotation.shape.area)
    (facts,), _ = explained(first.path, tmp_path, str(largest.id))
    evidence = facts["evidence"]
    with Image.open(first.run_folder / "cams" / f"{first.ids['p1']}.png") as image:
        values = np.asarray(image) / 255
    row, column = (int(value / 8) for value in reversed(evidence["centre_px0"]))
    calibration = load_fit(first.run_folder / "fits" / "fit.safetensors").calibration
    cam = values[row, column]
    logit = calibration.threshold + calibration.scale * np.log(cam / (1 - cam))
    of_half_a_grey = calibration.scale * 0.5 / 255 / (cam * (1 - cam))
    assert logit == pytest.approx(evidence["logit"], abs=1.2 * of_half_a_grey), "from a PNG of eight bits"


def test_alike_instances_are_tumour_on_other_positive_slides_and_none_is_of_the_slide_itself(first, largest, tmp_path):
    (facts,), page = explained(first.path, tmp_path, str(largest.id))
    positive, negative = facts["alike_positive"], facts["alike_negative"]
    assert [{row["image"] for row in rows} for rows in (positive, negative)] == [
        {"p2.tif", "p3.tif"},
        {"n1.tif", "n2.tif", "n3.tif"},
    ]
    best = [rows[0]["similarity"] for rows in (positive, negative)]
    assert best[0] > best[1]
    assert TUMOUR.buffer(20).contains(Point(positive[0]["centre_px0"]))
    assert "the point is nearer to positive slides" in page.text


def test_the_masks_of_sam_are_those_that_the_run_had(first, largest, tmp_path):
    (facts,), page = explained(first.path, tmp_path, str(largest.id))
    assert facts["sam"]
    assert any(mask["used"] for mask in facts["sam"])
    assert all(mask["used"] is (mask["soft_dice"] >= 0.5) for mask in facts["sam"])
    assert "of SAM's" in page.text
    cam, share = (facts["measurements"][f"wsplf: {name}"] for name in ("CAM", "SAM share"))
    if "measured" not in facts["sum"]:
        assert 0.85 * cam + 0.15 * share == pytest.approx(facts["confidence"], abs=0.011)


def test_an_image_has_all_of_its_polygons_the_least_certain_first(first, tmp_path):
    facts, page = explained(first.path, tmp_path, image="p1")
    assert {str(polygon["id"]) for polygon in facts} == {str(annotation.id) for annotation in first.annotations("p1")}
    assert [polygon["confidence"] for polygon in facts] == sorted(polygon["confidence"] for polygon in facts)
    assert all(str(polygon["id"]) in page.text for polygon in facts)


def test_what_an_older_run_did_not_keep_is_said_and_the_rest_is_shown(first, largest, tmp_path):
    path = copy(first.path, tmp_path)
    run = path.parent / "wsplf" / "runs" / first.report.run_id
    for name in ("fits", "prompts"):
        shutil.rmtree(run / name)
    (facts,), page = explained(path, tmp_path, str(largest.id))
    assert len(facts["missing"]) == 2
    assert facts["missing"][0] == "This run kept no prompts and masks of SAM."
    assert facts["missing"][1].startswith("This run kept no fit of its classifier")
    assert (facts["evidence"], facts["sam"]) == (None, [])
    assert "CAM over the same tissue" in page.text
    assert "The highest CAM in the polygon is" in page.text


def test_a_polygon_whose_run_folder_was_deleted_is_shown_from_its_metadata(first, largest, tmp_path):
    path = copy(first.path, tmp_path)
    shutil.rmtree(path.parent / "wsplf" / "runs")
    (facts,), page = explained(path, tmp_path, str(largest.id))
    gone = f"The folder of run {first.report.run_id} is not there any more"
    assert facts["missing"] == [f"{gone}: what is shown comes from the annotation itself."]
    assert facts["missing"][0] in page.text
    assert f"{facts['confidence']:.2f}" in page.text


def test_a_persons_annotation_and_an_unknown_id_get_one_line(first, tmp_path):
    path = copy(first.path, tmp_path)
    project, drawn = open_project(path, ProjectOptions()), Annotation(uuid4(), box(0, 0, 50, 50), "Tumor")
    project.replace(first.ids["n1"], origin="human", annotations=[drawn])
    with pytest.raises(ProjectError) as raised:
        explained(path, tmp_path, str(drawn.id))
    expected = f"{drawn.id} is an annotation of a person, class Tumor, on n1.tif: nothing of wsplf to explain"
    assert raised.value.message == expected
    unknown = str(uuid4())
    with pytest.raises(ProjectError, match=f"no annotation of this project has the id {unknown}"):
        explained(path, tmp_path, unknown)
    with pytest.raises(ConfigError, match="is no id"):
        explained(path, tmp_path, "p1.tif")
    with pytest.raises(ProjectError, match=r"n2\.tif has no pseudo-label and no prediction"):
        explained(path, tmp_path, image="n2")


def test_a_deleted_polygon_is_known_by_what_its_run_wrote(first, largest, tmp_path):
    path = copy(first.path, tmp_path)
    delete_annotations(open_project(path, ProjectOptions()), first.ids["p1"], [largest.id])
    with pytest.raises(ProjectError) as raised:
        explained(path, tmp_path, str(largest.id)[:8])
    assert f"run {first.report.run_id} wrote it on p1.tif as a pseudo-label of class Tumor" in raised.value.message
    assert "a person deleted it, or a later run replaced it" in raised.value.message


def test_either_an_id_or_an_image_is_asked_for(first, tmp_path):
    for polygon, image in ((None, None), ("0" * 8, "p1")):
        with pytest.raises(ConfigError, match="needs the id of a polygon or --image NAME"):
            explained(first.path, tmp_path, polygon, image=image)


def test_a_change_of_shape_is_measured(first, largest, tmp_path):
    path = copy(first.path, tmp_path)
    project = open_project(path, ProjectOptions())
    delete_annotations(project, first.ids["p1"], [largest.id])
    project.replace(first.ids["p1"], origin="human", annotations=[replace(largest, shape=largest.shape.buffer(-20))])
    (facts,), _ = explained(path, tmp_path, str(largest.id))
    assert re.fullmatch(
        r"A person changed its shape: .* as wsplf wrote it, .* now, IoU 0\.\d\d\.", facts["decisions"][0]
    )
    assert facts["decisions"][-1].startswith("So the next run learns from it as Tumor")


def test_the_report_links_to_the_pages_beside_it(first, largest, tmp_path):
    project = open_project(first.path, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    name = f"explain-{str(largest.id)[:8]}.html"
    (tmp_path / name).write_text("page")
    (tmp_path / "explain-p2.tif.html").write_text("page")
    page = Page(
        report(project, entries, ReportOptions(out=tmp_path / "r.html"), Silent()).page.read_text(encoding="utf-8")
    )
    links = {value for tag, name, value in page.attributes if (tag, name) == ("a", "href")}
    of_image = {f"explain-p2.tif.html#{annotation.id}" for annotation in first.annotations("p2")}
    assert {name} | of_image == {link for link in links if link.startswith("explain-")}
    assert all(str(annotation.id) in page.text for annotation in first.annotations("p3"))


def test_the_command_prints_the_facts_and_writes_no_page_unless_asked(first, largest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["explain", str(first.path), str(largest.id), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["page"] is None
    assert document["polygons"][0]["id"] == str(largest.id)
    assert list(tmp_path.iterdir()) == []
    assert cli.main(["explain", str(first.path), str(largest.id)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"explain-{str(largest.id)[:8]}.html"]
    assert cli.main(["explain", str(first.path), str(uuid4())]) == 1


def test_the_default_folder_is_never_in_the_project(tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    for folder, expected in ((tmp_path, tmp_path), (project, tmp_path), (project / "data", tmp_path)):
        monkeypatch.chdir(folder)
        assert default_folder(project) == expected
