"""From the CAM of one slide to its polygons, each with what is said of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapely import Polygon

from wsplf_cli.backends import Project
from wsplf_cli.cohort.labels import display_names
from wsplf_cli.cohort.run import Skipped
from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.files import replacing
from wsplf_cli.geometry import mask_polygons, rasterise
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.review.memory import REVIEWED, write_polygons
from wsplf_cli.review.merge import without
from wsplf_cli.runs import layout
from wsplf_cli.runs.record import Run
from wsplf_cli.schema import Annotation, Entry
from wsplf_cli.weak.overlap import apart, share
from wsplf_cli.weak.sam.refine import Refined, Refiner, refine

#: Outlines are simplified by this much: under a third of a nucleus.
TOLERANCE_UM = 1.5
#: Smaller holes are filled: a lumen belongs to its gland, a vessel of this size is no border.
MIN_HOLE_UM2 = 2000.0

Cams = Callable[[CohortSlide], NDArray[np.float32]]
"""The CAM of a slide, float32 [rows, columns] in 0..1, foreground from 0.5 on."""


Slides = Mapping[str, CohortSlide]
"""The slides as a class sees them, by entry id."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A class as it is drawn: the slides as it sees them, their CAMs, and what gives them an outline."""

    path_class: str
    slides: Slides
    cams: Cams
    refiner: Refiner


def resolve_overlap(slides: Sequence[Slides], cams: Sequence[Cams], *, least: Sequence[float | None]) -> list[Cams]:
    """The CAMs of the classes of a project, each with what it keeps where a slide's label names several.

    Args:
        slides: The slides as each class sees them.
        cams: Of each class.
        least: What the core of a piece must reach in the CAM of each class; None where pieces need none.
    """
    if len(cams) < 2:
        return list(cams)

    def of_class(number: int) -> Cams:
        def cam(one: CohortSlide) -> NDArray[np.float32]:
            views = [own[one.entry.id] for own in slides]
            held = [place for place, view in enumerate(views) if view.positive]
            if number not in held or len(held) < 2:
                return cams[number](one)
            shared = share([cams[place](views[place]) for place in held], least=[least[place] for place in held])
            return shared[held.index(number)]

        return cam

    return [of_class(number) for number in range(len(cams))]


def writer(
    project: Project,
    drawings: Sequence[Drawing],
    *,
    cell_px0: Mapping[str, float],
    options: PseudolabelOptions,
    run: Run,
) -> Callable[[Entry], Mapping[str, float] | Skipped]:
    """The last piece of work on one entry: its outlines, of all classes, written into the project at once.

    A slide gets no polygon of a class that its label lacks; how much would have been drawn there is counted.
    ``cell_px0`` is the side of a CAM's cell by entry id.
    """
    rng = np.random.default_rng([options.run.seed, 2])
    seeds = {entry_id: int(rng.integers(2**62)) for entry_id in drawings[0].slides}
    names = display_names([drawing.path_class for drawing in drawings])

    def write(entry: Entry) -> Mapping[str, float] | Skipped:
        one = drawings[0].slides[entry.id]
        cams = [drawing.cams(drawing.slides[entry.id]) for drawing in drawings]
        if run.folder is not None:
            for cam, name in zip(cams, names, strict=True):
                save_cam(cam, layout.cam_file(run.folder, entry.id, name))
        if entry.reviewed:
            return Skipped(REVIEWED)
        drawn, suppressed = [], 0.0
        rng = np.random.default_rng(seeds[entry.id])
        least_px0 = options.min_area_um2 / one.mpp_slide**2
        for drawing, cam in zip(drawings, cams, strict=True):
            view = drawing.slides[entry.id]
            found = outline(view, cam, drawing, cell_px0=cell_px0[entry.id], options=options, run_id=run.id, rng=rng)
            if not view.positive:
                suppressed += sum(a.shape.area for a in found) * view.mpp_slide**2
                found = []
            drawn.append(without(found, view.review.regions.reviewed, min_area_px0=least_px0))
        drawn = apart(drawn, cams, cell_px0=cell_px0[entry.id], min_area_px0=least_px0, mpp_slide=one.mpp_slide)
        annotations = [a for some in drawn for a in some]
        counts = {f"polygons {name}": len(some) for name, some in zip(names, drawn, strict=True) if name} | {
            "polygons": len(annotations),
            "area mm2": sum(a.shape.area for a in annotations) * one.mpp_slide**2 / 1e6,
            "suppressed_um2": suppressed,
        }
        if options.run.dry_run:
            return counts
        replaced = write_polygons(project, one.review, annotations=annotations, origin="pseudolabel", run_id=run.id)
        return counts | {"removed": replaced.removed, "kept": replaced.kept}

    return write


def outline(
    one: CohortSlide,
    cam: NDArray[np.float32],
    drawing: Drawing,
    *,
    cell_px0: float,
    options: PseudolabelOptions,
    run_id: str,
    rng: np.random.Generator,
) -> list[Annotation]:
    """The pseudo-labels of a class on one slide from its CAM, float32 [rows, columns] in 0..1."""
    annotations = []
    for part in refine(
        one.slide(),
        cam,
        drawing.refiner,
        cell_px0=cell_px0,
        mpp=options.mpp,
        mpp_slide=one.mpp_slide,
        rng=rng,
    ):
        shapes = mask_polygons(
            part.vote >= 0.5,
            origin_px0=part.origin_px0,
            downsample=part.downsample,
            tolerance_px0=TOLERANCE_UM / one.mpp_slide,
            min_area_px0=options.min_area_um2 / one.mpp_slide**2,
            min_hole_px0=MIN_HOLE_UM2 / one.mpp_slide**2,
        )
        annotations += [
            Annotation(
                id=uuid4(),
                shape=shape,
                path_class=drawing.path_class,
                origin="pseudolabel",
                review="pending",
                run_id=run_id,
                name="",
                measurements=measure(shape, part, mpp_slide=one.mpp_slide),
            )
            for shape in shapes
        ]
    return annotations


def measure(shape: Polygon, part: Refined, *, mpp_slide: float) -> dict[str, float]:
    """What is said of one polygon: its confidence, what it is made of, and its area."""
    left, top, right, bottom = shape.bounds
    height, width = part.vote.shape
    x, y = ((np.array([left, top]) - part.origin_px0) / part.downsample).astype(np.intp).clip(0)
    size = np.ceil(np.array([right - left, bottom - top]) / part.downsample).astype(np.intp) + 2
    size = np.minimum(size, (width - x, height - y))
    origin = (part.origin_px0[0] + x * part.downsample, part.origin_px0[1] + y * part.downsample)
    inside = rasterise([shape], origin_px0=origin, downsample=part.downsample, size_px=(int(size[0]), int(size[1])))
    window = np.s_[y : y + size[1], x : x + size[0]]
    vote, cam, sam = (layer[window][inside] for layer in (part.vote, part.cam, part.sam))
    covered = sam > 0
    return {
        "wsplf: confidence": float(vote.mean()),
        "wsplf: CAM": float(cam.mean()),
        "wsplf: SAM IoU": float(sam[covered].mean()) if covered.any() else float("nan"),
        "wsplf: SAM share": float(covered.mean()),
        "wsplf: area um^2": float(shape.area * mpp_slide**2),
    }


def save_cam(cam: NDArray[np.float32], path: Path) -> None:
    """The CAM as an 8-bit grey PNG over the whole entry, 128 at the threshold, for the report."""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as part:
        Image.fromarray((cam * 255).round().astype(np.uint8)).save(part, format="PNG")
