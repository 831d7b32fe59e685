"""SAM: one window, many prompts; the tiny one that ships; checkpoints that are not what they should be."""

import subprocess
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks import sam as module
from wsplf_cli.networks.sam import Sam, load_sam
from wsplf_cli.networks.tiny_sam import build_tiny
from wsplf_cli.pretraining.targets import MAP_PX, generate_windows
from wsplf_cli.pretraining.targets import points as place_points
from wsplf_cli.schema import Prompt

CPU = torch.device("cpu")


def points(*places, labels=None, box=None):
    return Prompt(
        points_px=np.array(places, np.float32).reshape(-1, 2),
        point_labels=np.array(labels if labels is not None else [1] * len(places), np.int8),
        box_px=None if box is None else np.array(box, np.float32),
    )


MIXED = [
    points((40, 50)),
    points((100, 100), (120, 90), (200, 30), labels=[1, 1, 0]),
    points((10, 10)),
    points((60, 60), box=(30, 30, 100, 100)),
    points(box=(100, 20, 200, 90)),
]


@pytest.fixture(scope="module")
def untrained():
    torch.manual_seed(0)
    return Sam(build_tiny(), name="tiny", device=CPU)


@pytest.fixture(scope="module")
def window():
    return np.random.default_rng(0).integers(0, 256, size=(256, 256, 3), dtype=np.uint8)


def test_embedding_of_a_window_and_of_a_batch(untrained, window):
    single = untrained.embed(window)
    batch = untrained.embed(np.stack([window, window[::-1]]))
    assert single.shape == (1, 512, 16, 16)
    assert single.dtype == torch.float32
    assert batch.shape == (2, 512, 16, 16)
    torch.testing.assert_close(batch[:1], single, atol=1e-4, rtol=1e-4)


def test_window_that_cannot_be_written_to_is_read_without_a_warning(untrained, window, recwarn):
    window = window.copy()
    window.setflags(write=False)
    untrained.embed(window)
    untrained.embed(window[:, ::-1])
    assert not recwarn.list


def test_four_masks_a_prompt_best_first_or_one(untrained, window):
    embedding = untrained.embed(window)
    found = untrained.prompt(embedding, MIXED)
    assert [len(masks) for masks in found] == [4] * len(MIXED)
    for masks in found:
        scores = [mask.score for mask in masks]
        assert scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)
        assert all(mask.mask.shape == (256, 256) and mask.mask.dtype == np.bool_ for mask in masks)
    assert [len(masks) for masks in untrained.prompt(embedding, MIXED, multimask=False)] == [1] * len(MIXED)


def test_no_prompts_no_masks(untrained, window):
    assert untrained.prompt(untrained.embed(window), []) == []


