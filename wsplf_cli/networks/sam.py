"""Segment Anything: embed a window once, prompt it many times.

Points and boxes are continuous pixel coordinates of the window: the centre of the pixel in row r and column c is
(c + 0.5, r + 0.5), and a window of S pixels reaches from 0 to S. So one factor scales them with the window.
"""

import copy
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
from segment_anything.modeling.sam import Sam as SamNetwork
from torch import Tensor
from torch.nn import functional

from wsplf_cli.cache import digest_of
from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.state import weights_digest
from wsplf_cli.networks.tiny_sam import build_tiny
from wsplf_cli.schema import Prompt, TileMask

log = logging.getLogger(__name__)

REGISTRY = ("vit_b", "vit_l", "vit_h")
NAMES = ("tiny", *REGISTRY)
TINY_ASSET = "sam_tiny.safetensors"

#: A CAM given as a mask is foreground from here on: a CAM misses more of the borders of glands than it adds.
CAM_AS_MASK_FOREGROUND = 0.4
#: Bounds the memory of the upscaled masks (a 1024-pixel window: 3 float masks of 4 MB for each prompt).
PROMPTS_AT_ONCE = 32


class Sam:
    """A SAM network on a device. ``side_px`` is the side of the windows it was made for; others are resized to it.

    ``network`` is the ``segment_anything`` module (``image_encoder``, ``prompt_encoder``, ``mask_decoder``), to be
    trained. ``mask_px`` is the side of its mask logits.
    """

    def __init__(self, network: SamNetwork, *, name: str, device: torch.device) -> None:
        self.network = network.to(device).eval()
        self.name = name
        self.device = device
        self.side_px = int(self.network.image_encoder.img_size)
        self.mask_px = 4 * int(self.network.prompt_encoder.image_embedding_size[0])

    def with_own_decoder(self) -> "Sam":
        """The same SAM with its own copy of the mask decoder, to be tuned. The encoders are shared, not copied."""
        shared = {id(module): module for module in (self.network.image_encoder, self.network.prompt_encoder)}
        return Sam(copy.deepcopy(self.network, shared), name=self.name, device=self.device)

    def encoder_digest(self) -> str:
        """SHA-256 in hexadecimal of the image encoder's weights, which an embedding depends on beside its window."""
        return weights_digest(self.network.image_encoder)

    def digest(self) -> str:
        """SHA-256 in hexadecimal of all weights and of the device, which its masks depend on."""
        return digest_of(weights_digest(self.network), self.device.type)

    def encode(self, batch: Tensor) -> Tensor:
        """Embeddings float32 [B, C, g, g] of RGB windows float32 [B, 3, S, S] in 0..1, with gradients."""
        if batch.shape[-1] != self.side_px:
            batch = functional.interpolate(batch, (self.side_px, self.side_px), mode="bilinear", antialias=True)
        embedding: Tensor = self.network.image_encoder(self.network.preprocess(batch * 255))
        return embedding.float()

    @torch.no_grad()
    def embed(self, rgb: NDArray[np.uint8]) -> Tensor:
        """Embeddings float32 [B, C, g, g] of square RGB windows uint8 [B, S, S, 3], or of one window [S, S, 3]."""
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
        """Mask logits float32 [P, 4, mask_px, mask_px] and IoU estimates float32 [P, 4] of P prompts, with gradients.

        The first mask is SAM's single answer, for unambiguous prompts. The other three are its alternatives.

        Args:
            embedding: [C, g, g] or [1, C, g, g] of one window.
            prompts: At least one.
            window_px: The side of the window in whose pixels the prompts are; ``side_px`` by default.
            mask_input: Logits [P, mask_px, mask_px] of an earlier pass.
        """
        assert prompts, "no prompts"
        image = (embedding[None] if embedding.ndim == 3 else embedding).to(self.device)
        scale = self.side_px / (window_px or self.side_px)
        order: list[int] = []
        masks, scores = [], []
        for members in _groups_of_one_shape(prompts):
            group = [prompts[index] for index in members]
            with torch.autocast(self.device.type, enabled=False):  # half precision is too coarse for coordinates
                sparse, dense = self.network.prompt_encoder(
                    points=self._points(group, scale=scale),
                    boxes=self._boxes(group, scale=scale),
                    masks=None if mask_input is None else mask_input[members][:, None].to(self.device),
                )
                positions = self.network.prompt_encoder.get_dense_pe()
            mask_logits, score = self.network.mask_decoder.predict_masks(
                image_embeddings=image,
                image_pe=positions,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
            )
            order += members
            masks.append(mask_logits.float())
            scores.append(score.float())
        original_order = torch.from_numpy(np.argsort(order)).to(self.device)
        return torch.cat(masks)[original_order], torch.cat(scores)[original_order]

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
        """The masks of each prompt, bool [window_px, window_px], in order of decreasing estimated IoU.

        The arguments are those of ``logits``. A prompt has four masks, the single answer and its three alternatives;
        without ``multimask`` only the first.
        """
        side = window_px or self.side_px
        masks_of_prompts: list[list[TileMask]] = []
        for first in range(0, len(prompts), PROMPTS_AT_ONCE):
            batch = slice(first, first + PROMPTS_AT_ONCE)
            mask_logits, score = self.logits(
                embedding,
                prompts[batch],
                window_px=side,
                mask_input=None if mask_input is None else mask_input[batch],
            )
            kept = slice(0, 4) if multimask else slice(0, 1)
            masks = (functional.interpolate(mask_logits[:, kept], (side, side), mode="bilinear") > 0).cpu().numpy()
            scores = score[:, kept].clamp(0, 1).cpu().numpy()
            for mask, ious in zip(masks, scores, strict=True):
                order = np.argsort(-ious, kind="stable")
                masks_of_prompts.append([TileMask(mask=mask[index], score=float(ious[index])) for index in order])
        return masks_of_prompts

    def mask_logits(self, cams: NDArray[np.float32]) -> Tensor:
        """CAMs float32 [P, S, S] in 0..1 as mask inputs of prompts, [P, mask_px, mask_px]."""
        small = functional.interpolate(torch.from_numpy(cams)[:, None], (self.mask_px, self.mask_px), mode="area")
        return cam_logits(small[:, 0], foreground=CAM_AS_MASK_FOREGROUND)

    def _points(self, prompts: Sequence[Prompt], *, scale: float) -> tuple[Tensor, Tensor] | None:
        """Coordinates and labels of the points as the package expects them, or None for prompts without points."""
        # the package adds half a pixel, as if coordinates were indices of pixels
        if len(prompts[0].points_px) == 0:
            return None
        points = np.stack([prompt.points_px for prompt in prompts]).astype(np.float32) * scale - 0.5
        labels = np.stack([prompt.point_labels for prompt in prompts]).astype(np.float32)
        return torch.from_numpy(points).float().to(self.device), torch.from_numpy(labels).to(self.device)

    def _boxes(self, prompts: Sequence[Prompt], *, scale: float) -> Tensor | None:
        """The boxes as the package expects them, or None for prompts without boxes."""
        boxes = [prompt.box_px for prompt in prompts if prompt.box_px is not None]
        if not boxes:
            return None
        return torch.from_numpy(np.stack(boxes).astype(np.float32) * scale - 0.5).float().to(self.device)


