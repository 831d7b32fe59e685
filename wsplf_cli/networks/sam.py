"""Segment Anything: embed a window once, prompt it many times.

Points and boxes are continuous pixel coordinates of the window: the centre of the pixel in row r and column c is
(c + 0.5, r + 0.5), and a window of S pixels reaches from 0 to S. So they scale with the window by one factor.
"""

import copy
import hashlib
import logging
import pickle
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from segment_anything.build_sam import sam_model_registry
from segment_anything.modeling.image_encoder import ImageEncoderViT
from segment_anything.modeling.mask_decoder import MaskDecoder
from segment_anything.modeling.prompt_encoder import PromptEncoder
from segment_anything.modeling.sam import Sam as SamNetwork
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.backbone import Backbone, small_trunk
from wsplf_cli.schema import Prompt, TileMask

log = logging.getLogger(__name__)

REGISTRY = ("vit_b", "vit_l", "vit_h")
NAMES = ("tiny", *REGISTRY)
TINY_ASSET = "sam_tiny.safetensors"

#: Bounds the memory of the upscaled masks (a 1024-pixel window: 3 float masks of 4 MB for each prompt).
PROMPTS_AT_ONCE = 32


class Sam:
    """A SAM network on a device. ``side_px`` is the window side that it wants; other windows are resized to it.

    ``network`` is the ``segment_anything`` module (``image_encoder``, ``prompt_encoder``, ``mask_decoder``), for
    those who train it. ``mask_px`` is the side of its mask logits.
    """

    def __init__(self, network: SamNetwork, *, name: str, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.name = name
        self.device = device
        self.side_px = int(self.network.image_encoder.img_size)
        self.mask_px = 4 * int(self.network.prompt_encoder.image_embedding_size[0])

    def with_own_decoder(self) -> "Sam":
        """The same SAM with a mask decoder of its own, to be tuned; the encoders are shared, not copied."""
        shared = {id(part): part for part in (self.network.image_encoder, self.network.prompt_encoder)}
        return Sam(copy.deepcopy(self.network, shared), name=self.name, device=self.device)

    def encoder_digest(self) -> str:
        """SHA-256 in hexadecimal of the image encoder's weights: what an embedding depends on beside its window."""
        digest = hashlib.sha256()
        for name, value in sorted(self.network.image_encoder.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def encode(self, batch: Tensor) -> Tensor:
        """Embedding float32 [B, C, g, g] of RGB windows float32 [B, 3, S, S] in 0..1; keeps gradients."""
        if batch.shape[-1] != self.side_px:
            batch = functional.interpolate(batch, (self.side_px, self.side_px), mode="bilinear", antialias=True)
        embedding: Tensor = self.network.image_encoder(self.network.preprocess(batch * 255))
        return embedding.float()

    @torch.no_grad()
    def embed(self, rgb: NDArray[np.uint8]) -> Tensor:
        """Embedding float32 [B, C, g, g] of square RGB windows uint8 [B, S, S, 3], or of one window [S, S, 3]."""
        windows = rgb[None] if rgb.ndim == 3 else rgb
        assert windows.shape[1:] == (windows.shape[1], windows.shape[1], 3), f"not square RGB: {windows.shape}"
        batch = torch.from_numpy(windows.copy()).to(self.device)
        return self.encode(batch.permute(0, 3, 1, 2).float() / 255)

    def logits(
        self,
        embedding: Tensor,
        prompts: Sequence[Prompt],
        *,
        window_px: int | None = None,
        mask_input: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits float32 [P, 4, mask_px, mask_px] and IoU estimates float32 [P, 4] of P prompts on one window.

        The first mask is SAM's single answer, for prompts that leave no doubt; the other three are its alternatives.
        ``embedding`` is [C, g, g] or [1, C, g, g]; ``window_px`` the side of the window in whose pixels the prompts
        are (default ``side_px``). ``mask_input``: logits [P, mask_px, mask_px] of an earlier pass. Keeps gradients.
        """
        assert prompts, "no prompts"
        image = (embedding[None] if embedding.ndim == 3 else embedding).to(self.device)
        scale = self.side_px / (window_px or self.side_px)
        order: list[int] = []
        masks, scores = [], []
        for members in _alike(prompts):
            chosen = [prompts[index] for index in members]
            with torch.autocast(self.device.type, enabled=False):  # half precision would blur the coordinates
                sparse, dense = self.network.prompt_encoder(
                    points=self._points(chosen, scale=scale),
                    boxes=self._boxes(chosen, scale=scale),
                    masks=None if mask_input is None else mask_input[members][:, None].to(self.device),
                )
                places = self.network.prompt_encoder.get_dense_pe()
            low, score = self.network.mask_decoder.predict_masks(
                image_embeddings=image,
                image_pe=places,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
            )
            order += members
            masks.append(low.float())
            scores.append(score.float())
        back = torch.from_numpy(np.argsort(order)).to(self.device)
        return torch.cat(masks)[back], torch.cat(scores)[back]

    @torch.no_grad()
    def prompt(
        self,
        embedding: Tensor,
        prompts: Sequence[Prompt],
        *,
        window_px: int | None = None,
        multimask: bool = True,
        mask_input: Tensor | None = None,
    ) -> list[list[TileMask]]:
        """The masks of every prompt, bool [window_px, window_px], best estimated IoU first; arguments as ``logits``.

        Four masks a prompt, the single answer and its three alternatives; with ``multimask`` off only the first.
        """
        side = window_px or self.side_px
        found: list[list[TileMask]] = []
        for first in range(0, len(prompts), PROMPTS_AT_ONCE):
            some = slice(first, first + PROMPTS_AT_ONCE)
            low, score = self.logits(
                embedding,
                prompts[some],
                window_px=side,
                mask_input=None if mask_input is None else mask_input[some],
            )
            wanted = slice(0, 4) if multimask else slice(0, 1)
            masks = (functional.interpolate(low[:, wanted], (side, side), mode="bilinear") > 0).cpu().numpy()
            scores = score[:, wanted].clamp(0, 1).cpu().numpy()
            for mask, value in zip(masks, scores, strict=True):
                best = np.argsort(-value, kind="stable")
                found.append([TileMask(mask=mask[index], score=float(value[index])) for index in best])
        return found

    def _points(self, prompts: Sequence[Prompt], *, scale: float) -> tuple[Tensor, Tensor] | None:
        # the package adds half a pixel to what it is given, as if it were the index of a pixel
        if len(prompts[0].points_px) == 0:
            return None
        points = np.stack([prompt.points_px for prompt in prompts]).astype(np.float32) * scale - 0.5
        labels = np.stack([prompt.point_labels for prompt in prompts]).astype(np.float32)
        return torch.from_numpy(points).float().to(self.device), torch.from_numpy(labels).to(self.device)

    def _boxes(self, prompts: Sequence[Prompt], *, scale: float) -> Tensor | None:
        boxes = [prompt.box_px for prompt in prompts if prompt.box_px is not None]
        if not boxes:
            return None
        return torch.from_numpy(np.stack(boxes).astype(np.float32) * scale - 0.5).float().to(self.device)


def _alike(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Indices of the prompts in groups of one shape: padding a prompt would change its mask."""
    groups: dict[tuple[int, bool], list[int]] = {}
    for index, prompt in enumerate(prompts):
        assert len(prompt.points_px) or prompt.box_px is not None, "a prompt needs a point or a box"
        groups.setdefault((len(prompt.points_px), prompt.box_px is not None), []).append(index)
    return list(groups.values())


class Stem(nn.Module):
    """What stands in the tiny SAM for the patch embedding: the ``small`` backbone, and one layer to the grid's cells.

    Args:
        width: Width of the encoder's blocks.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        # the network normalises, as the trunk was trained
        self.backbone = Backbone(small_trunk(), mean=(0.0,) * 3, std=(1.0,) * 3)
        self.proj = nn.Conv2d(self.backbone.channels, width, kernel_size=2, stride=2)

    def forward(self, window: Tensor) -> Tensor:
        """Normalised RGB float [B, 3, S, S] to cells float [B, S / 16, S / 16, width]."""
        cells: Tensor = self.proj(self.backbone(window))
        return cells.permute(0, 2, 3, 1)


def build_tiny() -> SamNetwork:
    """A SAM of the package's own modules for windows of 256 pixels, with random weights (3.3 million).

    A vision transformer learns to see from millions of pictures; this one has minutes, and so looks through a CNN.
    """
    side_px, cell_px, width, out_width = 256, 16, 192, 128
    cells = side_px // cell_px
    encoder = ImageEncoderViT(
        img_size=side_px,
        patch_size=cell_px,
        embed_dim=width,
        depth=2,
        num_heads=6,
        mlp_ratio=4,
        out_chans=out_width,
        use_rel_pos=True,
        window_size=8,
        global_attn_indexes=(1,),
    )
    encoder.patch_embed = Stem(width)
    prompt_encoder = PromptEncoder(
        embed_dim=out_width,
        image_embedding_size=(cells, cells),
        input_image_size=(side_px, side_px),
        mask_in_chans=16,
    )
    decoder = MaskDecoder(
        transformer_dim=out_width,
        transformer=TwoWayTransformer(depth=2, embedding_dim=out_width, num_heads=4, mlp_dim=256),
        iou_head_hidden_dim=64,
    )
    return SamNetwork(encoder, prompt_encoder, decoder, pixel_mean=[127.5] * 3, pixel_std=[63.75] * 3)


def load_sam(name: str, *, checkpoint: Path | None, device: torch.device) -> Sam:
    """The SAM called ``name``, with the shipped weights (``tiny``) or those of ``checkpoint``.

    Raises:
        ConfigError: unknown name; no checkpoint for a model that needs one; a file that is missing, cannot be read,
            or holds another model.
    """
    if name not in NAMES:
        raise ConfigError(f"unknown SAM {name!r}", hint=f"choose one of: {', '.join(NAMES)}")
    if checkpoint is not None:
        state = _read(checkpoint)
    elif name == "tiny":
        with as_file(files("wsplf_cli") / "assets" / TINY_ASSET) as path:
            state = _read(path)
    else:
        raise ConfigError(
            f"SAM {name} needs its checkpoint, which wsplf never downloads by itself",
            hint="pass --sam-checkpoint FILE, or use --sam tiny",
        )
    build: Callable[[], SamNetwork] = build_tiny if name == "tiny" else sam_model_registry[name]
    with torch.device("cpu" if name == "tiny" else "meta"):  # no memory for large weights that are replaced at once
        network = build()
    _check(state, network.state_dict(), name=name, source=str(checkpoint or TINY_ASSET))
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    if device.type == "mps" and not _agrees(network, device=device):
        log.warning("SAM gives other masks on %s than on the CPU with this version of torch: using the CPU", device)
        device = torch.device("cpu")
    return Sam(network, name=name, device=device)


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` or PyTorch checkpoint, on the CPU."""
    if not path.is_file():
        raise ConfigError(f"SAM checkpoint {path} does not exist", hint="pass --sam-checkpoint FILE")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        raise ConfigError(
            f"SAM checkpoint {path} ({path.stat().st_size} bytes) cannot be read: not a checkpoint, or incomplete",
            hint="download it again and compare its size with that at its source",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            f"SAM checkpoint {path} does not hold named tensors", hint="pass the file that SAM's authors published"
        )
    return state


def _check(state: dict[str, Tensor], expected: dict[str, Tensor], *, name: str, source: str) -> None:
    """Refuse weights whose names or shapes are not those of the network, and say which model they are of."""
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    shapes = [
        f"{key} is {list(state[key].shape)}, not {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if not missing and not unknown and not shapes:
        return
    wrong = []
    if missing:
        wrong.append(f"{len(missing)} of {len(expected)} tensors are missing (first: {missing[0]})")
    if unknown:
        wrong.append(f"{len(unknown)} are unknown (first: {unknown[0]})")
    if shapes:
        wrong.append(f"{len(shapes)} have another shape (first: {shapes[0]})")
    found = _model_of(state)
    hint = f"it looks like {found}: pass --sam {found}" if found else f"pass a checkpoint of {name}"
    raise ConfigError(f"SAM checkpoint {source} is not one of {name}: {'; '.join(wrong)}", hint=hint)


def _model_of(state: dict[str, Tensor]) -> str | None:
    """Name of the model that the weights are of, told by the width of the image encoder."""
    first = state.get("image_encoder.patch_embed.proj.bias")
    widths = {192: "tiny", 768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
    return None if first is None else widths.get(first.numel())


def _agrees(network: SamNetwork, *, device: torch.device) -> bool:
    """Whether the network gives the CPU's masks on the device: Apple's MPS has given wrong ones without an error."""
    side = network.image_encoder.img_size
    rgb = np.random.default_rng(0).integers(0, 256, size=(side, side, 3), dtype=np.uint8)
    point = Prompt(points_px=np.full((1, 2), side / 2, np.float32), point_labels=np.ones(1, np.int8))
    masks = []
    for place in (torch.device("cpu"), device):
        sam = Sam(network, name="", device=place)
        masks.append(np.stack([mask.mask for mask in sam.prompt(sam.embed(rgb), [point])[0]]))
    return bool((masks[0] == masks[1]).mean() > 0.99)
