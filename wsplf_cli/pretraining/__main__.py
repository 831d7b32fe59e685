"""``python -m wsplf_cli.pretraining NAME``: train one of the small networks that ship, on synthetic tissue alone."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from wsplf_cli.pretraining import backbone, epithelium, sam

ASSETS = Path(__file__).parents[1] / "assets"


class LineTracker:
    """A Tracker that writes plain lines to stderr."""

    def __init__(self) -> None:
        self.started = time.monotonic()

    def start(self, name: str, total: int) -> None:
        """Write what begins, with its number of steps."""
        self.say(f"{name}: {total}")

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Write nothing: there may be thousands of steps."""

    def say(self, message: str) -> None:
        """Write a line, after the seconds since the start."""
        sys.stderr.write(f"{time.monotonic() - self.started:6.0f} s  {message}\n")


def main(arguments: list[str]) -> None:
    """Train the network that the first argument names, and write its scores to stdout."""
    parser = argparse.ArgumentParser(prog="python -m wsplf_cli.pretraining", description=__doc__)
    commands = parser.add_subparsers(dest="name", required=True)
    for name, steps in (("backbone", backbone.STEPS), ("epithelium", 0), ("sam", sam.STEPS)):
        command = commands.add_parser(name, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        command.add_argument("--seed", type=int, default=0)
        if steps:
            command.add_argument("--steps", type=int, default=steps)
        command.add_argument(
            "--threads", type=int, default=1, help="CPU threads; more than one gains nothing on a busy machine"
        )
        if name == "backbone":
            command.add_argument("--canvases", type=int, default=backbone.CANVASES)
            command.add_argument("--batch", type=int, default=backbone.BATCH)
        elif name == "epithelium":
            command.add_argument("--canvases", type=int, default=epithelium.CANVASES)
        else:
            command.add_argument(
                "--folder", type=Path, default=Path("sam-training"), help="the state of the training, to go on from it"
            )
    commands.choices["backbone"].add_argument("--out", type=Path, default=ASSETS / "backbone_small.safetensors")
    commands.choices["epithelium"].add_argument("--out", type=Path, default=ASSETS / "epithelium_small.safetensors")
    commands.choices["sam"].add_argument("--out", type=Path, default=ASSETS / "sam_tiny.safetensors")
    options = vars(parser.parse_args(arguments))
    torch.set_num_threads(options.pop("threads"))
    trainers: dict[str, Callable[..., dict[str, float]]] = {
        "backbone": backbone.pretrain,
        "epithelium": epithelium.pretrain,
        "sam": sam.pretrain,
    }
    scores = trainers[options.pop("name")](options.pop("out"), **options, tracker=LineTracker())
    sys.stdout.write("".join(f"{name}: {value:.3f}\n" for name, value in scores.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