def cam_logits(cam: Tensor, *, foreground: float = 0.5) -> Tensor:
    """A CAM float32 in 0..1 as the mask logits of an earlier pass, 0 at ``foreground``."""
    return (12 * (cam - foreground)).clamp(-6, 6)


def _groups_of_one_shape(prompts: Sequence[Prompt]) -> list[list[int]]:
    """Indices of the prompts in groups with the same number of points and of boxes.

    Groups are needed because padding a prompt would change its mask.
    """
    groups: dict[tuple[int, bool], list[int]] = {}
    for index, prompt in enumerate(prompts):
        assert len(prompt.points_px) or prompt.box_px is not None, "a prompt needs a point or a box"
        groups.setdefault((len(prompt.points_px), prompt.box_px is not None), []).append(index)
    return list(groups.values())


def load_sam(name: str, *, checkpoint: Path | None, device: torch.device) -> Sam:
    """The SAM called ``name``, with the shipped weights (``tiny``) or those of ``checkpoint``.

    Raises:
        ConfigError: The name is unknown, the model needs a checkpoint, or the file is missing, cannot be read or holds
            another model.
    """
    if name not in NAMES:
        raise ConfigError(f"unknown SAM {name!r}", hint=f"choose one of: {', '.join(NAMES)}")
    if checkpoint is not None:
        state = _read_checkpoint(checkpoint)
    elif name == "tiny":
        with as_file(files("wsplf_cli") / "assets" / TINY_ASSET) as path:
            state = _read_checkpoint(path)
    else:
        raise ConfigError(
            f"SAM {name} needs its checkpoint, which wsplf does not download",
            hint="pass --sam-checkpoint FILE, or use --sam tiny",
        )
    build: Callable[[], SamNetwork] = build_tiny if name == "tiny" else sam_model_registry[name]
    with torch.device("cpu" if name == "tiny" else "meta"):  # large weights take no memory before they are replaced
        network = build()
    _check_names_and_shapes(state, network.state_dict(), name=name, source=str(checkpoint or TINY_ASSET))
    network.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    if device.type == "mps" and not _masks_agree(network, device=device):
        log.warning("with this version of torch SAM gives other masks on %s than on the CPU: using the CPU", device)
        device = torch.device("cpu")
    return Sam(network, name=name, device=device)


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
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
            hint="download it again and compare its size with the published one",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            f"SAM checkpoint {path} does not hold named tensors", hint="pass the file that SAM's authors published"
        )
    return state


