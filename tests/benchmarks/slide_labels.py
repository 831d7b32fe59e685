"""Pseudo-labels of demo cohorts under harder conditions: ``python tests/benchmarks/slide_labels.py --seeds 0 1 2``.

For each seed: the demo's training slides as they are, with one slide of each kind mislabelled (two of fourteen), and a
cohort with tumour on 2 % of the tissue of each positive slide. Prints the mean Dice of the slides whose label is right,
how many of the mislabelled slides were doubted, and how many others; besides, the share of a negative slide that
reaches the core that the other negative slides were held to. Takes about five minutes a seed on two cores.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wsplf_cli import plugins
from wsplf_cli.cohort.demo_folder import slide_images
from wsplf_cli.cohort.labels import resolve_labels
from wsplf_cli.commands.evaluate import evaluate
from wsplf_cli.options import EvaluateOptions, ProjectOptions, PseudolabelOptions, RunOptions
from wsplf_cli.qupath.create import create_project
from wsplf_cli.schema import Entry, PathClass, Silent
from wsplf_cli.synthetic.cohort import make_cohort
from wsplf_cli.weak.calibration import core
from wsplf_cli.weak.cam import tissue_of
from wsplf_cli.weak.class_fit import Taught
from wsplf_cli.weak.method import Memory, pseudolabel

TRAIN = (8, 6)
ALPHAS = (0.01, 0.05)
FIXED = (0.02, 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for seed in parser.parse_args().seeds:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder) / "plain", seed=seed, shares=None)
            run(Path(folder) / "small", seed=seed, shares=FIXED)


def run(out: Path, *, seed: int, shares: tuple[float, float] | None) -> None:
    rest = {} if shares is None else {"shares": shares}
    slides = make_cohort(out, seed=seed, train=TRAIN, test=(0, 0), size_px=2048, workers=2, **rest)
    path = create_project(out / "project", slide_images(slides), classes=[PathClass("Tumor", (200, 0, 0))])
    project = plugins.load("backends", "embedded").open_project(path, ProjectOptions())
    entries = resolve_labels(project.entries(), ProjectOptions())
    if shares is not None:
        print(
            f"seed {seed}, tumour 2 % of tissue: mean Dice {labelled(path, out, entries, seed=seed)[0]:.3f}", flush=True
        )
        return
    dice, taught = labelled(path, out, entries, seed=seed)
    print(f"seed {seed}: mean Dice {dice:.3f}", flush=True)
    negatives = [tissue_of(taught.looked[one.entry.id].unseen.logits[0]) for one in taught.prepared if not one.positive]
    for alpha in ALPHAS:
        shares_out = [
            float((own >= core([*negatives[:number], *negatives[number + 1 :]], alpha=alpha).threshold).mean())
            for number, own in enumerate(negatives)
        ]
        bound = core(negatives[1:], alpha=alpha).guaranteed
        print(
            f"seed {seed}, alpha {alpha:g}: a negative slide kept out reaches the core with {np.mean(shares_out):.2%}"
            f" of its tissue on average (at most {max(shares_out):.2%}; {bound:.1%} is guaranteed)",
            flush=True,
        )
    rng = np.random.default_rng(seed)
    kinds = [[one.id for one in entries if is_positive(one) is kind] for kind in (True, False)]
    wrong = {str(rng.choice(ids)) for ids in kinds}
    flipped = [flip(one, entries) if one.id in wrong else one for one in entries]
    dice, taught = labelled(path, out, flipped, seed=seed)
    found = set(taught.suspects)
    print(
        f"seed {seed}, {len(wrong)} labels wrong: mean Dice {dice:.3f}; {len(found & wrong)} of them doubted, and"
        f" {len(found - wrong)} others",
        flush=True,
    )


def is_positive(entry: Entry) -> bool:
    return entry.label is not None and bool(entry.label.classes)


def flip(entry: Entry, entries: Sequence[Entry]) -> Entry:
    """The entry with the label of an entry of the other kind."""
    return replace(entry, label=next(one.label for one in entries if is_positive(one) is not is_positive(entry)))


def labelled(path: Path, out: Path, entries: Sequence[Entry], *, seed: int) -> tuple[float, Taught]:
    """Mean Dice of the pseudo-labels on slides that hold tumour and are labelled so, and what was learned."""
    project = plugins.load("backends", "embedded").open_project(path, ProjectOptions())
    memory: Memory = {}
    options = PseudolabelOptions(run=RunOptions(seed=seed))
    pseudolabel(project, entries, options, Silent(), memory=memory)
    positive = [one for one in entries if is_positive(one)]
    scores = evaluate(project, positive, EvaluateOptions(truth=out / "truth"), Silent())
    dice = [one["dice"] for one in scores["entries"] if one["truth_um2"] > 0]
    return float(np.mean(dice)), next(iter(memory.values())).taught[0]


if __name__ == "__main__":
    main()
