"""The contract of every file in segmenters/."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from wsplf_cli import plugins
from wsplf_cli.errors import ConfigError
from wsplf_cli.options import TrainOptions
from wsplf_cli.segmentation.models import sam, unet

NAMES = plugins.names("segmentation.models")


def _build(name: str, classes: int) -> nn.Module:
    torch.manual_seed(0)
    plugin = plugins.load("segmentation.models", name)
    model: nn.Module = plugin.build(classes, pretrained=False, **plugin.settings(TrainOptions()))
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 64), (50, 77)])
def test_logits_have_the_size_of_the_tile(name: str, size: tuple[int, int]) -> None:
    logits = _build(name, 2)(torch.rand(2, 3, *size))
    assert logits.shape == (2, 2, *size)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_tile_does_not_depend_on_its_batch(name: str) -> None:
    model = _build(name, 1).eval()
    with torch.no_grad():
        for module in model.modules():  # the last layer may start at zero, which would hide everything
            if isinstance(module, nn.Conv2d) and module.out_channels == 1:
                nn.init.normal_(module.weight)
        tiles = torch.rand(3, 3, 64, 64)
        alone = model(tiles[:1])
        assert alone.std() > 0
        assert torch.allclose(model(tiles)[:1], alone, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_gives_the_same_output(name: str) -> None:
    first, second = _build(name, 1).eval(), _build(name, 1).eval()
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.02)
        tiles = torch.rand(1, 3, 64, 64)
        assert not torch.allclose(first(tiles), second(tiles), atol=1e-3)
        second.load_state_dict(first.state_dict())
        assert torch.equal(first(tiles), second(tiles))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_tiles_can_be_learned_by_heart(name: str) -> None:
    model = _build(name, 1).train()
    tiles = torch.full((2, 3, 64, 64), 0.8)
    target = torch.zeros(2, 1, 64, 64)
    target[0, :, 8:40, 16:56] = 1
    target[1, :, 32:60, 4:32] = 1
    tiles[:, 1:] -= 0.4 * target
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(model(tiles), target).backward()
        optimizer.step()
    with torch.no_grad():
        found = model(tiles) > 0
    shared = (found & (target > 0)).sum()
    assert 2 * shared / (found.sum() + target.sum()) > 0.9


@pytest.mark.parametrize(
    ("module", "wrong"),
    [(unet, {"sam": "vit_b"}), (unet, {"sam_checkpoint": "w.pth"}), (sam, {"backbone": "resnet18"})],
)
def test_an_option_of_the_other_segmenter_is_refused(module, wrong) -> None:
    with pytest.raises(ConfigError, match="no effect"):
        module.settings(TrainOptions(**wrong))
