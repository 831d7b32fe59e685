"""``wsplf segment`` goes on after a stop: what it takes over, what it computes again, and what undo does then."""

import os
import shutil
from dataclasses import replace
from uuid import uuid4

import kills
import numpy as np
import pytest
import torch
from shapely import box
from torch import nn

from wsplf_cli import cache
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.segment import segment
from wsplf_cli.commands.undo import undo
from wsplf_cli.options import ProjectOptions, SegmentOptions, UndoOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Annotation
from wsplf_cli.segmentation import annotate, checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.models import unet
from wsplf_cli.synthetic.pyramid import write_pyramid

SIDE = 256


class Darkness(nn.Module):
    """A segmenter that needs no training: what is dark is tumour."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1, 1, 1, 1), 20.0))

    def forward(self, tiles):
        return self.scale * (0.6 - tiles.mean(dim=1, keepdim=True))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Three slides with a dark rectangle each, and a model."""
    monkeypatch.setattr(unet, "build", lambda classes, **settings: Darkness())
    images = []
    for index in range(3):
        rgb = np.full((SIDE, SIDE, 3), 243, np.uint8)
        rgb[20:-20, 20:-20] = (230, 175, 205)
        rgb[60 : 140 + 20 * index, 60:180] = (130, 60, 140)
        path = tmp_path / f"{index}.tif"
        write_pyramid(path, rgb, mpp=1.0)
        label = {"label": "normal" if index == 2 else "tumor"}
        images.append(Image(path, path.name, SIDE, SIDE, 1.0, [(1.0, SIDE, SIDE)], label))
    path = create_project(tmp_path / "project", images, classes=[])
    described = Checkpoint("unet", {}, ("Tumor",), 64, 1.0, "a run", 0.5)
    state = Darkness().state_dict()
    checkpoint.save(path.parent / "wsplf" / "models" / "default", described, state)
    return path


def run(path, recorder, **options):
    project = open_project(path, ProjectOptions())
    options = SegmentOptions(**options)
    return segment(project, resolve_labels(project.entries(), options.project), options, recorder)


@pytest.fixture
def slides_computed(monkeypatch):
    """The names of the slides that are computed; a run is stopped when it begins with a slide called ``stop_at``."""

    class Computed(list):
        stop_at = ""

    computed = Computed()
    real = annotate.segment_slide

    def compute(entry, *arguments, **named):
        if entry.name == computed.stop_at:
            raise KeyboardInterrupt
        computed.append(entry.name)
        return real(entry, *arguments, **named)

    monkeypatch.setattr(annotate, "segment_slide", compute)
    return computed


@pytest.fixture
def stopped(project, recorder, slides_computed):
    """The project after a run that was stopped before its last slide."""
    slides_computed.stop_at = "2.tif"
    with pytest.raises(KeyboardInterrupt, match="2 of 3 entries were finished"):
        run(project, recorder)
    slides_computed.stop_at = ""
    slides_computed.clear()
    return project


def polygons(path):
    project = open_project(path, ProjectOptions())
    return {entry.id: [one.shape.wkb for one in project.annotations(entry.id)] for entry in project.entries()}


def test_a_second_start_goes_on_and_ends_as_an_undisturbed_run(project, recorder, tmp_path):
    alone = shutil.copytree(project.parent, tmp_path / "alone") / project.name
    before = kills.contents(project.parent)
    whole = run(alone, recorder)
    with pytest.MonkeyPatch.context() as patch:
        real = annotate.segment_slide

        def stop_at_last(entry, *arguments, **named):
            if entry.name == "2.tif":
                raise KeyboardInterrupt
            return real(entry, *arguments, **named)

        patch.setattr(annotate, "segment_slide", stop_at_last)
        with pytest.raises(KeyboardInterrupt):
            run(project, recorder)
    after_stop = kills.contents(project.parent)
    report = run(project, recorder)
    assert "segment: 2 of 3 slides taken over from a stopped run" in recorder.said
    assert polygons(project) == polygons(alone)
    assert sum(map(len, polygons(project).values())) == 2
    for entry, expected in zip(report.entries, whole.entries, strict=True):
        assert entry.counts["area_um2"] == expected.counts["area_um2"]
    assert {one.run_id for one in open_project(project, ProjectOptions()).annotations("1")} == {report.run_id}
    assert not (project.parent / "wsplf" / "resume" / "segment").exists()

    undo(project, None, UndoOptions(), recorder)
    assert kills.contents(project.parent) == after_stop
    undo(project, None, UndoOptions(), recorder)
    assert kills.contents(project.parent) == before


def test_only_the_slides_that_were_not_finished_are_computed(stopped, recorder, slides_computed):
    run(stopped, recorder)
    assert slides_computed == ["2.tif"]


def test_a_run_that_ended_is_not_gone_on_with(project, recorder, slides_computed):
    run(project, recorder)
    slides_computed.clear()
    run(project, recorder)
    assert slides_computed == ["0.tif", "1.tif", "2.tif"]


def test_a_dry_run_keeps_nothing(project, recorder, slides_computed):
    options = SegmentOptions()
    slides_computed.stop_at = "2.tif"
    with pytest.raises(KeyboardInterrupt):
        run(project, recorder, run=replace(options.run, dry_run=True))
    assert not (project.parent / "wsplf" / "resume").exists()


@pytest.mark.parametrize("change", ["threshold", "min_area_um2", "version", "model"])
def test_with_other_options_another_version_or_model_all_is_computed_again(
    stopped, recorder, slides_computed, monkeypatch, change
):
    options = {"threshold": {"threshold": 0.4}, "min_area_um2": {"min_area_um2": 10.0}}.get(change, {})
    if change == "version":
        monkeypatch.setattr(cache, "__version__", "99")
    if change == "model":
        folder = stopped.parent / "wsplf" / "models" / "default"
        for path in folder.iterdir():
            os.utime(path, ns=(1, 1))
    run(stopped, recorder, **options)
    assert slides_computed == ["0.tif", "1.tif", "2.tif"]


@pytest.mark.parametrize("change", ["slide", "label", "review"])
def test_a_slide_that_was_changed_is_computed_again(stopped, recorder, slides_computed, change, tmp_path):
    project = open_project(stopped, ProjectOptions())
    if change == "slide":
        os.utime(tmp_path / "0.tif", ns=(1, 1))
    elif change == "label":
        project.set_metadata({"1": {"label": "normal"}})
    else:
        project.add("1", [Annotation(uuid4(), box(60, 60, 100, 100), "Ignore*")])
    run(stopped, recorder)
    assert slides_computed == ["0.tif", "2.tif"]
