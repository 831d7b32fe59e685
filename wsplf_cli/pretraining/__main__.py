"""``python -m wsplf_cli.pretraining NAME``: train one of the small networks that ship, on painted tissue alone."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from wsplf_cli.pretraining import backbone, epithelium, sam

ASSETS = Path(__file__).parents[1] / "assets"


class Lines:
    """A Tracker of plain lines on stderr."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def start(self, name: str, total: int) -> None:
        """Say what begins."""
        self.say(f"{name}: {total}")

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Nothing: there may be thousands."""

    def say(self, message: str) -> None:
        """Write a line with the seconds since the start."""
        sys.stderr.write(f"{time.monotonic() - self.started:6.0f} s  {message}\n")


def main(arguments: list[str]) -> None:
    """Train what the first argument names and write the figures to stdout."""
    parser = argparse.ArgumentParser(prog="python -m wsplf_cli.pretraining", description=__doc__)
    parts = parser.add_subparsers(dest="name", required=True)
    for name, steps in (("backbone", backbone.STEPS), ("epithelium", 0), ("sam", sam.STEPS)):
        part = parts.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        part.add_argument("--seed", type=int, default=0)
        if steps:
            part.add_argument("--steps", type=int, default=steps)
        part.add_argument("--threads", type=int, default=1, help="more gain nothing on a machine that is not idle")
        if name == "backbone":
            part.add_argument("--canvases", type=int, default=backbone.CANVASES)
            part.add_argument("--batch", type=int, default=backbone.BATCH)
        elif name == "epithelium":
            part.add_argument("--canvases", type=int, default=epithelium.CANVASES)
    parts.choices["backbone"].add_argument("--out", type=Path, default=ASSETS / "backbone_small.safetensors")
    parts.choices["epithelium"].add_argument("--out", type=Path, default=ASSETS / "epithelium_small.safetensors")
    parts.choices["sam"].add_argument("--out", type=Path, default=ASSETS / "sam_tiny.safetensors")
    options = vars(parser.parse_args(arguments))
    torch.set_num_threads(options.pop("threads"))
    trainers: dict[str, Callable[..., dict[str, float]]] = {
        "backbone": backbone.pretrain,
        "epithelium": epithelium.pretrain,
        "sam": sam.pretrain,
    }
    figures = trainers[options.pop("name")](options.pop("out"), **options, tracker=Lines())
    sys.stdout.write("".join(f"{name}: {value:.3f}\n" for name, value in figures.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
