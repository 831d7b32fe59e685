"""A cohort of synthetic slides with exact truth: for the demo, the tests and measurements."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from shapely.geometry import mapping

from wsplf_cli.errors import WsplfError
from wsplf_cli.files import write_json
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.synthetic.slide import paint_slide

TRUTH_CLASS = "Tumor"


@dataclass(frozen=True, slots=True)
class SyntheticSlide:
    """One slide. ``tumour_share`` of its tissue, 0 on negatives; ``label`` tumor or normal; ``split`` train or test."""

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
class _Order:
    """One slide to be made."""

    number: int
    folder: Path
    seed: int
    label: str
    split: str
    share: float
    pen: bool
    size_px: int


def make_cohort(
    out: Path,
    *,
    seed: int,
    train: tuple[int, int] = (8, 6),
    test: tuple[int, int] = (4, 3),
    size_px: int = 2048,
    shares: tuple[float, float] = (0.01, 0.30),
    workers: int = 2,
    on_slide: Callable[[str], None] | None = None,
) -> tuple[SyntheticSlide, ...]:
    """Write ``slides/*.tif`` and ``truth/*.geojson`` under ``out`` and return what was made, in order of name.

    ``train`` and ``test`` are (positive, negative) slide counts. The tumour shares of the positive slides of a split
    are spread evenly on a logarithmic scale between the two ``shares``; give the same number twice to fix the share.
    The pixels depend on the seed and the number of the slide only, not on ``workers``. ``on_slide`` is told the name
    of each slide when it is there.

    Raises:
        OSError: the folder cannot be written.
        WsplfError: a process that paints was ended from outside (no memory left).
    """
    (out / "slides").mkdir(parents=True, exist_ok=True)
    (out / "truth").mkdir(parents=True, exist_ok=True)
    orders = _orders(out, seed=seed, counts={"train": train, "test": test}, size_px=size_px, shares=shares)
    made = []
    for slide in _made(orders, workers=workers):
        made.append(slide)
        if on_slide:
            on_slide(slide.name)
    return tuple(made)


def _made(orders: Sequence[_Order], *, workers: int) -> Iterator[SyntheticSlide]:
    """The slides in order, each as soon as it is there."""
    if workers <= 1:
        yield from map(_make, orders)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
    try:
        yield from pool.map(_make, orders)
    except BrokenProcessPool as error:
        raise WsplfError(
            "a process that paints slides was ended from outside", hint="free some memory and run it again"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    """Ctrl-C reaches every process of a terminal; the parent alone says so and stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _orders(
    out: Path, *, seed: int, counts: dict[str, tuple[int, int]], size_px: int, shares: tuple[float, float]
) -> list[_Order]:
    rng = np.random.default_rng([seed, 0])
    orders: list[_Order] = []
    for split, (positives, negatives) in counts.items():
        steps = (np.arange(positives) + rng.uniform(0.1, 0.9, positives)) / max(positives, 1)
        spread = shares[0] * (shares[1] / shares[0]) ** steps
        for place, share in [*enumerate(rng.permutation(spread)), *enumerate(np.zeros(negatives))]:
            label = "tumor" if share > 0 else "normal"
            # pen on every third slide of each label: else a small cohort can teach that pen means tumour
            pen = place % 3 == 0
            orders.append(_Order(len(orders) + 1, out, seed, label, split, float(share), pen, size_px))
    return orders


def _make(order: _Order) -> SyntheticSlide:
    rng = np.random.default_rng([order.seed, order.number])
    mpp = round(float(rng.uniform(0.9, 1.1)), 4)
    picture = paint_slide(rng, size_px=order.size_px, mpp=mpp, share=order.share, pen=order.pen)
    name = f"S{order.number:02d}.tif"
    path = order.folder / "slides" / name
    truth = order.folder / "truth" / f"S{order.number:02d}.geojson"
    write_pyramid(path, picture.rgb, mpp=mpp, quality=max(picture.quality, 70))
    features = [
        {
            "type": "Feature",
            "geometry": mapping(polygon),
            "properties": {"objectType": "annotation", "classification": {"name": TRUTH_CLASS, "color": [200, 0, 0]}},
        }
        for polygon in picture.tumour.geoms
    ]
    write_json(truth, {"type": "FeatureCollection", "features": features})
    size = order.size_px
    levels = tuple((-(-size // 4**level),) * 2 for level in range(3))
    return SyntheticSlide(
        name=name,
        path=path,
        truth=truth,
        width_px0=size,
        height_px0=size,
        mpp=mpp,
        levels=levels,
        label=order.label,
        patient=f"P{order.number:02d}",
        split=order.split,
        tumour_share=picture.tumour_share,
    )
