"""A network as a function of arrays, with test-time augmentation."""

import numpy as np
import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional

from wsplf_cli.networks.backbone import Backbone, small_trunk
from wsplf_cli.networks.encoder import TokenTrunk
from wsplf_cli.networks.inference import as_batch, on_arrays

CPU = torch.device("cpu")


def noise(side, *, count=1):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def brightness_to_the_right(tiles: Tensor) -> Tensor:
    """A function that knows which way is right: each pixel less its left neighbour."""
    return tiles[:, :1] - functional.pad(tiles, (1, 0))[:, :1, :, :-1]


def test_tiles_become_a_batch_of_channels_in_0_to_1():
    tiles = noise(8, count=2)
    batch = as_batch(tiles)
    assert batch.dtype == torch.float32
    assert batch.shape == (2, 3, 8, 8)
    np.testing.assert_allclose(batch[1, 2].numpy(), tiles[1, :, :, 2] / 255, atol=1e-7)


@pytest.mark.parametrize("rotations", [1, 4])
def test_a_network_that_knows_no_direction_gives_the_same_with_rotations(rotations):
    infer = on_arrays(lambda tiles: functional.avg_pool2d(tiles, 8), device=CPU, rotations=rotations)
    windows = noise(32, count=3)
    maps = infer(windows)
    assert maps.dtype == np.float32
    assert maps.shape == (3, 3, 4, 4)
    direct = windows.reshape(3, 4, 8, 4, 8, 3).mean(axis=(2, 4)).transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(maps, direct, atol=1e-5)


def test_the_mean_over_four_rotations_does_not_depend_on_which_way_up_the_window_is():
    windows = noise(24)
    turned = np.ascontiguousarray(np.rot90(windows, axes=(1, 2)))
    infer = on_arrays(brightness_to_the_right, device=CPU, rotations=4)
    np.testing.assert_allclose(np.rot90(infer(windows), axes=(2, 3)), infer(turned), atol=1e-6)
    once = on_arrays(brightness_to_the_right, device=CPU)
    assert not np.allclose(np.rot90(once(windows), axes=(2, 3)), once(turned), atol=1e-3)


def test_two_rotations_are_the_mean_of_two_aligned_maps():
    windows = noise(16)
    once = on_arrays(brightness_to_the_right, device=CPU)
    quarter = np.rot90(once(np.ascontiguousarray(np.rot90(windows, axes=(1, 2)))), -1, axes=(2, 3))
    twice = on_arrays(brightness_to_the_right, device=CPU, rotations=2)(windows)
    np.testing.assert_allclose(twice, (once(windows) + quarter) / 2, atol=1e-6)


def test_the_activation_comes_before_the_mean():
    def logits(tiles):
        return 20 * (tiles[:, :1] - 0.5)

    windows = noise(8)
    infer = on_arrays(logits, device=CPU, activation=torch.sigmoid)
    expected = 1 / (1 + np.exp(-20 * (windows[..., 0] / 255 - 0.5)))
    np.testing.assert_allclose(infer(windows)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("rotations", [1, 4])
@pytest.mark.parametrize("patch_px", [8, 14, 16])
def test_a_map_changes_where_the_window_changes_at_any_stride(patch_px, rotations):
    torch.manual_seed(0)
    if patch_px == 8:
        backbone = Backbone(small_trunk(), mean=(0.5,) * 3, std=(0.25,) * 3).eval()
    else:
        encoder = timm.create_model("vit_tiny_patch16_224", depth=2, patch_size=patch_px, dynamic_img_size=True)
        backbone = Backbone(TokenTrunk(encoder), mean=(0.5,) * 3, std=(0.25,) * 3, frozen=True).eval()
    assert backbone.stride == patch_px
    plain = np.full((1, 448, 448, 3), 220, np.uint8)
    marked = plain.copy()
    marked[:, 336:392, 112:168] = noise(56)
    infer = on_arrays(backbone, device=CPU, rotations=rotations)
    change = np.abs(infer(marked) - infer(plain)).sum(axis=1)[0]
    rows, columns = np.nonzero(change > 0.5 * change.max())
    assert 320 <= rows.min() * patch_px <= rows.max() * patch_px < 408
    assert 96 <= columns.min() * patch_px <= columns.max() * patch_px < 184
