"""SAM's embeddings of windows: computed once, kept in the cache, reused by rounds, epochs and runs."""

import threading
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsplf_cli.cache import Store, key_of
from wsplf_cli.networks.sam import Sam
from wsplf_cli.slides.entry import SlideContent, content_of
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.window import Window


@dataclass(frozen=True, slots=True)
class _Source:
    """Everything that the embedding of a window depends on, besides its position."""

    slide: SlideContent
    downsample: float
    side_px: int
    encoder: str


class Embedder:
    """Embeddings of a SAM's windows, through a cache. ``computed`` counts those that were not in it.

    Several threads may ask for embeddings.
    """

    def __init__(self, sam: Sam, store: Store) -> None:
        self.sam = sam
        self.store = store
        self.computed = 0
        self._lock = threading.Lock()
        self._encoder = sam.encoder_digest()
        # Weak keys: slides that nobody else uses are closed.
        self._keys: WeakKeyDictionary[Slide, dict[tuple[float, int], str]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type["Embedder"], tuple[Sam, Store]]:
        """Another process counts for itself what it computes."""
        return Embedder, (self.sam, self.store)

    def __call__(self, window: Window) -> NDArray[np.float16]:
        """The embedding float16 [C, g, g] of a window, the same whether it was in the cache or not.

        Raises:
            SlideError: The slide cannot be read.
        """
        with self._lock:
            name = f"{self._key(window)}/{window.x_px0:.0f}_{window.y_px0:.0f}"
            embedding = self.store.get(name)
        if embedding is None:
            embedding = self.sam.embed(window.read())[0].cpu().numpy().astype(np.float16)
            with self._lock:
                self.computed += 1
                self.store.put(name, embedding)
        return embedding

    def _key(self, window: Window) -> str:
        """The key of the windows of that size of a slide."""
        slide = window.slide
        keys = self._keys.setdefault(slide, {})
        size = (window.downsample, window.side_px)
        if size not in keys:
            keys[size] = key_of(_Source(content_of(slide), window.downsample, window.side_px, self._encoder))
        return keys[size]


def as_tensor(embedding: NDArray[np.float16], device: torch.device) -> Tensor:
    """A cached embedding as float32 [C, g, g] on the device."""
    return torch.from_numpy(embedding).to(device).float()
