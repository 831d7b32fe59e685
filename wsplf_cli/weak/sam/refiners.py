"""How the CAM of a window gets its outline: from Segment Anything, from superpixels, or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import slic

from wsplf_cli.cache import Store
from wsplf_cli.networks.sam import Sam
from wsplf_cli.schema import Prompt
from wsplf_cli.slides.window import Window
from wsplf_cli.weak.prompts import FOREGROUND, Strategy, spread
from wsplf_cli.weak.sam.embeddings import Embedder, as_tensor
from wsplf_cli.weak.sam.refine import RefinedWindow, Refiner, WindowMask, fuse_cam_and_sam, prompted_cams

#: Side of a superpixel in pixels: at 1 um per pixel about two nuclei, coarse enough not to follow single ones.
SUPERPIXEL_PX = 14
COMPACTNESS = 8.0


@dataclass(frozen=True, slots=True)
class CamOnly:
    """The CAM as it is."""

    side_px: int

    def prompts(self, cam: NDArray[np.float32], rng: np.random.Generator) -> list[Prompt]:
        """None."""
        return []

    def __call__(self, window: Window, cam: NDArray[np.float32], prompts: Sequence[Prompt]) -> RefinedWindow:
        """The CAM itself; the window is not read."""
        return RefinedWindow(cam, np.zeros_like(cam), np.zeros_like(cam))


@dataclass(frozen=True, slots=True)
class Superpixels:
    """The mean of the CAM in each SLIC superpixel."""

    side_px: int

    def prompts(self, cam: NDArray[np.float32], rng: np.random.Generator) -> list[Prompt]:
        """None."""
        return []

    def __call__(self, window: Window, cam: NDArray[np.float32], prompts: Sequence[Prompt]) -> RefinedWindow:
        """A CAM that follows the edges of colour in the window."""
        count = max(1, round(cam.size / SUPERPIXEL_PX**2))
        labels = slic(window.read(), n_segments=count, compactness=COMPACTNESS, start_label=0)
        areas = np.bincount(labels.ravel())
        means = np.bincount(labels.ravel(), weights=cam.ravel()) / np.maximum(areas, 1)
        return RefinedWindow(means[labels].astype(np.float32), np.zeros_like(cam), np.zeros_like(cam))


@dataclass(frozen=True, slots=True)
class SamWithCam:
    """SAM, prompted by points and by the CAM as a mask. The mask that agrees best with the CAM is joined with it."""

    sam: Sam
    embed: Embedder
    strategy: Strategy

    @property
    def side_px(self) -> int:
        """SAM's own."""
        return self.sam.side_px

    def prompts(self, cam: NDArray[np.float32], rng: np.random.Generator) -> list[Prompt]:
        """Those of the strategy."""
        return self.strategy(cam, rng)

    def __call__(self, window: Window, cam: NDArray[np.float32], prompts: Sequence[Prompt]) -> RefinedWindow:
        """The CAM where there is no mask to trust, CAM and mask joined elsewhere."""
        if not prompts:
            return RefinedWindow(cam, np.zeros_like(cam), np.zeros_like(cam))
        embedding = as_tensor(self.embed(window), self.sam.device)
        cams = prompted_cams(cam, prompts)
        answers = self.sam.prompt(embedding, prompts, mask_input=self.sam.mask_logits(cams))
        return fuse_cam_and_sam(cam, prompts, cams, answers)


@dataclass(frozen=True, slots=True)
class SamOnly:
    """SAM's single answer to each prompt, whatever the CAM says: EP-SAM's way."""

    sam: Sam
    embed: Embedder
    strategy: Strategy

    @property
    def side_px(self) -> int:
        """SAM's own."""
        return self.sam.side_px

    def prompts(self, cam: NDArray[np.float32], rng: np.random.Generator) -> list[Prompt]:
        """Those of the strategy."""
        return self.strategy(cam, rng)

    def __call__(self, window: Window, cam: NDArray[np.float32], prompts: Sequence[Prompt]) -> RefinedWindow:
        """The union of SAM's masks; nothing where nothing is prompted."""
        probability, score, count = np.zeros_like(cam), np.zeros_like(cam), np.zeros_like(cam)
        masks: list[WindowMask] = []
        if prompts:
            embedding = as_tensor(self.embed(window), self.sam.device)
            answers = self.sam.prompt(embedding, prompts, multimask=False)
            for prompt, (mask,) in zip(prompts, answers, strict=True):
                masks.append(WindowMask(prompt, mask, None, used=True))
                probability[mask.mask] = 1.0
                score += mask.score * mask.mask
                count += mask.mask
        return RefinedWindow(probability, score, count, tuple(masks))


def prompted_sam(sam: Sam) -> SamWithCam:
    """A SAM with the default prompts (``prompts.spread``), which keeps no embedding."""
    return SamWithCam(sam, Embedder(sam, Store(None, most_bytes=0, memory_bytes=0)), spread.build())


def build(name: str, *, sam: Sam, embed: Embedder, strategy: Strategy) -> Refiner:
    """The refiner of a recipe. All work on windows of SAM's side, so that they can be compared."""
    if name == "none":
        return CamOnly(sam.side_px)
    if name == "slic":
        return Superpixels(sam.side_px)
    return (SamOnly if name == "sam-only" else SamWithCam)(sam, embed, strategy)


def digest(refiner: Refiner) -> str:
    """A digest of what a refiner's answers depend on, besides its kind and the strategy, which the recipe names."""
    return refiner.sam.digest() if isinstance(refiner, SamWithCam | SamOnly) else str(refiner.side_px)


def share_in_cam(mask: NDArray[np.bool_], cam: NDArray[np.float32]) -> float:
    """Share of a mask bool [S, S] that lies in the CAM's foreground, 0 for an empty mask: EP-SAM's selection."""
    area = int(mask.sum())
    return float((mask & (cam >= FOREGROUND)).sum()) / area if area else 0.0
