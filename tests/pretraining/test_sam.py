"""Training of the tiny SAM: targets and prompts fit their masks, and a few steps make loadable weights."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from wsplf_cli.networks.sam import load_sam
from wsplf_cli.pretraining import __main__ as command
from wsplf_cli.pretraining import sam as trainer
from wsplf_cli.pretraining.targets import (
    AREA_LIMITS,
    MAP_PX,
    Target,
    bad_cam,
    box,
    choose_target,
    correct,
    generate_windows,
    make_prompts,
    points,
    strategies,
)
from wsplf_cli.schema import Prompt, Silent, TileMask


@pytest.fixture(scope="module")
def windows():
    return generate_windows(6, seed=(3,))


def square(first, last):
    mask = np.zeros((MAP_PX, MAP_PX), bool)
    mask[first:last, first:last] = True
    return mask


def test_windows_are_the_same_for_the_same_seed(windows):
    again = generate_windows(2, seed=(3,))
    for one, other in zip(windows, again, strict=False):
        np.testing.assert_array_equal(one.rgb, other.rgb)
        np.testing.assert_array_equal(one.tissue, other.tissue)
    assert windows[0].rgb.shape == (256, 256, 3)
    assert windows[0].instance.shape == (MAP_PX, MAP_PX)


def test_a_gland_is_of_one_sort_with_its_lumen(windows):
    for window in windows:
        for instance in np.unique(window.instance[window.instance > 0]):
            assert len(np.unique(window.tissue[window.instance == instance])) == 1


def test_targets_are_of_one_sort_and_of_a_size_that_can_be_meant(windows):
    rng = np.random.default_rng(0)
    for window in windows:
        for _ in range(10):
            target = choose_target(rng, window.tissue, window.instance)
            if target is not None:
                assert AREA_LIMITS[0] <= target.mask.mean() <= AREA_LIMITS[1]
                assert len(np.unique(window.tissue[target.mask])) == 1
                np.testing.assert_array_equal(target.mask, target.parts > 0)


def test_window_of_one_tissue_has_no_target():
    flat = np.zeros((MAP_PX, MAP_PX), np.int16)
    assert choose_target(np.random.default_rng(0), flat, flat) is None


def test_prompts_on_one_window_are_one_batch_and_ask_for_what_they_point_at(windows):
    rng = np.random.default_rng(1)
    strategy_of = strategies()
    right = total = 0
    for window in windows:
        for _ in range(8):
            drawn = [choose_target(rng, window.tissue, window.instance) for _ in range(3)]
            targets = [target for target in drawn if target is not None]
            asked = make_prompts(rng, targets, strategy_of)
            assert len({(len(prompt.points_px), prompt.box_px is None) for prompt, _ in asked}) == 1
            for (prompt, mask), target in zip(asked, targets, strict=True):
                assert mask.any()
                assert not (mask & ~target.mask).any()
                columns, rows = np.floor(prompt.points_px[prompt.point_labels == 1]).astype(int).T
                right += int(mask[rows, columns].sum())
                total += len(rows)
    assert right > 0.8 * total


def test_bad_cam_is_a_cam_of_its_mask():
    rng = np.random.default_rng(0)
    mask = square(16, 40)
    cams = [bad_cam(rng, mask) for _ in range(20)]
    for cam in cams:
        assert cam.dtype == np.float32
        assert cam.min() >= 0
        assert cam.max() <= 1
        assert cam[mask].mean() > 3 * cam[~mask].mean()
    assert np.mean([((cam >= 0.5) == mask).all() for cam in cams]) < 0.5


def test_points_are_on_their_sides():
    mask = square(10, 50)
    prompt = points(np.random.default_rng(0), mask, inside=4, outside=5)
    columns, rows = np.floor(prompt.points_px).astype(int).T
    np.testing.assert_array_equal(mask[rows, columns], prompt.point_labels == 1)
    assert prompt.point_labels.tolist() == [1] * 4 + [0] * 5


def test_box_is_about_the_mask_and_inside_the_map():
    mask = square(0, 20)
    boxes = np.stack([box(np.random.default_rng(seed), mask, pointed=True).box_px for seed in range(20)])
    assert boxes.min() == 0
    assert np.abs(boxes - [0, 0, 20, 20]).max() < 6
    assert len(box(np.random.default_rng(0), mask, pointed=False).points_px) == 0


def test_correction_points_at_the_error():
    prompt = Prompt(np.array([[20.0, 20.0]], np.float32), np.ones(1, np.int8))
    truth, predicted = square(10, 40), square(10, 30)
    column, row = np.floor(correct(np.random.default_rng(0), prompt, predicted=predicted, truth=truth).points_px[-1])
    assert truth[int(row), int(column)]
    assert not predicted[int(row), int(column)]
    assert correct(np.random.default_rng(0), prompt, predicted=truth, truth=truth) is prompt


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
        assert float(iou) == max(ious[1:])
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


def test_learning_rate_goes_up_and_down():
    rates = [trainer.learning_rate_factor(step, steps=1000) for step in range(1000)]
    assert max(rates) == pytest.approx(1, abs=1e-3)
    assert rates[0] < 0.01
    assert rates[-1] < 0.02


@pytest.mark.slow
def test_a_few_steps_write_weights_that_load_and_do_not_vary(tmp_path, windows, monkeypatch):
    monkeypatch.setattr(trainer, "generate_in_background", lambda seed: (windows for _ in range(1)))
    monkeypatch.setattr(trainer, "evaluate", lambda sam, *, seed: {})
    monkeypatch.setattr(trainer, "WINDOWS", 2)
    outputs = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.safetensors"
        trainer.pretrain(path, seed=5, steps=4, tracker=Silent())
        sam = load_sam("tiny", checkpoint=path, device=torch.device("cpu"))
        outputs.append(sam.embed(windows[0].rgb))
        assert path.stat().st_size < 8e6
    torch.testing.assert_close(outputs[0], outputs[1])
    assert torch.isfinite(outputs[0]).all()


def test_measure_reports_points_and_cams(windows, monkeypatch, tmp_path):
    class Perfect:
        """Answers with the right mask of the only target."""

        def embed(self, rgb):
            return torch.zeros(1)

        def prompt(self, embedding, prompts, *, window_px):
            return [[TileMask(mask=square(10, 30), score=1.0)] * 3]

    only = Target(mask=square(10, 30), parts=square(10, 30).astype(int))
    monkeypatch.setattr(trainer, "choose_target", lambda rng, tissue, instance: only)
    monkeypatch.setattr(trainer, "generate_windows", lambda count, *, seed: windows[:1])
    figures = trainer.evaluate(Perfect(), seed=0)
    assert figures["points 3+0"] == figures["box"] == figures["CAM, best of three"] == 1.0
    assert 0.3 < figures["CAM itself"] < 1.0


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