def _check_names_and_shapes(state: dict[str, Tensor], expected: dict[str, Tensor], *, name: str, source: str) -> None:
    """Raise a ConfigError if names or shapes of the weights are not those of the network."""
    missing = sorted(expected.keys() - state.keys())
    unknown = sorted(state.keys() - expected.keys())
    shapes = [
        f"{key} is {list(state[key].shape)}, not {list(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    if not missing and not unknown and not shapes:
        return
    differences = []
    if missing:
        differences.append(f"{len(missing)} of {len(expected)} tensors are missing (first: {missing[0]})")
    if unknown:
        differences.append(f"{len(unknown)} are unknown (first: {unknown[0]})")
    if shapes:
        differences.append(f"{len(shapes)} have another shape (first: {shapes[0]})")
    model = _model_of(state)
    hint = f"it looks like {model}: pass --sam {model}" if model else f"pass a checkpoint of {name}"
    raise ConfigError(f"SAM checkpoint {source} is not one of {name}: {'; '.join(differences)}", hint=hint)


def _model_of(state: dict[str, Tensor]) -> str | None:
    """The name of the model that the weights are of, found by the width of the image encoder, or None."""
    bias = state.get("image_encoder.patch_embed.proj.bias")
    widths = {192: "tiny", 768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
    return None if bias is None else widths.get(bias.numel())


def _masks_agree(network: SamNetwork, *, device: torch.device) -> bool:
    """Whether the network gives the CPU's masks on the device. Apple's MPS has given wrong ones without an error."""
    side = network.image_encoder.img_size
    rgb = np.random.default_rng(0).integers(0, 256, size=(side, side, 3), dtype=np.uint8)
    point = Prompt(points_px=np.full((1, 2), side / 2, np.float32), point_labels=np.ones(1, np.int8))
    masks = []
    for tested_device in (torch.device("cpu"), device):
        sam = Sam(network, name="", device=tested_device)
        masks.append(np.stack([mask.mask for mask in sam.prompt(sam.embed(rgb), [point])[0]]))
    return bool((masks[0] == masks[1]).mean() > 0.99)
