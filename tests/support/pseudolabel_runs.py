"""Runs of the real pseudolabel command on small cohorts, for the tests of one class and of several."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from shapely import union_all

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.pseudolabel import pseudolabel
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Silent, StageReport
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.weak import features, probes, self_training

SIDE = 512
AREA, CONFIDENCE = "wsplf: area um^2", "wsplf: confidence"


def use_small_fits(patch):
    """Fewer instances, folds and rounds than usual, so that a run takes a few seconds."""
    patch.setattr(features, "INSTANCES_PER_SLIDE", 500)
    patch.setattr(probes, "FOLDS", 3)
    patch.setattr(probes, "REPEATS", 1)
    patch.setattr(self_training, "ROUNDS", 1)


def paint(dense=None, blue=None, *, seed):
    """Pink tissue with a few dark dots: many of them in the box ``dense``, blue in the box ``blue``."""
    rng = np.random.default_rng(seed)
    rgb = np.full((SIDE, SIDE, 3), 244, np.uint8)
    rgb[40:472, 40:472] = (226, 160, 200)
    dots = rng.random((SIDE, SIDE)) < 0.06
    if dense is not None:
        part = _pixels(dense)
        dots[part] |= rng.random(dots[part].shape) < 0.45
    if blue is not None:
        rgb[_pixels(blue)] = (120, 130, 200)
    dots[:40] = dots[472:] = dots[:, :40] = dots[:, 472:] = False
    rgb[dots] = (90, 50, 130)
    return rgb


def _pixels(shape):
    left, top, right, bottom = map(int, shape.bounds)
    return np.s_[top:bottom, left:right]


def make_project(folder, slides):
    """A project of slides at 1 um/px. ``slides`` gives each name its picture and the metadata of its entry."""
    images = []
    for name, (picture, metadata) in slides.items():
        path = folder / f"{name}.tif"
        write_pyramid(path, picture, mpp=1.0)
        images.append(Image(path, path.name, SIDE, SIDE, 1.0, [(1.0, SIDE, SIDE)], metadata))
    return create_project(folder / "project", images, classes=[])


def copy(path, folder):
    """A copy of a project's folder; its slides stay where they are."""
    shutil.copytree(path.parent, folder / "project")
    return folder / "project" / path.name


class Recorder(Silent):
    """A Tracker that keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, message):
        self.said.append(message)


@dataclass
class Done:
    """A project after a run."""

    path: Path
    ids: dict[str, str]
    report: StageReport
    said: list[str]
    memory: dict

    def annotations(self, name):
        return open_project(self.path, ProjectOptions()).annotations(self.ids[name])

    def of_class(self, name, path_class):
        return [annotation for annotation in self.annotations(name) if annotation.path_class == path_class]

    def results(self):
        return {result.name.removesuffix(".tif"): result for result in self.report.entries}

    @property
    def run_folder(self):
        return self.path.parent / "wsplf" / "runs" / self.report.run_id


def run_pseudolabel(path, options, *, only=None, memory=None):
    """Run the command on the entries named in ``only``, or on all."""
    project, tracker = open_project(path, ProjectOptions()), Recorder()
    entries = resolve_labels(project.entries(), options.project)
    ids = {entry.name.removesuffix(".tif"): entry.id for entry in entries}
    chosen = [entry for entry in entries if only is None or entry.name.removesuffix(".tif") in only]
    memory = {} if memory is None else memory
    return Done(path, ids, pseudolabel(project, chosen, options, tracker, memory=memory), tracker.said, memory)


def area(annotations):
    return union_all([annotation.shape for annotation in annotations])


def overlap(annotations, shape):
    """The IoU of what was drawn with ``shape``."""
    drawn = area(annotations)
    return drawn.intersection(shape).area / drawn.union(shape).area
