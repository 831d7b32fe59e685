"""Pseudo-labels of demo cohorts under harder conditions: ``python tests/benchmarks/slide_labels.py --seeds 0 1 2``.

For each seed there are three conditions: the demo's training slides; the same with one positive and one negative slide
mislabelled (two of fourteen), drawn ``--draws`` times; and a cohort with tumour on 2 % of the tissue of each positive
slide. Prints the mean Dice of the positive slides with a correct label and what the wrong ones cost them, how many of
the mislabelled slides were suspected, and how many others; and the share of a negative slide above the peak threshold
computed from the other negative slides. A seed takes about five minutes on two cores, with one draw.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np
from numpy.typing import NDArray

from wsplf_cli import plugins
from wsplf_cli.cohort.demo_folder import slide_images
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.evaluate import evaluate
from wsplf_cli.commands.pseudolabel import pseudolabel
from wsplf_cli.options import EvaluateOptions, ProjectOptions, PseudolabelOptions, RunOptions
from wsplf_cli.qupath.create import create_project
from wsplf_cli.schema import Entry, PathClass, Silent
from wsplf_cli.synthetic.cohort import make_cohort
from wsplf_cli.weak.calibration import peak_threshold
from wsplf_cli.weak.class_fit import ClassFit
from wsplf_cli.weak.method import Memory

TRAIN = (8, 6)
ALPHAS = (0.01, 0.05)
FIXED = (0.02, 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--draws", type=int, default=1, help="how many times two wrong labels are drawn, of each seed")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder) / "plain", seed=seed, shares=None, draws=arguments.draws)
            run(Path(folder) / "small", seed=seed, shares=FIXED, draws=0)


def run(out: Path, *, seed: int, shares: tuple[float, float] | None, draws: int) -> None:
    rest = {} if shares is None else {"shares": shares}
    slides = make_cohort(out, seed=seed, train=TRAIN, test=(0, 0), size_px=2048, workers=2, **rest)
    path = create_project(out / "project", slide_images(slides), classes=[PathClass("Tumor", (200, 0, 0))])
    project = plugins.load("backends", "embedded").open_project(path, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    if shares is not None:
        dice, _ = labelled(path, out, entries, seed=seed)
        print(f"seed {seed}, tumour 2 % of tissue: mean Dice {mean(dice.values()):.3f}", flush=True)
        return
    plain, fit = labelled(path, out, entries, seed=seed)
    print(f"seed {seed}: mean Dice {mean(plain.values()):.3f}, {len(fit.suspected)} labels suspected", flush=True)
    negative_slides = [slide for slide in fit.slides if not slide.is_positive(fit.path_class)]
    negatives = [fit.logits[slide.entry.id].out_of_fold.of_tissue for slide in negative_slides]
    for alpha in ALPHAS:
        held_out_shares = [
            share_above_peak(negative, [*negatives[:index], *negatives[index + 1 :]], alpha=alpha)
            for index, negative in enumerate(negatives)
        ]
        bound = peak_threshold(negatives[1:], alpha=alpha).guaranteed
        print(
            f"seed {seed}, alpha {alpha:g}: {np.mean(held_out_shares):.2%} of the tissue of a held-out negative slide"
            f" is above the peak threshold on average (at most {max(held_out_shares):.2%}; {bound:.1%} is guaranteed)",
            flush=True,
        )
    rng = np.random.default_rng(seed)
    groups = [[entry.id for entry in entries if is_positive(entry) is positive] for positive in (True, False)]
    for draw in range(draws):
        wrong = {str(rng.choice(ids)) for ids in groups}
        flipped = [flip(entry, entries) if entry.id in wrong else entry for entry in entries]
        dice, fit = labelled(path, out, flipped, seed=seed)
        suspected = set(fit.suspected)
        print(
            f"seed {seed}, draw {draw}, {len(wrong)} labels wrong: mean Dice {mean(dice.values()):.3f},"
            f" cost {mean(plain[name] - value for name, value in dice.items()):.3f};"
            f" {len(suspected & wrong)} of them suspected, and {len(suspected - wrong)} of {len(entries) - len(wrong)}"
            f" others",
            flush=True,
        )


def share_above_peak(negative: NDArray[np.float32], others: Sequence[NDArray[np.float32]], *, alpha: float) -> float:
    """The share of a negative slide above the peak threshold computed from the other negative slides."""
    return float((negative >= peak_threshold(others, alpha=alpha).threshold).mean())


def is_positive(entry: Entry) -> bool:
    return entry.label is not None and bool(entry.label.classes)


def flip(entry: Entry, entries: Sequence[Entry]) -> Entry:
    """The entry with the label of an entry of the other kind."""
    opposite = next(other for other in entries if is_positive(other) is not is_positive(entry))
    return replace(entry, label=opposite.label)


def labelled(path: Path, out: Path, entries: Sequence[Entry], *, seed: int) -> tuple[dict[str, float], ClassFit]:
    """The Dice of the pseudo-labels, by the slide, where tumour has a positive label; and the fit of the class."""
    project = plugins.load("backends", "embedded").open_project(path, ProjectOptions())
    memory: Memory = {}
    options = PseudolabelOptions(run=RunOptions(seed=seed))
    pseudolabel(project, entries, options, Silent(), memory=memory)
    positive = [entry for entry in entries if is_positive(entry)]
    scores = evaluate(project, positive, EvaluateOptions(truth=out / "truth"), Silent())
    dice = {row["name"]: float(row["dice"]) for row in scores["entries"] if row["truth_um2"] > 0}
    return dice, next(iter(memory.values())).fits[0]


if __name__ == "__main__":
    main()
