"""The demo with several seeds, one table: ``python tests/benchmarks/demo_seeds.py --seeds 0 1 2``.

Each seed is another cohort. The last row is the best threshold on a single colour channel, chosen with the truth of the
test slides it is measured on: what a method has to beat. Takes about four minutes a seed on two cores.
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
    found = []
    for seed in options.seeds:
        with tempfile.TemporaryDirectory() as folder:
            found.append(demo(Path(folder) / "demo", seed=seed, device=options.device, tracker=Silent()))
        shown = ", ".join(f"{row} {found[-1][row]['mean_dice']:.3f}" for row in ROWS)
        print(f"seed {seed}: {shown}, {found[-1]['seconds']:.0f} s", flush=True)
    print("\n| | " + " | ".join(FIGURES) + " |\n|---|" + "---|" * len(FIGURES))
    for row in ROWS:
        cells = [[result[row][figure] for result in found] for figure in FIGURES]
        print(
            f"| {row} | "
            + " | ".join(f"{statistics.mean(cell):.3f} ({min(cell):.3f} to {max(cell):.3f})" for cell in cells)
            + " |"
        )


if __name__ == "__main__":
    main()
