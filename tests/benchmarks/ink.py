"""Pseudo-labels with and without marker ink: ``python tests/benchmarks/ink.py --inks black blue green red``.

Every positive slide of a synthetic cohort gets a ring of ink around each piece of its tumour, a line and dots, one
colour a run. For each colour the table holds the mean Dice, the share of ink in the area of the polygons, and the
share of the ink that was found. The first row is the same cohort without ink. A run takes some minutes on one core.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from shapely import union_all
from shapely.geometry import shape

from wsplf_cli.cohort.demo_folder import slide_images
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.evaluate import evaluate
from wsplf_cli.commands.pseudolabel import pseudolabel
from wsplf_cli.geometry import rasterise
from wsplf_cli.options import EvaluateOptions, ProjectOptions, PseudolabelOptions, RunOptions
from wsplf_cli.plugins import load
from wsplf_cli.qupath.create import create_project
from wsplf_cli.schema import PathClass, Silent
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.synthetic.cohort import SyntheticSlide, make_cohort
from wsplf_cli.synthetic.ink import INKS, draw_marks
from wsplf_cli.synthetic.pyramid import write_pyramid


def paint(slide: SyntheticSlide, folder: Path, ink: str, *, seed: int) -> tuple[SyntheticSlide, np.ndarray | None]:
    """A copy of a slide with ink where it is positive, and where the ink is, bool [H, W]."""
    with open_slide(slide.path) as opened:
        pixels = opened.read(0, 0, size_px=(slide.width_px0, slide.height_px0), downsample=1.0)
    truth = union_all([shape(feature["geometry"]) for feature in json.loads(slide.truth.read_text())["features"]])
    cover = None
    if ink and not truth.is_empty:
        rng = np.random.default_rng([seed, int(slide.name[1:3])])
        cover = draw_marks(rng, pixels, truth, ink, mpp=slide.mpp) > 0.5
    path = folder / slide.name
    write_pyramid(path, pixels, mpp=slide.mpp, quality=95)
    return SyntheticSlide(**{name: getattr(slide, name) for name in slide.__slots__} | {"path": path}), cover


def measure(slides: list[SyntheticSlide], folder: Path, ink: str, *, seed: int, device: str) -> dict[str, float]:
    """The figures of one run of ``pseudolabel`` on copies of the slides."""
    folder.mkdir()
    painted = [paint(slide, folder, ink, seed=seed) for slide in slides]
    options = ProjectOptions()
    path = create_project(
        folder / "project", slide_images([slide for slide, _ in painted]), classes=[PathClass("Tumor", (200, 0, 0))]
    )
    project = load("backends", options.backend).open_project(path, options)
    entries = resolve_labels(project.entries(), options)
    pseudolabel(project, entries, PseudolabelOptions(run=RunOptions(device=device)), Silent())
    scores = evaluate(project, entries, EvaluateOptions(truth=slides[0].truth.parent, origin="pseudolabel"), Silent())
    drawn = inked_drawn = inked = inked_found = 0
    for entry, (slide, cover) in zip(entries, painted, strict=True):
        shapes = [annotation.shape for annotation in project.annotations(entry.id)]
        polygons = rasterise(shapes, origin_px0=(0.0, 0.0), downsample=1.0, size_px=(slide.width_px0, slide.height_px0))
        drawn += int(polygons.sum())
        if cover is None:
            continue
        inked_drawn += int((polygons & cover).sum())
        with open_slide(slide.path) as opened:
            mask = tissue_mask(opened, mpp_slide=slide.mpp)
        rows, columns = ((np.arange(size) / mask.downsample).astype(int) for size in cover.shape)
        inked += int(cover.sum())
        inked_found += int((cover & ~mask.mask[np.ix_(rows, columns)]).sum())
    return {
        "mean_dice": scores["mean_dice"],
        "ink_of_polygons": inked_drawn / max(drawn, 1),
        "ink_left_out": inked_found / max(inked, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--inks", nargs="+", default=list(INKS), choices=list(INKS))
    parser.add_argument("--size-px", type=int, default=2048)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    print("| ink | mean Dice | ink, of polygons | ink left out of tissue |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slides = list(make_cohort(folder / "cohort", seed=options.seed, test=(0, 0), size_px=options.size_px))
        for ink in ["", *options.inks]:
            figures = measure(slides, folder / (ink or "none"), ink, seed=options.seed, device=options.device)
            cells = f"{figures['mean_dice']:.3f} | {figures['ink_of_polygons']:.2%} | {figures['ink_left_out']:.1%}"
            print(f"| {ink or 'none'} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
