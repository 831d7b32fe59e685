"""The tiny SAM that ships: ``segment_anything``'s modules, with shortcuts that make it trainable on a CPU in an hour.

A vision transformer needs millions of images to learn features, and a mask decoder as many to learn where a prompt is.
So the encoder reads the feature maps of a CNN and passes its fine ones on to the decoder (as SAM 2 does), and the
decoder sees prompts also as maps: where points are, what is like the pixels at them, and what is inside the box.
"""

from dataclasses import dataclass

import torch
from segment_anything.modeling.image_encoder import ImageEncoderViT
from segment_anything.modeling.mask_decoder import MLP, MaskDecoder
from segment_anything.modeling.prompt_encoder import PromptEncoder
from segment_anything.modeling.sam import Sam as SamNetwork
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

from wsplf_cli.networks.backbone import Backbone, small_trunk

SIDE_PX = 256
CELL_PX = 16
#: Side of a pixel of the fine features and of the masks, in pixels of the window.
FINE_PX = 4
WIDTH = 192
CONTEXT = 128
"""Channels of a cell that the decoder's transformer sees."""
FINE = 24
"""Channels of a pixel of the fine features."""
UPSCALED = 16
MASK_FEATURES = 32
PROMPT_MAPS = 9
AFFINITY = 16
#: The logits of affinity beyond this say nothing more.
MOST_AFFINITY = 6.0


@dataclass(frozen=True, slots=True)
class DensePrompt:
    """P prompts as the tiny decoder sees them beside tokens; coordinates are in pixels of the window.

    ``cells`` [P, C, g, g] are SAM's. ``points`` [P, K, 2] (x, y) and ``labels`` [P, K] or None; ``box`` [P, 4] or None;
    ``mask`` [P, 1, m, m], logits of an earlier pass, or None.
    """

    cells: Tensor
    points: Tensor | None = None
    labels: Tensor | None = None
    box: Tensor | None = None
    mask: Tensor | None = None


