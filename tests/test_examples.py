"""The examples work as they stand."""

import csv
import importlib.util
import io
import uuid
from pathlib import Path

import pytest
from PIL import Image
from shapely import box

from wsplf_cli import settings
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.label_table import match_table, read_table
from wsplf_cli.command_options import COMMANDS
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import Annotation

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name):
    """A script among the examples, as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_example_labels_can_be_read_and_matched(make_entry):
    rows = read_table(EXAMPLES / "labels.csv")
    entries = [make_entry(row["slide"]) for row in rows]
    values, warnings = match_table(rows, entries, label_key="label")
    assert len(values) == len(rows)
    assert warnings == []


@pytest.mark.parametrize("command", COMMANDS)
def test_example_settings_are_valid_for_every_command(command):
    read = settings.read_settings(EXAMPLES / "wsplf.toml", command)
    assert settings.build(COMMANDS[command], read.values, read.recipes) != COMMANDS[command]()


def test_example_settings_keep_working_when_what_is_commented_out_is_used(tmp_path):
    text = (EXAMPLES / "wsplf.toml").read_text(encoding="utf-8")
    path = tmp_path / "wsplf.toml"
    path.write_text(text.replace("\n# sam", "\nsam").replace("\n# slides", "\nslides"), encoding="utf-8")
    read = settings.read_settings(path, "pseudolabel")
    assert (read.values["sam"], read.values["slides"]) == ("vit_b", tmp_path / "scans")
    assert settings.build(COMMANDS["pseudolabel"], read.values, read.recipes).recipe.name == "two-rounds"


def test_read_results_prints_the_area_of_every_slide(tiny_project, capsys):
    project = open_project(tiny_project, ProjectOptions())
    square = Annotation(uuid.uuid4(), box(100, 100, 300, 300), "Tumor")
    project.replace("1", origin="pseudolabel", annotations=[square])
    load("read_results").main(tiny_project)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert len(rows) == 1
    assert rows[0]["slide"] == "positive.tif"
    assert (rows[0]["class"], rows[0]["origin"], rows[0]["review"]) == ("Tumor", "pseudolabel", "pending")
    assert float(rows[0]["area_mm2"]) == pytest.approx(200 * 200 * 0.25 / 1e6)


def test_draw_review_shows_the_selected_the_rejected_and_the_drawn(tiny_project, tmp_path):
    project = open_project(tiny_project, ProjectOptions())
    selected = Annotation(uuid.uuid4(), box(300, 300, 400, 400), "Tumor", measurements={"wsplf: confidence": 0.3})
    sure = Annotation(uuid.uuid4(), box(450, 300, 550, 400), "Tumor", measurements={"wsplf: confidence": 0.9})
    rejected = Annotation(uuid.uuid4(), box(600, 300, 700, 400), "Tumor", review="rejected")
    project.replace("1", origin="pseudolabel", annotations=[selected, sure, rejected])
    script = load("draw_review")
    script.main(tiny_project, "positive.tif", tmp_path / "review.png")
    with Image.open(tmp_path / "review.png") as image:
        pixels = image.convert("RGB")
    scale = 1024 / (pixels.width - script.LIST_PX)
    seen = [
        pixels.getpixel((script.LIST_PX + round(x / scale), script.BAR_PX + round(350 / scale)))
        for x in (300, 450, 600)
    ]
    for rgb, wanted in zip(seen, [script.YELLOW, (200, 0, 0), script.GREY], strict=True):
        assert max(abs(a - b) for a, b in zip(rgb, wanted, strict=True)) < 40
