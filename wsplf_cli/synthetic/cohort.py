"""A cohort of synthetic slides with exact truth: for the demo, the tests and measurements."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from shapely.geometry import mapping

from wsplf_cli.errors import WsplfError
from wsplf_cli.files import write_json
from wsplf_cli.synthetic.ink import draw_marks
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.synthetic.slide import generate_slide

TRUTH_CLASS = "Tumor"


@dataclass(frozen=True, slots=True)
class SyntheticSlide:
    """One slide with its truth.

    ``label`` is tumor or normal, ``split`` train or test. ``tumour_share`` is the share of tumour in the tissue, 0 on
    negative slides. ``truth`` is a GeoJSON file.
    """

    name: str
    path: Path
    truth: Path
    width_px0: int
    height_px0: int
    mpp: float
    levels: tuple[tuple[int, int], ...]
    label: str
    patient: str
    split: str
    tumour_share: float


@dataclass(frozen=True, slots=True)
class _SlideSpec:
    """What to generate as one slide. ``number`` counts from 1."""

    number: int
    folder: Path
    seed: int
    label: str
    split: str
    tumour_share: float
    pen: bool
    size_px: int
    ink: str = ""


def make_cohort(  # noqa: PLR0913  what a cohort is made of
    out: Path,
    *,
    seed: int,
    train: tuple[int, int] = (8, 6),
    test: tuple[int, int] = (4, 3),
    size_px: int = 2048,
    shares: tuple[float, float] = (0.01, 0.30),
    inks: Sequence[str] = (),
    workers: int = 2,
    on_slide: Callable[[str], None] | None = None,
) -> tuple[SyntheticSlide, ...]:
    """Write a cohort, ``slides/*.tif`` and ``truth/*.geojson``, and return its slides in order of name.

    The pixels depend on the seed and the number of the slide only, not on ``workers``.

    Args:
        out: Folder to write to; it is made if needed.
        seed: Seed of the cohort.
        train: Number of positive and of negative training slides.
        test: Number of positive and of negative test slides.
        size_px: Side of the square slides at level 0.
        shares: Smallest and largest share of tumour in the tissue of a positive slide. The shares of a split are spread
            evenly between them on a logarithmic scale. Equal numbers fix the share.
        inks: Colours of marker ink (names in ``ink.INKS``), which positive slides get in turn: a ring around each piece
            of tumour, a line and dots. Everything else is the same with and without ink.
        workers: Number of processes.
        on_slide: Called with the name of each slide when it is written.

    Raises:
        OSError: The folder cannot be written.
        WsplfError: A process was ended from outside (no memory left).
    """
    (out / "slides").mkdir(parents=True, exist_ok=True)
    (out / "truth").mkdir(parents=True, exist_ok=True)
    specs = _slide_specs(out, seed=seed, counts={"train": train, "test": test}, size_px=size_px, shares=shares)
    if inks:
        positives = [spec for spec in specs if spec.tumour_share > 0]
        ink_of = {spec.number: inks[index % len(inks)] for index, spec in enumerate(positives)}
        specs = [replace(spec, ink=ink_of.get(spec.number, "")) for spec in specs]
    slides = []
    for slide in _make_slides(specs, workers=workers):
        slides.append(slide)
        if on_slide:
            on_slide(slide.name)
    return tuple(slides)


def _make_slides(specs: Sequence[_SlideSpec], *, workers: int) -> Iterator[SyntheticSlide]:
    """The slides in order, each as soon as it is written."""
    if workers <= 1:
        yield from map(_make_slide, specs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_ignore_interrupts)
    try:
        yield from pool.map(_make_slide, specs)
    except BrokenProcessPool as error:
        raise WsplfError(
            "a process that generates slides was ended from outside", hint="free some memory and run it again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C, which reaches every process of a terminal: the parent handles it and stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _slide_specs(
    out: Path, *, seed: int, counts: dict[str, tuple[int, int]], size_px: int, shares: tuple[float, float]
) -> list[_SlideSpec]:
    """The slides to generate. ``counts`` holds the numbers of positive and negative slides of each split."""
    rng = np.random.default_rng([seed, 0])
    specs: list[_SlideSpec] = []
    for split, (positives, negatives) in counts.items():
        fractions = (np.arange(positives) + rng.uniform(0.1, 0.9, positives)) / max(positives, 1)
        tumour_shares = shares[0] * (shares[1] / shares[0]) ** fractions
        for index, share in [*enumerate(rng.permutation(tumour_shares)), *enumerate(np.zeros(negatives))]:
            label = "tumor" if share > 0 else "normal"
            # pen on every third slide of each label, so that a small cohort does not teach that pen means tumour
            pen = index % 3 == 0
            specs.append(_SlideSpec(len(specs) + 1, out, seed, label, split, float(share), pen, size_px))
    return specs


def _make_slide(spec: _SlideSpec) -> SyntheticSlide:
    """Generate one slide and write it with its truth."""
    rng = np.random.default_rng([spec.seed, spec.number])
    mpp = round(float(rng.uniform(0.9, 1.1)), 4)
    slide = generate_slide(rng, size_px=spec.size_px, mpp=mpp, tumour_share=spec.tumour_share, pen=spec.pen)
    if spec.ink:
        draw_marks(np.random.default_rng([spec.seed, spec.number, 1]), slide.rgb, slide.tumour, spec.ink, mpp=mpp)
    name = f"S{spec.number:02d}.tif"
    path = spec.folder / "slides" / name
    truth = spec.folder / "truth" / f"S{spec.number:02d}.geojson"
    write_pyramid(path, slide.rgb, mpp=mpp, quality=max(slide.quality, 70))
    features = [
        {
            "type": "Feature",
            "geometry": mapping(polygon),
            "properties": {"objectType": "annotation", "classification": {"name": TRUTH_CLASS, "color": [200, 0, 0]}},
        }
        for polygon in slide.tumour.geoms
    ]
    write_json(truth, {"type": "FeatureCollection", "features": features})
    size = spec.size_px
    levels = tuple((-(-size // 4**level),) * 2 for level in range(3))
    return SyntheticSlide(
        name=name,
        path=path,
        truth=truth,
        width_px0=size,
        height_px0=size,
        mpp=mpp,
        levels=levels,
        label=spec.label,
        patient=f"P{spec.number:02d}",
        split=spec.split,
        tumour_share=slide.tumour_share,
    )
