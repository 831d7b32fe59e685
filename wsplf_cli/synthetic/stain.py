"""The image that a scanner makes of stained tissue: stain vectors, white point, blur, noise, JPEG."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from wsplf_cli.synthetic.noise import Field

# Unit optical densities (R, G, B): the classical vectors, and the more magenta ones of many scanned colon slides.
HAEMATOXYLIN = ((0.65, 0.70, 0.29), (0.44, 0.85, 0.29), (0.58, 0.75, 0.31))
EOSIN = ((0.07, 0.97, 0.20), (0.04, 0.97, 0.23), (0.16, 0.93, 0.33))
BLOOD = ((0.02, 0.80, 0.60), (0.02, 0.90, 0.42))


@dataclass(frozen=True, slots=True)
class Appearance:
    """The stain and the scanner of one slide. ``vectors`` float32 [3, 3]: rows H, E, blood; columns R, G, B."""

    vectors: Field
    amount: tuple[float, float]
    white: tuple[float, float, float]
    gamma: float
    blur_px: float
    noise: float
    jpeg_quality: int


def random_appearance(rng: np.random.Generator, *, jitter: float = 1.0) -> Appearance:
    """A random stain and scanner; ``jitter`` scales the deviation from the mean (1: domain randomisation)."""
    mix = rng.dirichlet(np.ones(3))
    haematoxylin = mix @ np.array(HAEMATOXYLIN) + rng.normal(0, 0.05 * jitter, 3)
    eosin = rng.dirichlet(np.ones(3)) @ np.array(EOSIN) + rng.normal(0, 0.05 * jitter, 3)
    blood = rng.dirichlet(np.ones(2)) @ np.array(BLOOD)
    vectors = np.clip(np.stack([haematoxylin, eosin, blood]), 0.01, None)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    grey = 240 + 9 * float(np.clip(rng.normal(0, jitter), -2.5, 1.4))
    return Appearance(
        vectors=vectors.astype(np.float32),
        amount=(float(np.exp(rng.normal(0.05, 0.22 * jitter))), float(np.exp(rng.normal(0.05, 0.28 * jitter)))),
        white=(grey, grey + float(rng.normal(-1, 2 * jitter)), grey + float(rng.normal(0, 2 * jitter))),
        gamma=float(np.exp(rng.normal(0, 0.12 * jitter))),
        blur_px=float(0.2 + (0.3 + 0.6 * jitter) * rng.uniform(0, 1) ** 1.7),
        noise=float(rng.uniform(0.3, 0.8 + 2 * jitter)),
        jpeg_quality=int(rng.integers(55, 95)),
    )


def render(
    rng: np.random.Generator, densities: tuple[Field, Field, Field], appearance: Appearance
) -> NDArray[np.uint8]:
    """The image, uint8 [H, W, 3], of the optical densities of H, E and blood, each float32 [H, W]; without JPEG."""
    haematoxylin, eosin, blood = densities
    image = np.empty((*haematoxylin.shape, 3), np.float32)
    grain = rng.standard_normal(haematoxylin.shape, dtype=np.float32) * np.float32(appearance.noise)
    scaled = appearance.vectors * np.array([*appearance.amount, 1.0], np.float32)[:, None]
    for channel in range(3):
        density = haematoxylin * scaled[0, channel] + eosin * scaled[1, channel] + blood * scaled[2, channel]
        if appearance.blur_px > 0.3:
            density = gaussian_filter(density, appearance.blur_px, truncate=3)
        channel_noise = rng.standard_normal(density.shape, dtype=np.float32) * np.float32(0.5 * appearance.noise)
        image[..., channel] = appearance.white[channel] * np.exp(-appearance.gamma * density) + grain + channel_noise
    return np.clip(image + 0.5, 0, 255).astype(np.uint8)


def jpeg(rgb: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """The image after JPEG compression, uint8 [H, W, 3]."""
    stream = io.BytesIO()
    Image.fromarray(rgb).save(stream, "JPEG", quality=quality)
    stream.seek(0)
    return np.asarray(Image.open(stream).convert("RGB"))
