"""Readers who review copies of one project, as persons do in QuPath: simulated on the files."""

import shutil
from dataclasses import replace
from uuid import UUID, uuid5

from qupath_objects import delete_annotations
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.review.memory import read_review, write_polygons
from wsplf_cli.schema import REVIEW_KEY, REVIEWED_KEY, Annotation, PathClass, Silent

NAMESPACE = UUID("6f4d7f0a-7b51-4a53-a3a5-5d2f44a1c001")
LEVELS = [(1.0, 1024, 768), (4.0, 256, 192), (16.0, 64, 48)]
SIDE = 60


def square(column, row, *, side=SIDE):
    """A square of ``side`` pixels in a cell of a grid over the tissue of the tiny slide."""
    return box(250 + column * 100, 220 + row * 100, 250 + column * 100 + side, 220 + row * 100 + side)


def identifier(name):
    """The id of the polygon of that name, the same in every test."""
    return uuid5(NAMESPACE, name)


class Copy:
    """One reader's copy of a project."""

    def __init__(self, path):
        self.path = path

    def open(self):
        return open_project(self.path, ProjectOptions())

    def annotations(self, entry_id="1"):
        return self.open().annotations(entry_id)

    def annotation(self, name, entry_id="1"):
        return next(one for one in self.annotations(entry_id) if one.id == identifier(name))

    def change(self, name, /, *, entry_id="1", **fields):
        """Change a polygon; its marks stay on it, as QuPath keeps them."""
        annotation = replace(self.annotation(name, entry_id), **fields)
        self.delete(name, entry_id=entry_id)
        self.open().add(entry_id, [annotation])

    def _review(self, name, word, entry_id, **fields):
        metadata = {**self.annotation(name, entry_id).metadata, REVIEW_KEY: word}
        self.change(name, entry_id=entry_id, metadata=metadata, **fields)

    def accept(self, *names, entry_id="1"):
        for name in names:
            self._review(name, "accepted", entry_id, locked=True)

    def reject(self, *names, entry_id="1"):
        for name in names:
            self._review(name, "rejected", entry_id, rgb=(140, 140, 140))

    def edit(self, name, shape, *, entry_id="1"):
        self.change(name, entry_id=entry_id, shape=shape)

    def delete(self, *names, entry_id="1"):
        delete_annotations(self.open(), entry_id, {identifier(name) for name in names})

    def draw(self, name, shape, *, entry_id="1", path_class="Tumor"):
        self.open().add(entry_id, [Annotation(identifier(name), shape, path_class)])

    def mark_reviewed(self, entry_id="1", who="A. Person"):
        self.open().set_metadata({entry_id: {REVIEWED_KEY: who}})


def base_project(folder, slide, polygons, *, entries=1, origin="pseudolabel"):
    """A project with pseudo-labels: name -> shape, the same on every entry (behind the first, NAME@ENTRY)."""
    images = [Image(slide, f"S{index}.tif", 1024, 768, 0.5, LEVELS) for index in range(1, entries + 1)]
    path = create_project(folder, images, classes=[PathClass("Tumor", (200, 0, 0))])
    for entry in open_project(path, ProjectOptions()).entries():
        suffix = "" if entry.id == "1" else f"@{entry.id}"
        project = open_project(path, ProjectOptions())
        annotations = [
            Annotation(
                identifier(name + suffix),
                shape,
                "Tumor",
                run_id="20260101T000000Z-pseudolabel-abcdef",
                measurements={"wsplf: confidence": 0.5, "wsplf: area um^2": shape.area * 0.25},
            )
            for name, shape in polygons.items()
        ]
        review = read_review(project, entry, ["Tumor"], Silent())
        write_polygons(
            project, review, annotations=annotations, origin=origin, run_id="20260101T000000Z-pseudolabel-abcdef"
        )
    return path


def copies_of(path, folder, names):
    """A copy of a project for each reader."""
    copies = []
    for name in names:
        shutil.copytree(path.parent, folder / name)
        copies.append(Copy(folder / name / path.name))
    return copies
