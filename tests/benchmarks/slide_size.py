"""Peak memory and time of the pipeline on large slides: ``python tests/benchmarks/slide_size.py``.

Slides of several sizes show the same tissue (see ``large_slide.py``). Each size gets a project of its own with one
normal slide. ``wsplf pseudolabel`` and ``wsplf segment`` run in processes of their own; their peak memory and their
processor time are what the system counted. The last lines say how both grow from the smallest slide to the largest. The
model is trained for one epoch on the smallest slide. The default sizes take about twenty minutes on two idle cores.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from large_slide import gland_image, write_large_slide


@dataclass(frozen=True, slots=True)
class Usage:
    """What a command took."""

    wall_s: float
    processor_s: float
    peak_mb: float


def wsplf(*arguments: str) -> Usage:
    """Run wsplf in a process of its own; Linux and macOS only.

    Raises:
        RuntimeError: The command failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "wsplf_cli", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"wsplf {' '.join(arguments)} ended with {process.returncode}")
    kilobytes = usage.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    return Usage(time.perf_counter() - began, usage.ru_utime + usage.ru_stime, kilobytes / 1e3)


def make_project(folder: Path, *, side_px: int, tissue_mm2: float, normal: Path, image_px: int) -> Path:
    """A project of one slide of that size with tumour, and the normal one."""
    (folder / "slides").mkdir(parents=True)
    write_large_slide(
        folder / "slides" / "tumor.tif", gland_image(image_px=image_px), side_px=side_px, tissue_mm2=tissue_mm2
    )
    (folder / "slides" / "normal.tif").symlink_to(normal)
    (folder / "labels.csv").write_text("slide,label\ntumor.tif,tumor\nnormal.tif,normal\n", encoding="utf-8")
    wsplf("project", "create", str(folder / "project"), str(folder / "slides"), "--labels", str(folder / "labels.csv"))
    return folder / "project"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides-px", type=int, nargs="+", default=[32_768, 65_536, 131_072])
    parser.add_argument("--tissue-mm2", type=float, default=19.0)
    parser.add_argument("--image-px", type=int, default=2048, help="side of the repeated image, at 1 um per pixel")
    options = parser.parse_args()
    sides = sorted(options.sides_px)
    usages: dict[tuple[str, int], Usage] = {}
    print("| command | side, px | wall s | processor s | peak MB |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = gland_image(seed=11, tumour_share=0.0, image_px=options.image_px)
        write_large_slide(folder / "normal.tif", image, side_px=sides[0], tissue_mm2=options.tissue_mm2)
        model = ""
        for side_px in sides:
            project = make_project(
                folder / str(side_px),
                side_px=side_px,
                tissue_mm2=options.tissue_mm2,
                normal=folder / "normal.tif",
                image_px=options.image_px,
            )
            usages["pseudolabel", side_px] = wsplf("pseudolabel", str(project))
            if not model:
                wsplf("train", str(project), "--epochs", "1")
                model = str(project / "wsplf" / "models" / "default")
            only = ("--images", "tumor")
            usages["segment", side_px] = wsplf("segment", str(project), "--model", model, *only)
            for command in ("pseudolabel", "segment"):
                used = usages[command, side_px]
                cells = f"{used.wall_s:.0f} | {used.processor_s:.0f} | {used.peak_mb:.0f}"
                print(f"| {command} | {side_px} | {cells} |", flush=True)
    for command in ("pseudolabel", "segment"):
        small, large = usages[command, sides[0]], usages[command, sides[-1]]
        print(
            f"{command}: from {sides[0]} to {sides[-1]} pixels {large.peak_mb / small.peak_mb - 1:+.0%} memory,"
            f" {large.processor_s / small.processor_s - 1:+.0%} processor time"
        )


if __name__ == "__main__":
    main()
