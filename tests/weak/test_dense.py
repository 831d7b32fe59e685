import numpy as np
import pytest
import timm
import torch
from numpy.typing import NDArray
from wsplf_cli.weak.dense import DenseInference, Part, cam_logits, cells_of, infer_map, smooth

from wsplf_cli import plugins
from wsplf_cli.networks.backbone import Backbone, small_trunk
from wsplf_cli.networks.encoder import TokenTrunk
from wsplf_cli.networks.mil import MilNetwork, as_batch
from wsplf_cli.schema import TissueMask


class ArraySlide:
    """A slide in memory, white outside."""

    def __init__(self, rgb: NDArray[np.uint8]) -> None:
        self.rgb = rgb
        self.height_px0, self.width_px0 = rgb.shape[:2]

    def read(self, x_px0: float, y_px0: float, *, size_px: tuple[int, int], downsample: float) -> NDArray[np.uint8]:
        assert downsample == 1.0
        x, y = round(x_px0), round(y_px0)
        out = np.full((size_px[1], size_px[0], 3), 255, np.uint8)
        top, left = max(0, y), max(0, x)
        part = self.rgb[top : y + size_px[1], left : x + size_px[0]]
        out[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]] = part
        return out


def network() -> MilNetwork:
    torch.manual_seed(0)
    backbone = Backbone(small_trunk(), mean=(0.5,) * 3, std=(0.25,) * 3)
    return MilNetwork(backbone, plugins.load("weak.heads", "gated-attention").build(backbone.channels, 1)).eval()


