import pytest
import torch

from wsplf_cli.networks.augment import augment, rescan, restain, turn, zoom


def _tiles(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


def test_same_seed_gives_the_same_batch_and_another_seed_another() -> None:
    tiles = _tiles(4, 3, 32, 32)
    first, _ = augment(tiles, None, torch.Generator().manual_seed(0))
    again, _ = augment(tiles, None, torch.Generator().manual_seed(0))
    other, _ = augment(tiles, None, torch.Generator().manual_seed(5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_shape_and_range_are_kept_and_the_input_is_not_touched() -> None:
    tiles = _tiles(8, 3, 40, 40)
    before = tiles.clone()
    masks = torch.zeros(8, 40, 40, dtype=torch.uint8)
    changed, turned = augment(tiles, masks, torch.Generator().manual_seed(0))
    assert torch.equal(tiles, before)
    assert changed.shape == tiles.shape
    assert changed.dtype == tiles.dtype
    assert turned is not None
    assert turned.shape == masks.shape
    assert turned.dtype == masks.dtype
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.isfinite(changed).all()


@pytest.mark.parametrize("size", [(32, 32), (24, 32)])
def test_mask_turns_with_its_tile(size: tuple[int, int]) -> None:
    tiles = _tiles(32, 3, *size)
    masks = (tiles[:, 0] > 0.5).to(torch.uint8)
    both = torch.stack([masks, 1 - masks], dim=1)
    turned_tiles, turned = turn(tiles, both, torch.Generator().manual_seed(0))
    assert turned is not None
    assert torch.equal(turned[:, 0], (turned_tiles[:, 0] > 0.5).to(torch.uint8))
    assert torch.equal(turned[:, 1], 1 - turned[:, 0])
    kinds = {
        tuple(tile.flatten().tolist())
        for tile in turn(tiles[:1].expand(64, -1, -1, -1), None, torch.Generator().manual_seed(0))[0]
    }
    assert len(kinds) == (8 if size[0] == size[1] else 4)


def test_staining_changes_each_tile_as_a_whole_and_keeps_order_of_darkness() -> None:
    ramp = torch.linspace(0.1, 0.9, 64).view(1, 1, 1, 64).expand(6, 3, 64, 64).contiguous()
    changed = restain(ramp, torch.Generator().manual_seed(0))
    assert torch.allclose(changed, changed[:, :, :1].expand_as(changed))
    assert (changed.mean(dim=1).diff(dim=-1) >= 0).all()
    assert (changed[0] - changed[1]).abs().max() > 0.02


def test_some_tiles_are_left_as_scanned() -> None:
    tiles = _tiles(64, 3, 16, 16)
    same = (rescan(tiles, torch.Generator().manual_seed(0)) == tiles).flatten(1).all(dim=1)
    assert 10 < int(same.sum()) < 54


def test_zoom_changes_the_size_of_what_a_tile_and_its_mask_show_alike() -> None:
    tiles = torch.zeros(32, 3, 130, 130)
    tiles[:, :, 45:85, 45:85] = 1.0
    masks = (tiles[:, :2] > 0.5).to(torch.uint8)
    zoomed, zoomed_masks = zoom(tiles, masks, torch.Generator().manual_seed(0), side_px=100, most=1.3)
    assert zoomed.shape == (32, 3, 100, 100)
    assert (zoomed_masks.shape, zoomed_masks.dtype) == ((32, 2, 100, 100), torch.uint8)
    differing = (zoomed[:, :2] > 0.5) != (zoomed_masks > 0)
    assert differing.float().mean() < 0.02
    sides = (zoomed_masks[:, 0] > 0).any(dim=1).sum(dim=1)
    assert sides.max() <= 53
    assert sides.max() > 47
    assert sides.min() < 35


def test_zoom_by_one_only_crops() -> None:
    tiles = torch.rand(4, 3, 40, 40)
    zoomed, _ = zoom(tiles, torch.zeros(4, 1, 40, 40), torch.Generator().manual_seed(1), side_px=40, most=1.0)
    torch.testing.assert_close(zoomed, tiles)
