"""What cohorts of several sizes give: ``python tests/benchmarks/cohort_size.py --slides 10 50 200 --seeds 10 11 12``.

Makes synthetic cohorts of so many training slides, half of them tumour, and twelve held-out slides of other patients.
Runs ``pseudolabel``, ``train`` and ``segment`` as the demo does, and prints the mean over the seeds and the range:
mean Dice of the pseudo-labels and of the predictions, and the share of negative tissue under predicted polygons.
Slides of 1,024 pixels (1 mm2) are as large as a small biopsy. A cohort of 200 needs about half an hour on one core.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean

from wsplf_cli.commands.demo import Size, demo
from wsplf_cli.schema import Silent

TEST = (6, 6)
SIZE_PX = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slides", type=int, nargs="+", default=[10, 50, 200], help="sizes of the cohorts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    arguments = parser.parse_args()
    print("| slides | pseudo-labels | predictions | false positives |\n|---|---|---|---|")
    for slides in arguments.slides:
        scores = [scores_of(slides, seed) for seed in arguments.seeds]
        figures = zip(*scores, strict=True)
        cells = [f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})" for values in figures]
        print(f"| {slides} | {' | '.join(cells)} |", flush=True)


def scores_of(slides: int, seed: int) -> tuple[float, float, float]:
    """Mean Dice of pseudo-labels, of predictions, and the false-positive share of one cohort."""
    negative = slides // 2
    size = Size(train=(slides - negative, negative), test=TEST, size_px=SIZE_PX)
    with tempfile.TemporaryDirectory() as folder:
        results = demo(Path(folder) / "demo", seed=seed, device="auto", tracker=Silent(), size=size)
    predictions = results["prediction"]
    return results["pseudolabel"]["mean_dice"], predictions["mean_dice"], predictions["negative_fp_share"]


if __name__ == "__main__":
    main()
