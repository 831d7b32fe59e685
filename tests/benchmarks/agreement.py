"""How long ``wsplf agree`` takes on a large study: slides and polygons in the copies of several readers.

The slides are hard links to one synthetic slide, so that each is opened and its tissue found anew; the polygons have
60 vertices. Prints seconds of wall clock and of processor time for the comparison, and for ``--merge``.

    python tests/benchmarks/agreement.py --slides 500 --polygons 100 --readers 3
"""

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import numpy as np
import shapely

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.agree import agree
from wsplf_cli.options import AgreeOptions, ProjectOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.qupath.qpdata import mark
from wsplf_cli.schema import REVIEW_KEY, Annotation, PathClass, Silent
from wsplf_cli.slides.open import open_slide
from wsplf_cli.synthetic.pyramid import write_pyramid

SIDE_PX, MPP = 4096, 0.5
RATES = {"accepted": 0.7, "rejected": 0.15, "edited": 0.1}  # the rest stays pending


def make_slide(path: Path) -> list[tuple[float, int, int]]:
    """Write a slide of tissue on glass; returns its levels."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:SIDE_PX, 0:SIDE_PX] / SIDE_PX - 0.5
    rgb = np.full((SIDE_PX, SIDE_PX, 3), 244, np.uint8)
    tissue = rows**2 + columns**2 < 0.2
    rgb[tissue] = (222, 150, 190)
    rgb[tissue & (rng.random(tissue.shape) < 0.2)] = (92, 60, 140)
    write_pyramid(path, rgb, mpp=MPP)
    with open_slide(path) as slide:
        return [(level.downsample[0], level.width_px, level.height_px) for level in slide.levels]


def make_polygons(count: int, draw: random.Random) -> list[Annotation]:
    """Pseudo-labels as circles with 60 vertices in a grid over the tissue."""
    across = int(np.ceil(np.sqrt(count)))
    step = 2400 / across
    polygons = []
    for index in range(count):
        x, y = 850 + step * (index % across + 0.5), 850 + step * (index // across + 0.5)
        shape = shapely.Point(x, y).buffer(step * draw.uniform(0.2, 0.45), quad_segs=15)
        identifier = UUID(int=draw.getrandbits(128), version=4)
        polygons.append(Annotation(identifier, shape, "Tumor", run_id="run", measurements={"wsplf: confidence": 0.5}))
    return mark(polygons, origin="pseudolabel")


def reviewed(annotation: Annotation, draw: random.Random) -> Annotation:
    """An annotation as a reader leaves it who decides at random."""
    decision = draw.choices([*RATES, "pending"], [*RATES.values(), 1 - sum(RATES.values())])[0]
    if decision == "edited":
        return replace(annotation, shape=annotation.shape.buffer(draw.uniform(-8, 8)))
    if decision == "pending":
        return annotation
    return replace(annotation, metadata={**annotation.metadata, REVIEW_KEY: decision})


def make_copies(folder: Path, slides: int, polygons: int, readers: int) -> list[Path]:
    """One project for each reader."""
    (folder / "slides").mkdir()
    levels = make_slide(folder / "slides" / "0.tif")
    for index in range(1, slides):
        os.link(folder / "slides" / "0.tif", folder / "slides" / f"{index}.tif")
    paths = [folder / "slides" / f"{index}.tif" for index in range(slides)]
    images = [Image(path, path.name, SIDE_PX, SIDE_PX, MPP, levels) for path in paths]
    copies = []
    for reader in range(readers):
        path = create_project(folder / f"reader{reader}", images, classes=[PathClass("Tumor", (200, 0, 0))])
        project = open_project(path, ProjectOptions())
        draw = random.Random(reader + 1)
        for index in range(slides):
            drawn = make_polygons(polygons, random.Random(f"slide {index}"))
            project.add(str(index + 1), [reviewed(annotation, draw) for annotation in drawn])
        copies.append(path)
    return copies


def main() -> None:
    """Make the copies and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=500)
    parser.add_argument("--polygons", type=int, default=100, help="polygons on each slide")
    parser.add_argument("--readers", type=int, default=3)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        paths = make_copies(folder, arguments.slides, arguments.polygons, arguments.readers)
        for merge in (None, folder / "merged" / "project.qpproj"):
            wall, processor = time.perf_counter(), time.process_time()
            projects = [open_project(path, ProjectOptions()) for path in paths]
            document = agree(projects, AgreeOptions(merge=merge), Silent())
            text = json.dumps(document, default=str)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            print(f"{'agree --merge' if merge else 'agree'}: {wall:.1f} s ({processor:.1f} s of processor)")
        counts = (len(document["slides"]), len(document["polygons"]), len(document["disagreements"]), len(text) / 1e6)
        print("{} slides, {} polygons, {} disagreements, {:.1f} MB of JSON".format(*counts))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
