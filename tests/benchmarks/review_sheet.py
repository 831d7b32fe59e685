"""How large the review sheet is, and how soon headless Chromium shows it, with thousands of pending polygons.

The polygons lie on a slide of noisy tissue, whose thumbnails compress badly. Seconds are from the start of the browser
until it has painted the page and stopped, less those of an empty page.

    python tests/benchmarks/review_sheet.py --polygons 5000
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import shapely
from scipy.ndimage import gaussian_filter

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.report import report
from wsplf_cli.options import ProjectOptions, ReportOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Annotation, PathClass, Silent
from wsplf_cli.slides.open import open_slide
from wsplf_cli.synthetic.pyramid import write_pyramid

SIDE_PX, MPP = 8192, 0.5
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def make_project(folder: Path, count: int) -> Path:
    """A project with one slide and so many pending polygons of random size and confidence."""
    rng = np.random.default_rng(0)
    noise = gaussian_filter(rng.normal(size=(SIDE_PX, SIDE_PX)).astype(np.float32), 3)
    shade = (noise / noise.std() * 34)[..., None]
    rgb = np.clip(np.array((190, 120, 170), np.float32) + shade * (1.0, 1.2, 0.6), 0, 255).astype(np.uint8)
    write_pyramid(folder / "slide.tif", rgb, mpp=MPP)
    with open_slide(folder / "slide.tif") as slide:
        levels = [(level.downsample[0], level.width_px, level.height_px) for level in slide.levels]
    image = Image(folder / "slide.tif", "slide.tif", SIDE_PX, SIDE_PX, MPP, levels)
    path = create_project(folder / "project", [image], classes=[PathClass("Tumor", (200, 0, 0))])
    centres, radii = rng.uniform(300, SIDE_PX - 300, (count, 2)), rng.uniform(30, 250, count)
    polygons = [
        Annotation(
            uuid4(),
            shapely.Point(centre).buffer(radius, quad_segs=15),
            "Tumor",
            run_id="run",
            measurements={"wsplf: confidence": float(rng.random())},
        )
        for centre, radius in zip(centres, radii, strict=True)
    ]
    open_project(path, ProjectOptions()).replace("1", origin="pseudolabel", annotations=polygons)
    return path


def seconds_to_paint(browser: str, page: Path, folder: Path) -> tuple[float, float]:
    """Seconds that a fresh browser takes to open a page, take its picture and stop: wall clock, and processor time.

    The best of three, since other work on the machine only adds to it.
    """
    seconds = []
    for attempt in range(3):
        profile, picture = folder / f"profile{attempt}", folder / f"{page.stem}.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"]
        options += [f"--user-data-dir={profile}", f"--screenshot={picture}"]
        began, used = time.perf_counter(), processor_seconds()
        subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True)
        seconds.append((time.perf_counter() - began, processor_seconds() - used))
        shutil.rmtree(profile, ignore_errors=True)
        if not picture.is_file():
            raise SystemExit(f"{browser} painted nothing")
    return min(wall for wall, _ in seconds), min(processor for _, processor in seconds)


def processor_seconds() -> float:
    """Processor time of all processes that this one started and that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Make the page and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--polygons", type=int, default=5000)
    parser.add_argument("--keep", type=Path, help="where to put the page and its picture")
    arguments = parser.parse_args()
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"no browser: one of {', '.join(BROWSERS)}")
    folder = Path(tempfile.mkdtemp())
    try:
        project = open_project(make_project(folder, arguments.polygons), ProjectOptions())
        began = time.perf_counter()
        options = ReportOptions(review=True, out=folder / "review.html")
        page = report(project, project.entries(), options, Silent()).page
        print(f"{arguments.polygons} polygons: {time.perf_counter() - began:.0f} s to write the page")
        print(f"{page.stat().st_size / 1e6:.1f} MB")
        empty = folder / "empty.html"
        empty.write_text("<!doctype html><title>empty</title>")
        blank, full = (seconds_to_paint(browser, file, folder) for file in (empty, page))
        for what, index in (("wall clock", 0), ("processor, all processes", 1)):
            print(f"{full[index] - blank[index]:.2f} s to open ({what}; {blank[index]:.2f} s more for an empty page)")
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for file in (page, page.with_suffix(".png")):
                shutil.copy(file, arguments.keep)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
