"""The demo with several seeds, as one table: ``python tests/benchmarks/demo_seeds.py --seeds 0 1 2``.

Each seed gives another cohort. The last row is a baseline: the best threshold on a single colour channel, chosen with
the truth of the test slides that it is measured on. A seed takes about four minutes on two cores.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from wsplf_cli.commands.demo import demo
from wsplf_cli.schema import Silent

ROWS = ("pseudolabel", "prediction", "threshold")
FIGURES = ("mean_dice", "pooled_dice", "negative_fp_share")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    results = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            results.append(demo(Path(folder) / "demo", seed=seed, device=options.device, tracker=Silent()))
        dice = ", ".join(f"{row} {results[-1][row]['mean_dice']:.3f}" for row in ROWS)
        print(f"seed {seed}: {dice}, {results[-1]['seconds']:.0f} s", flush=True)
    print("\n| | " + " | ".join(FIGURES) + " |\n|---|" + "---|" * len(FIGURES))
    for row in ROWS:
        cells = [[result[row][figure] for result in results] for figure in FIGURES]
        print(
            f"| {row} | "
            + " | ".join(f"{statistics.mean(cell):.3f} ({min(cell):.3f} to {max(cell):.3f})" for cell in cells)
            + " |"
        )


if __name__ == "__main__":
    main()