class Stem(nn.Module):
    """The patch embedding of the tiny SAM: the ``small`` backbone, and one layer to the cells of the grid."""

    def __init__(self) -> None:
        super().__init__()
        # the SAM network normalises its input, so the backbone does not
        self.backbone = Backbone(small_trunk(), mean=(0.0,) * 3, std=(1.0,) * 3)
        self.proj = nn.Conv2d(sum(self.backbone.pyramid_channels[-2:]), WIDTH, kernel_size=1)

    def forward(self, window: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Cells float [B, S / 16, S / 16, width] of normalised RGB windows float [B, 3, S, S], and the trunk's maps."""
        maps = [
            level * level.pow(2).mean(dim=1, keepdim=True).add(1e-6).rsqrt() for level in self.backbone.pyramid(window)
        ]
        cells: Tensor = self.proj(torch.cat(maps[-2:], dim=1))
        return cells.permute(0, 2, 3, 1), maps


class TinyImageEncoder(ImageEncoderViT):  # type: ignore[misc]  # the package has no types
    """A transformer of two blocks on the cells, and a feature pyramid from it down to the fine features."""

    def __init__(self) -> None:
        super().__init__(
            img_size=SIDE_PX,
            patch_size=CELL_PX,
            embed_dim=WIDTH,
            depth=2,
            num_heads=6,
            mlp_ratio=4,
            out_chans=CONTEXT,
            use_rel_pos=True,
            window_size=8,
            global_attn_indexes=(1,),
        )
        self.patch_embed = Stem()
        half, quarter, eighth = self.patch_embed.backbone.pyramid_channels[:3]
        self.from_cells = nn.Conv2d(CONTEXT, 64, 1)
        self.from_eighth = nn.Conv2d(eighth, 64, 1)
        self.at_eighth = _conv(64, 64)
        self.to_quarter = nn.Conv2d(64, 32, 1)
        self.from_quarter = nn.Conv2d(quarter, 32, 1)
        self.from_half = nn.Conv2d(half, 32, 2, stride=2)
        self.at_quarter = nn.Sequential(_conv(32, 32), nn.Conv2d(32, FINE, 3, padding=1))

    def forward(self, window: Tensor) -> Tensor:
        """The context [B, 128, g, g] and, folded into cells, the fine features: float [B, C, g, g]."""
        cells, (half, quarter, eighth, *_) = self.patch_embed(window)
        cells = cells + self.pos_embed
        for block in self.blocks:
            cells = block(cells)
        context = self.neck(cells.permute(0, 3, 1, 2))
        features = self.at_eighth(_double(self.from_cells(context)) + self.from_eighth(eighth))
        features = _double(self.to_quarter(features)) + self.from_quarter(quarter) + self.from_half(half)
        fine = functional.pixel_unshuffle(self.at_quarter(features), CELL_PX // FINE_PX)
        return torch.cat([context, fine], dim=1)


class TinyPromptEncoder(PromptEncoder):  # type: ignore[misc]
    """SAM's prompt encoder, which also hands on the prompts themselves."""

    def __init__(self) -> None:
        cells = SIDE_PX // CELL_PX
        super().__init__(
            embed_dim=CONTEXT,
            image_embedding_size=(cells, cells),
            input_image_size=(SIDE_PX, SIDE_PX),
            mask_in_chans=16,
        )

    def forward(
        self, points: tuple[Tensor, Tensor] | None, boxes: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, DensePrompt]:
        """The tokens of the prompts, and their dense form."""
        sparse, cells = super().forward(points=points, boxes=boxes, masks=masks)
        # the package adds half a pixel to coordinates
        xy, labels = (None, None) if points is None else (points[0] + 0.5, points[1])
        return sparse, DensePrompt(cells, xy, labels, None if boxes is None else boxes + 0.5, masks)


class TinyMaskDecoder(MaskDecoder):  # type: ignore[misc]
    """SAM's mask decoder with fine features, prompts as maps, and an estimate of the IoU that sees the masks."""

    def __init__(self) -> None:
        super().__init__(
            transformer_dim=CONTEXT,
            transformer=TwoWayTransformer(depth=2, embedding_dim=CONTEXT, num_heads=4, mlp_dim=256),
            activation=nn.ReLU,
            iou_head_hidden_dim=64,
        )
        self.affinity = nn.Conv2d(FINE, AFFINITY + 2, 1)
        self.point_features = nn.Linear(FINE, CONTEXT)
        self.from_fine = nn.Conv2d(FINE, MASK_FEATURES, 3, padding=1)
        self.from_prompt = nn.Conv2d(UPSCALED + PROMPT_MAPS, MASK_FEATURES, 3, padding=1, bias=False)
        self.mixed = nn.Sequential(nn.ReLU(), nn.Conv2d(MASK_FEATURES, MASK_FEATURES, 3, padding=1), nn.ReLU())
        width = MASK_FEATURES + PROMPT_MAPS + 1
        self.output_hypernetworks_mlps = nn.ModuleList(
            MLP(CONTEXT, CONTEXT, width, 3) for _ in range(self.num_mask_tokens)
        )
        self.iou_prediction_head = MLP(CONTEXT + 3 * self.num_mask_tokens, 64, self.num_mask_tokens, 3)
        xy = (torch.arange(SIDE_PX // FINE_PX) + 0.5) * FINE_PX / SIDE_PX
        self.register_buffer("xy", torch.stack(torch.meshgrid(xy, xy, indexing="xy")), persistent=False)

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: DensePrompt | Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits [P, 4, m, m] and estimated IoUs [P, 4] of P prompts; embeddings [1, C, g, g] of their window.

        Tokens that are no prompts, such as those learned for a class, come with the cells alone, [P, C, g, g].
        """
        prompt = dense_prompt_embeddings
        if isinstance(prompt, Tensor):
            prompt = DensePrompt(prompt)
        context, fine = split_embedding(image_embeddings)
        places, scale, bias = self.affinity_maps(fine)
        tokens = sparse_prompt_embeddings
        count = len(tokens)
        maps = [tokens.new_zeros(count, 1, *fine.shape[-2:]) for _ in range(4)]
        if prompt.points is not None and prompt.labels is not None:
            indices = pixel_index(prompt.points)
            at_points = fine[0].flatten(1).T[indices]  # [P, K, FINE]
            known = prompt.points.shape[1]
            tokens = torch.cat([tokens[:, :known] + self.point_features(at_points), tokens[:, known:]], dim=1)
            likeness = affinity(places, scale, bias, indices)  # [P, K, m, m]
            near = self._nearness(prompt.points)
            maps = []
            for label in (1, 0):
                of_label = (prompt.labels == label)[:, :, None, None]
                some = of_label.any(dim=1, keepdim=True)
                alike = likeness.masked_fill(~of_label, -MOST_AFFINITY).amax(dim=1, keepdim=True)
                maps += [
                    torch.where(some, alike / 4, torch.zeros_like(alike)),
                    (near * of_label).amax(dim=1, keepdim=True),
                ]
        maps += self._box_maps(prompt.box, places, count=count)
        maps += [
            torch.zeros_like(maps[0]) if prompt.mask is None else torch.tanh(prompt.mask.clamp(-8, 8) / 4),
            torch.full_like(maps[0], float(prompt.mask is not None)),
        ]
        prompt_maps = torch.cat(maps, dim=1)
        output = torch.cat([self.iou_token.weight, self.mask_tokens.weight], dim=0).expand(count, -1, -1)
        with torch.autocast(context.device.type, enabled=False):
            hidden, cells = self.transformer(
                context.float() + prompt.cells.float(),
                image_pe.expand(count, -1, -1, -1),
                torch.cat([output, tokens.float()], dim=1),
            )
        cells = cells.transpose(1, 2).reshape(count, CONTEXT, *context.shape[-2:])
        upscaled = self.output_upscaling(cells)
        features = self.mixed(self.from_fine(fine) + self.from_prompt(torch.cat([upscaled, prompt_maps], dim=1)))
        filters = torch.stack(
            [layer(hidden[:, 1 + index]) for index, layer in enumerate(self.output_hypernetworks_mlps)],
            dim=1,
        )
        of_features, of_maps, offset = torch.split(filters.float(), [MASK_FEATURES, PROMPT_MAPS, 1], dim=2)
        masks = of_features @ features.float().flatten(2) + of_maps @ prompt_maps.float().flatten(2) + offset
        masks = masks.reshape(*masks.shape[:2], *fine.shape[-2:])
        iou = self.iou_prediction_head(torch.cat([hidden[:, 0], _certainty(masks.detach())], dim=1))
        return masks, torch.sigmoid(iou)

    def affinity_maps(self, fine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For fine features [1, F, m, m]: a place [A, m * m], a scale [m * m] and a bias [m * m] of each pixel.

        Two pixels belong together when their places are near. The first two numbers of a place are a position, to begin
        with that of the pixel itself: it may become the centre of its gland.
        """
        values = self.affinity(fine)[0].float()
        places = torch.cat([values[:2] + 4 * self.xy, values[2:AFFINITY]]).flatten(1)
        return places, functional.softplus(values[AFFINITY]).flatten(), values[AFFINITY + 1].flatten() + 2

    def _nearness(self, points: Tensor) -> Tensor:
        """How near each pixel of the fine map is to points [P, K, 2]: [P, K, m, m], 1 at the point."""
        distance = self.xy[None, None] * SIDE_PX - points[..., None, None]
        return torch.exp(-distance.pow(2).sum(dim=2) / (2 * (2.0 * FINE_PX) ** 2))

    def _box_maps(self, box: Tensor | None, places: Tensor, *, count: int) -> list[Tensor]:
        """Whether a box is given; where its inside is; and where the centre of a pixel's gland is near its centre."""
        side = self.xy.shape[-1]
        if box is None:
            return [places.new_zeros(count, 1, side, side) for _ in range(3)]
        box = box / SIDE_PX
        low, high = box[:, :2, None, None], box[:, 2:, None, None]
        size = (high - low).clamp(min=0.02)
        inside = torch.sigmoid(torch.minimum(self.xy - low, high - self.xy).amin(dim=1, keepdim=True) * side)
        centres = places[:2].view(1, 2, side, side) / 4
        off_centre = ((centres - (low + high) / 2) / size).pow(2).sum(dim=1, keepdim=True)
        return [torch.ones_like(inside), inside, torch.exp(-4 * off_centre)]


def split_embedding(embedding: Tensor) -> tuple[Tensor, Tensor]:
    """The context [B, 128, g, g] and the fine features [B, 24, 4 g, 4 g] in an embedding [B, C, g, g]."""
    return embedding[:, :CONTEXT], functional.pixel_shuffle(embedding[:, CONTEXT:], CELL_PX // FINE_PX)


def pixel_index(points: Tensor) -> Tensor:
    """The flat index of the pixel of the fine map that each point (x, y) [..., 2] of the window is in."""
    side = SIDE_PX // FINE_PX
    column, row = (points / FINE_PX).long().clamp(0, side - 1).unbind(dim=-1)
    return row * side + column


def affinity(places: Tensor, scale: Tensor, bias: Tensor, indices: Tensor) -> Tensor:
    """Logits [..., m, m] of each pixel's being of the same gland as the pixels at flat ``indices`` [...]."""
    chosen = places.T[indices]
    squares = (chosen.pow(2).sum(dim=-1, keepdim=True) + places.pow(2).sum(dim=0) - 2 * chosen @ places).clamp(min=0)
    logits = bias[indices][..., None] - scale[indices][..., None] * squares
    side = SIDE_PX // FINE_PX
    return logits.clamp(-MOST_AFFINITY, MOST_AFFINITY).reshape(*logits.shape[:-1], side, side)


def _certainty(logits: Tensor) -> Tensor:
    """Three numbers of each of P x 4 masks, as [P, 12]: its area, how sure it is inside, and how stable."""
    probability = torch.sigmoid(logits)
    inside = (logits > 0).float()
    area = inside.sum((2, 3))
    sure = (probability * inside).sum((2, 3)) / area.clamp(min=1)
    stable = (logits > 1).sum((2, 3)) / (logits > -1).sum((2, 3)).clamp(min=1)
    return torch.cat([(area + 1).log() / 4 - 1, 4 * sure - 3, 4 * stable - 2], dim=1)


def _conv(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 3, padding=1), nn.GroupNorm(8, out), nn.ReLU())


def _double(values: Tensor) -> Tensor:
    return functional.interpolate(values, scale_factor=2.0, mode="nearest")


def build_tiny() -> SamNetwork:
    """A small SAM for windows of 256 pixels with random weights."""
    return SamNetwork(
        TinyImageEncoder(), TinyPromptEncoder(), TinyMaskDecoder(), pixel_mean=[127.5] * 3, pixel_std=[63.75] * 3
    )
