"""Which slides ``segment`` calls unlike those that a model learned from: ``python tests/benchmarks/likeness.py``.

Needs the shared data (WSPLF_SHARED_DATA). The models are those of glas-dev and of demo cohorts; what they say of a
slide does not depend on their training, so that none is trained. Slides of the same kind: each slide of a cohort with a
model of the others, one half of a cohort with a model of the other half (``--halves`` times), and another cohort of the
same kind (``--same``, glas-dev2 unless said otherwise; ``--same none`` leaves it alone). Unlike ones: the other kind of
cohort, the CMU and TCGA slides, and slides of glas-dev that are stained differently, blurred, or of another
magnification than their pixel size says. Takes about ten minutes on one core.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.color import hed2rgb, rgb2hed

from wsplf_cli.schema import Entry
from wsplf_cli.segmentation.appearance import Appearance, describe_slide
from wsplf_cli.segmentation.likeness import TrainingAppearance, learn_appearance
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.synthetic.cohort import make_cohort
from wsplf_cli.synthetic.pyramid import write_pyramid

Pixels = NDArray[np.uint8]
SHARED = Path(os.environ.get("WSPLF_SHARED_DATA", "../shared/data"))
MPP = 1.0
#: The TCGA slide does not say its pixel size.
TCGA_MPP = 0.5


def restained(haematoxylin: float, eosin: float) -> Callable[[Pixels], Pixels]:
    """Scales the amounts of the two stains."""
    factors = np.array([haematoxylin, eosin, 1.0])
    return lambda rgb: (np.clip(hed2rgb(rgb2hed(rgb) * factors), 0, 1) * 255).astype(np.uint8)


def tinted(red: float, blue: float) -> Callable[[Pixels], Pixels]:
    """Scales the optical density of red and of blue, as other dyes would."""
    factors = np.array([red, 1.0, blue], np.float32)
    return lambda rgb: np.clip(256 * ((rgb.astype(np.float32) + 1) / 256) ** factors - 1, 0, 255).astype(np.uint8)


def blurred(sigma_px: float) -> Callable[[Pixels], Pixels]:
    return lambda rgb: gaussian_filter(rgb, (sigma_px, sigma_px, 0))


def resized(factor: float) -> Callable[[Pixels], Pixels]:
    def resize(rgb: Pixels) -> Pixels:
        size = (round(rgb.shape[1] * factor), round(rgb.shape[0] * factor))
        return np.asarray(
            Image.fromarray(rgb).resize(size, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX)
        )

    return resize


#: What is done to the pixels, and to the pixel size that the file says.
CHANGES: dict[str, tuple[Callable[[Pixels], Pixels], float]] = {
    "written again, as they are": (lambda rgb: rgb, 1),
    "twice as fine, and it says so": (resized(2), 0.5),
    "haematoxylin x 1.3, eosin x 0.7": (restained(1.3, 0.7), 1),
    "haematoxylin x 0.7, eosin x 1.3": (restained(0.7, 1.3), 1),
    "haematoxylin x 0.6, eosin x 1.5": (restained(0.6, 1.5), 1),
    "eosin x 0.5": (restained(1, 0.5), 1),
    "red x 1.2, blue x 0.8": (tinted(1.2, 0.8), 1),
    "red x 0.8, blue x 1.2": (tinted(0.8, 1.2), 1),
    "blurred, sigma 1 px": (blurred(1), 1),
    "blurred, sigma 2 px": (blurred(2), 1),
    "twice as large as it says": (resized(2), 1),
    "1.5 times as large": (resized(1.5), 1),
    "0.67 times as large": (resized(0.67), 1),
    "half as large": (resized(0.5), 1),
    "scanned at a quarter, and it says so": (resized(0.25), 4),
}


def appearance(path: Path, *, mpp: float | None = None) -> Appearance:
    with open_slide(path) as opened:
        size = (opened.width_px0, opened.height_px0)
    slide, pixel_size = entry_slide(entry := Entry(path.stem, path.name, path, *size, mpp, ""))
    tissue = tissue_mask(slide, mpp_slide=pixel_size.mpp)
    return describe_slide(entry, tissue, mpp=MPP, mpp_slide=pixel_size.mpp)


def appearances(folder: Path, names: Iterable[str] | None = None) -> dict[str, Appearance]:
    paths = sorted(folder.glob("*.tif")) if names is None else [folder / name for name in names]
    return {path.stem: appearance(path) for path in paths}


def changed(
    paths: Sequence[Path], folder: Path, change: Callable[[Pixels], Pixels], ratio: float
) -> dict[str, Appearance]:
    looks = {}
    for path in paths:
        with open_slide(path) as slide:
            rgb = slide.read(0, 0, size_px=(slide.width_px0, slide.height_px0), downsample=1.0)
            mpp = slide.mpp
        assert mpp is not None
        out = folder / f"{len(list(folder.iterdir()))}.tif"
        write_pyramid(out, change(rgb), mpp=mpp * ratio)
        looks[path.stem] = appearance(out)
    return looks


def learn(looks: Mapping[str, Appearance]) -> TrainingAppearance:
    return learn_appearance(list(looks.values()), list(looks))


def row(title: str, pairs: Sequence[tuple[TrainingAppearance, Appearance]]) -> None:
    """A line of the table: of several slides, each with a model, those that are unlike."""
    results = [model.compare(look) for model, look in pairs]
    furthest = [max(result.over_limit.values()) for result in results]
    aspects = [sum(result.over_limit[name] > 1 for result in results) for name in ("colour", "sharpness", "texture")]
    flagged = sum(value > 1 for value in furthest)
    print(
        f"| {title} | {flagged} of {len(results)} | {' / '.join(map(str, aspects))} |"
        f" {min(furthest):.2f} to {max(furthest):.2f} |",
        flush=True,
    )


def same_kind(title: str, looks: Mapping[str, Appearance], *, halves: int) -> None:
    row(
        f"{title}: each slide, model of the others",
        [(learn({other: looks[other] for other in looks if other != name}), look) for name, look in looks.items()],
    )
    rng, pairs = np.random.default_rng(0), []
    for _ in range(halves):
        names = rng.permutation(sorted(looks)).tolist()
        model = learn({name: looks[name] for name in names[: len(names) // 2]})
        pairs += [(model, looks[name]) for name in names[len(names) // 2 :]]
    row(f"{title}: one half, model of the other half ({halves} splits)", pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    same_help = "slides of another cohort like glas-dev, or none"
    parser.add_argument("--same", type=Path, default=SHARED / "glas-dev2" / "slides", help=same_help)
    parser.add_argument("--seed", type=int, default=11, help="of the demo cohort")
    parser.add_argument("--halves", type=int, default=10)
    parser.add_argument("--changed", type=int, default=4, help="slides of glas-dev that are changed")
    options = parser.parse_args()
    slides = SHARED / "glas-dev" / "slides"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = make_cohort(folder / "demo", seed=options.seed)
        demo = {slide.name: appearance(slide.path) for slide in cohort if slide.split == "train"}
        demo_test = {slide.name: appearance(slide.path) for slide in cohort if slide.split == "test"}
        glas = appearances(slides)
        foreign = {
            "CMU": appearance(SHARED / "slides" / "cmu-1-small-region.svs"),
            "TCGA": appearance(SHARED / "slides" / "tcga-cr-7395-01a-01-ts1.svs", mpp=TCGA_MPP),
        }
        of_glas, of_demo = learn(glas), learn(demo)
        print("| slides | unlike | in colour / sharpness / texture | distance over the limit |\n|---|---|---|---|")
        same_kind("glas-dev", glas, halves=options.halves)
        row("demo: test slides, model of its training slides", [(of_demo, look) for look in demo_test.values()])
        if str(options.same) != "none":
            same, of_same = appearances(options.same), options.same.parent.name
            row(f"{of_same}, model of glas-dev", [(of_glas, look) for look in same.values()])
            row(f"glas-dev, model of {of_same}", [(learn(same), look) for look in glas.values()])
            row(f"{of_same}, model of the demo", [(of_demo, look) for look in same.values()])
        row("glas-dev, model of the demo", [(of_demo, look) for look in glas.values()])
        row("demo, model of glas-dev", [(of_glas, look) for look in [*demo.values(), *demo_test.values()]])
        for title, look in foreign.items():
            row(f"{title}, model of glas-dev", [(of_glas, look)])
            row(f"{title}, model of the demo", [(of_demo, look)])
        paths = sorted(slides.glob("*.tif"))[:: max(1, 12 // options.changed)]
        for title, (change, ratio) in CHANGES.items():
            (at := folder / "changed").mkdir(exist_ok=True)
            looks = changed(paths, at, change, ratio)
            row(f"glas-dev {title}, model of glas-dev", [(of_glas, look) for look in looks.values()])
            row(
                f"glas-dev {title}, model of the other slides",
                [
                    (learn({other: glas[other] for other in glas if other != name}), look)
                    for name, look in looks.items()
                ],
            )


if __name__ == "__main__":
    main()