def everything(height: int, width: int) -> TissueMask:
    return TissueMask(np.ones((height // 8, width // 8), bool), 8.0)


def look(
    rgb: NDArray[np.uint8], tissue: TissueMask, *, block_px: int = 256, batch: int = 4, turns: int = 1
) -> NDArray[np.float32]:
    slide = ArraySlide(rgb)
    found = cam_logits(
        slide,  # type: ignore[arg-type]
        tissue,
        network(),
        mpp=1.0,
        mpp_slide=1.0,
        block_px=block_px,
        device=torch.device("cpu"),
        batch=batch,
        turns=turns,
    )
    assert found.downsample == 8.0
    return found.logits


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_mean_of_the_cam_of_a_tile_is_its_instance_logit() -> None:
    model, tiles = network(), as_batch(noise(64, 64)[None])
    with torch.no_grad():
        ((output, cam),) = model.bags(tiles, [1])
        torch.testing.assert_close(cam.mean(dim=(2, 3)), output.instance_logits)
        torch.testing.assert_close(cam, model.cam(tiles))


def test_every_cell_of_tissue_has_a_logit_and_no_other() -> None:
    tissue = TissueMask(np.zeros((50, 70), bool), 8.0)
    tissue.mask[5:20, 30:60] = True
    logits = look(noise(400, 560), tissue)
    assert logits.shape == (1, 50, 70)
    assert (~np.isnan(logits[0]) == tissue.mask).all()


def test_predicting_twice_or_in_other_batches_gives_the_same() -> None:
    rgb = noise(300, 300)
    first = look(rgb, everything(300, 300))
    np.testing.assert_allclose(first, look(rgb, everything(300, 300), batch=1), atol=1e-4)


def test_a_dark_square_is_seen_where_it_is() -> None:
    plain = np.full((512, 512, 3), 220, np.uint8)
    marked = plain.copy()
    marked[320:384, 128:192] = noise(64, 64)
    change = np.abs(look(marked, everything(512, 512))[0] - look(plain, everything(512, 512))[0])
    rows, columns = np.nonzero(change > 0.5 * change.max())
    assert 39 <= rows.min() <= rows.max() <= 48
    assert 15 <= columns.min() <= columns.max() <= 24


def test_cells_follow_the_tissue_at_any_scale() -> None:
    tissue = TissueMask(np.zeros((10, 10), bool), 10.0)
    tissue.mask[2:4, 6:9] = True
    cells = cells_of(tissue, shape=(25, 25), downsample=4.0)
    rows, columns = np.nonzero(cells)
    assert (rows.min(), rows.max() + 1) == (5, 10)
    assert (columns.min(), columns.max() + 1) == (15, 22)  # the centre of cell 22 is at 90, where the tissue ends


def test_smoothing_takes_the_mean_of_tissue_nearby_and_none_from_elsewhere() -> None:
    logits = np.zeros((2, 30, 30), np.float32)
    logits[0, :, :10] = 8.0
    logits[1] = 3.0
    inside = np.ones((30, 30), bool)
    inside[:, 10:14] = False
    narrow, wide = (smooth(logits, inside, width=width) for width in (1.0, 5.0))
    assert np.isnan(narrow[:, ~inside]).all()
    np.testing.assert_allclose(wide[1, inside], 3.0, atol=1e-5)
    assert narrow[0, :, 0] == pytest.approx(8.0)
    assert narrow[0, :, 14].max() < 0.1 < wide[0, :, 14].min()
    logits[0, 5, 5] = np.nan
    assert np.isnan(smooth(logits, inside, width=1.0)).any(axis=0).sum() == (~inside).sum() + 1


def test_a_part_of_a_slide_is_as_in_the_whole() -> None:
    slide, tissue = ArraySlide(noise(400, 560)), TissueMask(np.ones((50, 70), bool), 8.0)
    tissue.mask[20:24] = False
    seen = DenseInference(1.0, 1.0, block_px=256, stride=8, device=torch.device("cpu"))
    part = Part(top=16, bottom=44, left=32, right=70)
    whole, cut = (
        infer_map(slide, tissue, mean_colour, seen, channels=3, part=chosen)  # type: ignore[arg-type]
        for chosen in (None, part)
    )
    assert whole.shape == (3, 50, 70)
    assert cut.shape == (3, 28, 38)
    np.testing.assert_allclose(cut, whole[:, 16:44, 32:], atol=1e-6)
    assert (np.isnan(cut[0]) == ~tissue.mask[part.slices]).all()


def mean_colour(tiles: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(tiles, 8)


def test_the_mean_over_four_turns_does_not_know_which_way_up_the_slide_is() -> None:
    rgb = noise(128, 128)
    tissue = everything(128, 128)
    upright = look(rgb, tissue, turns=4)
    assert np.allclose(
        np.rot90(upright, axes=(1, 2)), look(np.ascontiguousarray(np.rot90(rgb)), tissue, turns=4), atol=1e-3
    )
    assert not np.allclose(upright, look(rgb, tissue), atol=1e-3)


@pytest.mark.parametrize("patch_px", [14, 16])
@pytest.mark.parametrize("turns", [1, 4])
def test_the_cam_on_tokens_lies_where_its_tissue_is_at_any_stride(patch_px: int, turns: int) -> None:
    torch.manual_seed(0)
    encoder = timm.create_model("vit_tiny_patch16_224", depth=2, patch_size=patch_px, dynamic_img_size=True)
    backbone = Backbone(TokenTrunk(encoder), mean=(0.5,) * 3, std=(0.25,) * 3, frozen=True)
    model = MilNetwork(backbone, plugins.load("weak.heads", "mean").build(backbone.channels, 1)).eval()
    plain = np.full((448, 448, 3), 220, np.uint8)
    marked = plain.copy()
    marked[336:392, 112:168] = noise(56, 56)
    logits = []
    for rgb in (plain, marked):
        found = cam_logits(
            ArraySlide(rgb),  # type: ignore[arg-type]
            everything(448, 448),
            model,
            mpp=1.0,
            mpp_slide=1.0,
            block_px=256,
            device=torch.device("cpu"),
            turns=turns,
        )
        assert found.downsample == patch_px
        assert not np.isnan(found.logits).any()
        logits.append(found.logits[0])
    change = np.abs(logits[1] - logits[0])
    rows, columns = np.nonzero(change > 0.5 * change.max())
    assert 320 <= rows.min() * patch_px <= rows.max() * patch_px < 408
    assert 96 <= columns.min() * patch_px <= columns.max() * patch_px < 184