def test_prompts_together_give_what_each_gives_alone(untrained, window):
    embedding = untrained.embed(window)
    together, scores = untrained.logits(embedding, MIXED)
    assert together.shape == (len(MIXED), 4, 64, 64)
    assert scores.shape == (len(MIXED), 4)
    for index, prompt in enumerate(MIXED):
        alone, score = untrained.logits(embedding[0], [prompt])
        torch.testing.assert_close(together[index], alone[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(scores[index], score[0], atol=1e-4, rtol=1e-4)


def test_many_prompts_are_done_in_pieces(untrained, window, monkeypatch):
    embedding = untrained.embed(window)
    whole = untrained.prompt(embedding, MIXED)
    monkeypatch.setattr(module, "PROMPTS_AT_ONCE", 2)
    for some, all_ in zip(untrained.prompt(embedding, MIXED), whole, strict=True):
        assert [mask.score for mask in some] == pytest.approx([mask.score for mask in all_], abs=1e-4)


def test_mask_of_an_earlier_pass_goes_in_with_its_prompt(untrained, window):
    embedding = untrained.embed(window)
    plain, _ = untrained.logits(embedding, MIXED)
    again, _ = untrained.logits(embedding, MIXED, mask_input=plain[:, 0])
    alone, _ = untrained.logits(embedding, MIXED[3:4], mask_input=plain[3:4, 0])
    assert (again - plain).abs().max() > 1e-3
    torch.testing.assert_close(again[3:4], alone, atol=1e-4, rtol=1e-4)


def test_cam_as_a_mask_is_positive_where_it_is_foreground(untrained):
    cam = np.zeros((1, 256, 256), np.float32)
    cam[:, :128] = 0.9
    logits = untrained.mask_logits(cam)
    assert logits.shape == (1, 64, 64)
    assert (logits[:, :32] > 0).all()
    assert (logits[:, 32:] < 0).all()


@pytest.mark.parametrize("window_px", [128, 256, 512, 300])
def test_a_prompt_at_a_pixel_lands_on_that_pixel_after_the_resize(untrained, window_px):
    """The prompt is encoded at the place where the resize puts the pixel's centre: in SAM's own grid of positions."""
    row, column = window_px // 4, 3 * window_px // 5
    rgb = np.zeros((window_px, window_px, 3), np.float32)
    rgb[row, column] = 1.0
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(rgb).permute(2, 0, 1)[None], (256, 256), mode="bilinear", antialias=True
    )[0, 0]
    weight = resized / resized.sum()
    centre_x = float((weight.sum(0) * (torch.arange(256) + 0.5)).sum())
    centre_y = float((weight.sum(1) * (torch.arange(256) + 0.5)).sum())

    scale = 256 / window_px
    coordinates, _ = untrained._points([points((column + 0.5, row + 0.5))], scale=scale)
    layer = untrained.network.prompt_encoder.pe_layer
    encoded = layer.forward_with_coords(coordinates + 0.5, (256, 256))[0, 0]
    expected = layer._pe_encoding(torch.tensor([centre_x / 256, centre_y / 256]))
    torch.testing.assert_close(encoded, expected, atol=2e-2, rtol=0)

    grid = layer((256, 256))  # [C, 256, 256]: the position of each pixel's centre
    nearest = torch.argmin((grid - encoded[:, None, None]).square().sum(0))
    assert abs(int(nearest) // 256 + 0.5 - centre_y) <= 0.51
    assert abs(int(nearest) % 256 + 0.5 - centre_x) <= 0.51


def test_box_corners_scale_like_points(untrained):
    box = untrained._boxes([points((1, 1), box=(10, 20, 30, 40))], scale=0.5)
    torch.testing.assert_close(box, torch.tensor([[4.5, 9.5, 14.5, 19.5]]))


def test_masks_come_back_at_the_size_of_the_window(untrained):
    window = np.zeros((160, 160, 3), np.uint8)
    found = untrained.prompt(untrained.embed(window), [points((80, 80))], window_px=160)
    assert found[0][0].mask.shape == (160, 160)


def test_gradient_reaches_encoder_and_decoder(untrained):
    embedding = untrained.encode(torch.rand(1, 3, 256, 256))
    masks, scores = untrained.logits(embedding, MIXED[:2])
    (masks.mean() + scores.mean()).backward()
    for part in ("image_encoder.patch_embed.proj.weight", "mask_decoder.mask_tokens.weight"):
        assert untrained.network.get_parameter(part).grad.abs().sum() > 0
    untrained.network.zero_grad(set_to_none=True)


def test_a_checkpoint_of_ones_own_tiny_sam_is_loaded(untrained, window, tmp_path):
    state = {name: value.contiguous() for name, value in untrained.network.state_dict().items()}
    save_file(state, tmp_path / "mine.safetensors")
    torch.save(untrained.network.state_dict(), tmp_path / "mine.pth")
    expected, _ = untrained.logits(untrained.embed(window), MIXED)
    for name in ("mine.safetensors", "mine.pth"):
        sam = load_sam("tiny", checkpoint=tmp_path / name, device=CPU)
        torch.testing.assert_close(sam.logits(sam.embed(window), MIXED)[0], expected)


def test_shipped_tiny_sam_segments_painted_glands_from_three_points():
    """Held-out tissue: the shipped weights were trained on windows of another seed."""
    sam = load_sam("tiny", checkpoint=None, device=CPU)
    rng = np.random.default_rng(11)
    ious, best = [], []
    for window in generate_windows(12, seed=(2024,)):
        glands, areas = np.unique(window.instance, return_counts=True)
        large = glands[(glands > 0) & (areas > 0.02 * window.instance.size)]
        if large.size == 0:
            continue
        gland = window.instance == large[0]
        prompt = place_points(rng, gland, inside=3, outside=3)
        found = sam.prompt(sam.embed(window.rgb), [prompt], window_px=MAP_PX)[0]
        overlaps = [(mask.mask & gland).sum() / (mask.mask | gland).sum() for mask in found]
        ious.append(overlaps[0])
        best.append(max(overlaps))
    assert len(ious) >= 4
    assert np.mean(ious) > 0.55
    assert np.mean(best) >= np.mean(ious)


def test_shipped_weights_are_small():
    assert (files("wsplf_cli") / "assets" / module.TINY_ASSET).stat().st_size <= 8_000_000


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="vit_x") as caught:
        load_sam("vit_x", checkpoint=None, device=CPU)
    assert "tiny, vit_b" in caught.value.hint


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_registry_model_without_a_checkpoint_asks_for_one(name):
    with pytest.raises(ConfigError, match="needs its checkpoint") as caught:
        load_sam(name, checkpoint=None, device=CPU)
    assert "--sam-checkpoint" in caught.value.hint


def test_checkpoint_that_does_not_exist(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        load_sam("vit_b", checkpoint=tmp_path / "none.pth", device=CPU)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04" + bytes(1000)])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_that_is_no_checkpoint(tmp_path, content, suffix):
    path = tmp_path / f"sam{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        load_sam("vit_b", checkpoint=path, device=CPU)
    assert str(len(content)) in caught.value.message
    assert "\n" not in str(caught.value)


def test_truncated_checkpoint(tmp_path, untrained):
    whole = tmp_path / "whole.pth"
    torch.save(untrained.network.state_dict(), whole)
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ConfigError, match="incomplete"):
        load_sam("tiny", checkpoint=cut, device=CPU)


def test_pickle_that_runs_code_is_refused(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (exec, ("raise SystemExit('code of a checkpoint ran')",))

    torch.save({"weight": Harmful()}, tmp_path / "bad.pth")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_sam("vit_b", checkpoint=tmp_path / "bad.pth", device=CPU)


def test_small_checkpoint_under_a_registry_name_says_what_was_expected(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "small.pth")
    with pytest.raises(ConfigError, match=r"not one of vit_b: 314 of 314 tensors are missing.*1 are unknown"):
        load_sam("vit_b", checkpoint=tmp_path / "small.pth", device=CPU)


def test_checkpoint_of_another_size_is_told_by_name(tmp_path, untrained):
    torch.save(untrained.network.state_dict(), tmp_path / "tiny.pth")
    with pytest.raises(ConfigError, match="not one of vit_l") as caught:
        load_sam("vit_l", checkpoint=tmp_path / "tiny.pth", device=CPU)
    assert caught.value.hint == "it looks like tiny: pass --sam tiny"


def test_checkpoint_with_another_shape_names_it(tmp_path, untrained):
    state = dict(untrained.network.state_dict())
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 64)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(ConfigError, match=r"iou_token.weight is \[1, 64\], not \[1, 128\]"):
        load_sam("tiny", checkpoint=tmp_path / "odd.pth", device=CPU)


def test_checkpoint_that_is_no_mapping(tmp_path):
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ConfigError, match="named tensors"):
        load_sam("vit_b", checkpoint=tmp_path / "list.pth", device=CPU)


def test_parity_check_passes_where_the_device_is_sound():
    torch.manual_seed(0)
    assert module._masks_agree(build_tiny(), device=CPU)


def test_importing_sam_warns_of_nothing():
    subprocess.run([sys.executable, "-W", "error", "-c", "import wsplf_cli.networks.sam"], check=True)
