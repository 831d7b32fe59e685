"""Training of the tiny SAM: losses, the windows in use, and training that goes on after a stop."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from wsplf_cli.networks.sam import load_sam
from wsplf_cli.networks.tiny_sam import build_tiny
from wsplf_cli.pretraining import __main__ as command
from wsplf_cli.pretraining import sam as trainer
from wsplf_cli.pretraining.targets import MAP_PX, generate_windows
from wsplf_cli.schema import Silent


@pytest.fixture(scope="module")
def windows():
    return generate_windows(6, seed=(3,))


def test_loss_is_least_for_the_truth_and_one_of_three_is_enough():
    truth = torch.zeros(1, 1, 64, 64)
    truth[..., 16:48, 16:48] = 1
    good, bad = (truth * 2 - 1) * 12, (1 - truth * 2) * 12
    right = torch.cat([good, good, good, good], dim=1)
    one = torch.cat([good, bad, good, bad], dim=1)
    none = torch.cat([good, bad, bad, bad], dim=1)
    losses = []
    for logits, ious in ((right, [1, 1, 1, 1]), (one, [1, 0, 1, 0]), (none, [1, 0, 0, 0])):
        loss, iou = trainer.mask_loss(logits, torch.tensor([ious]).float(), truth)
        losses.append(float(loss))
        assert iou[0].tolist() == ious
    assert losses[0] < 0.01
    assert losses[0] < losses[1] < losses[2] / 2


def test_guessing_what_is_where_is_scored_by_structure_and_border():
    maps = torch.zeros(1, 3, 64, 64, dtype=torch.int16)
    maps[:, 1, :, 32:] = 5
    maps[:, 2, :, 32:] = 2
    guess = functional.one_hot(maps[:, 2].long(), 9).permute(0, 3, 1, 2).float() * 30 - 15
    guess[:, -1] = -15
    without_border = trainer.structure_loss(guess, maps)
    guess[:, -1, :, 31] = 15
    assert float(trainer.structure_loss(guess, maps)) < 1e-3
    assert float(without_border) > 0.1


def test_learning_rate_rises_stays_and_falls():
    rates = [trainer.learning_rate_factor(step, steps=1000) for step in range(1000)]
    assert rates[trainer.WARM_UP : trainer.decay_start(1000)] == [1.0] * (trainer.decay_start(1000) - trainer.WARM_UP)
    assert rates[0] < 0.01
    assert rates[-1] < 0.02


class StoppedError(Exception):
    """A training was stopped."""


class StopAt(Silent):
    """Stops a training after some steps."""

    def __init__(self, steps):
        self.left = steps

    def advance(self, steps=1, message=""):
        self.left -= steps
        if self.left < 0:
            raise StoppedError


@pytest.fixture
def small_training(monkeypatch, windows):
    """Steps of one window and one prompt, each saved."""

    class Pool:
        def __init__(self, folder, *, seed): ...

        def __enter__(self):
            return self

        def __exit__(self, *error): ...

        def at(self, step):
            return windows[: 1 + step]

    monkeypatch.setattr(trainer, "WindowPool", Pool)
    monkeypatch.setattr(trainer, "evaluate", lambda sam, *, seed: {"seed": seed})
    for name in ("WINDOWS", "PROMPTS", "ENCODER_STEPS", "SAVE_EVERY"):
        monkeypatch.setattr(trainer, name, 1)


@pytest.mark.slow
def test_training_that_was_stopped_gives_the_same_weights_to_the_byte(tmp_path, small_training, windows):
    whole, stopped = tmp_path / "whole.safetensors", tmp_path / "stopped.safetensors"
    assert trainer.pretrain(whole, seed=5, steps=4, folder=tmp_path / "a", tracker=Silent()) == {"seed": 6}
    with pytest.raises(StoppedError):
        trainer.pretrain(stopped, seed=5, steps=4, folder=tmp_path / "b", tracker=StopAt(2))
    assert not stopped.exists()
    trainer.pretrain(stopped, seed=5, steps=4, folder=tmp_path / "b", tracker=StopAt(2))  # two steps are left
    assert whole.read_bytes() == stopped.read_bytes()
    sam = load_sam("tiny", checkpoint=whole, device=torch.device("cpu"))
    assert torch.isfinite(sam.embed(windows[0].rgb)).all()
    assert whole.stat().st_size < 8e6


@pytest.mark.slow
def test_finished_training_goes_on_to_more_steps_as_if_it_had_been_asked_for_them(tmp_path, small_training):
    longer, straight = tmp_path / "longer.safetensors", tmp_path / "straight.safetensors"
    trainer.pretrain(longer, seed=5, steps=3, folder=tmp_path / "a", tracker=Silent())
    trainer.pretrain(longer, seed=5, steps=5, folder=tmp_path / "a", tracker=StopAt(3))  # two steps are kept
    trainer.pretrain(straight, seed=5, steps=5, folder=tmp_path / "b", tracker=Silent())
    assert longer.read_bytes() == straight.read_bytes()


def test_training_of_another_seed_is_not_gone_on_with(tmp_path, small_training):
    training = trainer.begin(5)
    training.step = 1
    trainer.save_training(training, tmp_path / trainer.LATEST, seed=5, steps=10)
    for seed, step in ((6, 0), (5, 1)):
        other = trainer.begin(seed)
        trainer.resume(other, tmp_path, seed=seed, steps=10)
        assert other.step == step


def test_parts_are_glands_and_connected_pieces_of_other_tissue():
    tissue, instance = np.zeros((8, 8), np.int16), np.zeros((8, 8), np.int16)
    tissue[:, 4:], instance[:, 3:5] = 1, 9
    parts = trainer.parts_of(tissue, instance)
    assert len(np.unique(parts)) == 3
    assert (parts[:, 3:5] == 9).all()
    assert len(np.unique(parts[:, :3])) == len(np.unique(parts[:, 5:])) == 1


def test_affinity_loss_is_small_where_places_tell_the_parts(windows):
    torch.manual_seed(0)
    decoder = build_tiny().mask_decoder
    parts = np.repeat([1, 2], MAP_PX * MAP_PX // 2).reshape(MAP_PX, MAP_PX)

    def loss(places):
        maps = places, torch.full((MAP_PX**2,), 4.0), torch.full((MAP_PX**2,), 3.0)
        decoder.affinity_maps = lambda fine: maps
        return float(trainer.affinity_loss(decoder, torch.zeros(1), parts, np.random.default_rng(0)))

    apart = torch.from_numpy(parts.ravel()).float()[None] * 2
    assert loss(apart) < 0.06
    assert loss(torch.zeros(1, MAP_PX**2)) > 1


def test_command_trains_what_it_is_told_and_writes_the_figures(tmp_path, monkeypatch, capsys):
    given = {}

    def pretrain(out, **options):
        given.update(options, out=out)
        options["tracker"].say("half way")
        return {"points 3+0": 0.5}

    monkeypatch.setattr(trainer, "pretrain", pretrain)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    command.main(["sam", "--seed", "3", "--steps", "7", "--out", str(tmp_path / "a.safetensors")])
    written = capsys.readouterr()
    assert (given["seed"], given["steps"], given["out"]) == (3, 7, tmp_path / "a.safetensors")
    assert written.out == "points 3+0: 0.500\n"
    assert "half way" in written.err


def test_command_without_a_known_name_says_which_there_are(capsys):
    for arguments in ([], ["nothing"]):
        with pytest.raises(SystemExit):
            command.main(arguments)
    assert "'backbone', 'epithelium', 'sam'" in capsys.readouterr().err
