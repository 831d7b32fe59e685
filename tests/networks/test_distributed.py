"""Training in several processes: the same weights as in one, one process that writes, one line when one fails."""

import json
from uuid import uuid4

import numpy as np
import pytest
import torch
from processes import run_processes
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.networks import distributed
from wsplf_cli.options import ProjectOptions
from wsplf_cli.schema import Annotation

#: Trains a segmentation model and a MIL network, and saves the weights and curves.
TRAIN = """
import sys
import numpy as np, torch
from shapely import box
from training_slides import training_slide
from wsplf_cli.networks import distributed
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import Silent
from wsplf_cli.segmentation.models import unet
from wsplf_cli.segmentation.train import FitSettings, fit
from wsplf_cli.weak.heads import gated_attention
from wsplf_cli.weak.mil import training
from wsplf_cli.weak.mil.training import Bag, MilSettings

class Tiles:
    def __init__(self, colour): self.colour = colour
    def __len__(self): return 7
    def read(self, indices):
        tiles = np.random.default_rng(0).integers(0, 40, (7, 32, 32, 3)).astype(np.uint8)
        tiles[:3] += np.uint8(self.colour)
        return tiles[indices]

device = torch.device("cpu")
with distributed.together("cpu"):
    torch.manual_seed(0)
    areas = [(10, 10, 50, 40), (70, 20, 110, 60)]
    slides = [
        training_slide(f"p{n}", regions=ReviewRegions(pending=((box(*area), 0.9),)), colour=[area])
        for n, area in enumerate(areas)
    ]
    slides.append(training_slide("n", positive=False))
    model = unet.build(1)
    settings = FitSettings(epochs=2, tile_px=32, window_px=64, batch_size=5, tiles_per_epoch=10)
    losses = fit(model, slides, settings=settings, rng=np.random.default_rng(0), device=device, tracker=Silent())
    network = MilNetwork(build_backbone(adl=True), gated_attention.build(build_backbone().channels, 1))
    bags = [Bag(str(n), Tiles(60 * n), np.array([float(n > 1)], np.float32)) for n in range(4)]
    settings = MilSettings(epochs=2, tiles_per_bag=4, least_steps=4, settle_epochs=1, most_tiles_per_pass=3)
    curve = training.fit(network, bags, settings=settings, rng=np.random.default_rng(0), track=Silent())
    if distributed.is_main():
        torch.save((model.state_dict(), network.state_dict(), [*losses, *curve.loss]), sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_give_the_weights_of_one(tmp_path):
    saved = {}
    for count in (1, 2):
        path = tmp_path / f"{count}.pt"
        for (out, err), code in run_processes(TRAIN, path, count=count):
            assert (out, code) == ("", 0), err
        saved[count] = torch.load(path)
    for alone, shared in zip(saved[1][:2], saved[2][:2], strict=True):
        assert max(float((alone[name].double() - shared[name].double()).abs().max()) for name in alone) < 1e-4
    assert saved[1][2] == pytest.approx(saved[2][2], abs=1e-5)


EXCHANGE = """
import torch
from wsplf_cli.networks import distributed
with distributed.together("cpu"):
    rows = torch.arange(1.0, 6.0, requires_grad=True)
    part = rows[distributed.share_of(5)]
    assert torch.equal(distributed.gather(part, 5), rows), part
    loss = distributed.sum_over_processes((part**2).sum()) ** 2 + (distributed.gather(part, 5) ** 3).sum()
    assert loss.item() == 55.0**2 + 225.0
    loss.backward()
    # DistributedDataParallel takes the mean of the processes
    torch.distributed.all_reduce(rows.grad)
    assert torch.allclose(rows.grad / 2, 2 * 55 * 2 * rows + 3 * rows**2), rows.grad
"""


@pytest.mark.slow
def test_sums_and_gathered_rows_have_the_gradient_of_one_process():
    for (out, err), code in run_processes(EXCHANGE):
        assert (out, code) == ("", 0), err


COMMAND = """
import sys
from functools import partial
from wsplf_cli import cli
from wsplf_cli.commands import train

train.FitSettings = partial(train.FitSettings, tiles_per_epoch=8)
sys.exit(cli.main(["train", sys.argv[1], "--device", "cpu", "--epochs", "1"]))
"""


@pytest.mark.slow
def test_one_process_of_the_command_writes_and_shows(tiny_project):
    project = open_project(tiny_project, ProjectOptions())
    project.add("1", [Annotation(uuid4(), box(400, 300, 600, 450), "Tumor")])
    (main, second) = run_processes(COMMAND, tiny_project)
    assert [code for _, code in (main, second)] == [0, 0], (main, second)
    assert second[0] == ("", "")
    assert "positive.tif" in main[0][0]
    folder = tiny_project.parent / "wsplf"
    (run,) = (folder / "runs").iterdir()
    assert json.loads((run / "run.json").read_text(encoding="utf-8"))["status"] == "done"
    assert (folder / "models" / "default").is_dir()


FAIL = """
import os, signal, sys, torch
from wsplf_cli import cli
from wsplf_cli.cli import pipeline
from wsplf_cli.errors import ProjectError
from wsplf_cli.networks import distributed

def labelled(path, options):
    if sys.argv[1] == "both" or (sys.argv[1] == "second" and not distributed.is_main()):
        raise ProjectError("no slide", hint="add one")
    if sys.argv[1] == "killed" and not distributed.is_main():
        os.kill(os.getpid(), signal.SIGKILL)
    distributed.sum_over_processes(torch.zeros(1))

pipeline.open_labelled = labelled
sys.exit(cli.main(["train", "nowhere", "--device", "cpu"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "line"),
    [
        ("both", "no slide"),
        ("second", "no slide (process 2 of 2, on "),
        ("killed", "another process of the training has ended, so all end"),
    ],
)
def test_when_a_process_fails_all_end_with_one_line(which, line):
    finished = run_processes(FAIL, which)
    shown = [text for (_, err), _ in finished for text in err.splitlines() if text.startswith("error")]
    assert len(shown) == 1, finished
    assert line in shown[0]
    assert all(code for _, code in finished)


def test_a_single_process_has_all_of_the_batch():
    part = torch.ones(3, requires_grad=True)
    assert (distributed.process_count(), distributed.is_main()) == (1, True)
    assert distributed.share_of(3) == slice(0, 3)
    assert distributed.sum_over_processes(part) is part
    assert distributed.gather(part, 3) is part
    network = torch.nn.Linear(1, 1)
    assert distributed.parallel(network, tell=pytest.fail) is network
    distributed.require_single("no network is trained")
    distributed.only_main_goes_on()
    assert np.array_equal(part.detach(), np.ones(3))
