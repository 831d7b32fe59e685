"""Whether a slide is unlike all slides that a model learned from (out of distribution), and in what.

For each aspect of their appearance (colour, sharpness, texture) every tile of a slide is matched with the most alike
tiles of the training slides. What differs at random cancels out in the mean over the tiles of a part of the slide;
what differs in all of them remains. A part is eight tiles in a row, which lie beside each other. The distance of the
slide is the lower quartile of the lengths of these means: another stain, organ, magnification or focus shows in nearly
all parts, an unusual piece of tissue in some. A slide with much or little tumour is not unlike for that: its tiles find
their like.

The limit of the distance comes from the parts of the training slides, each compared with slides of other patients.
Slides of one study share laboratory, scanner and days of staining, and some hold tissue of several patients, so that
they are more alike as a whole than slides of the same kind from another study are; their parts still differ. The
logarithms of the lengths give the limit below which ``COVERAGE`` of further parts lie: the prediction bound of a normal
distribution, which is wide where there are few patients. Its deviation is that above the median, as lengths near 0 say
nothing of the longest ones. In colour the limit is at least the median distance of training slides that are stained
anew at random, as the network is trained to ignore such differences (``networks.augment``).

Nearest neighbours in a feature space as a measure of novelty: Sun et al., Out-of-Distribution Detection with Deep
Nearest Neighbors, ICML 2022.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy import stats

from wsplf_cli.errors import ConfigError
from wsplf_cli.segmentation.appearance import TILES, VERSION, Appearance, restained

#: The file beside the weights of a model.
FILE = "appearance.safetensors"
#: Patients from which on the differences between slides of one kind can be estimated.
MIN_PATIENTS = 4
#: A slide with fewer tiles is not compared.
MIN_TILES = 8
#: Tiles of a part of a training slide, at least; the limit is calibrated on parts.
PART_TILES = 8
#: The share of parts of the same kind that stay below the limit of an aspect. Texture depends on the patient most,
#: sharpness least.
COVERAGE = {"colour": 0.99, "sharpness": 0.975, "texture": 0.995}
#: How often each slide is stained anew.
RESTAINED = 8
#: Tiles of all training slides together that are kept, and training slides that the limit is calibrated on.
MAX_TILES, MAX_CALIBRATED = 4096, 256
#: Most alike training tiles that a tile is matched with.
NEIGHBOURS = 5
#: Least standard deviation of the logarithms of distances: few slides can agree by chance.
MIN_LOG_SD = 0.25
#: Principal components that distances are measured in, so many tiles at least for each of them, and those of them that
#: tiles are matched in.
COMPONENTS, TILES_PER_COMPONENT, MATCHED = 256, 2, 16
#: Added to the variance of each component, as a share of their mean, so that rare directions do not count too much.
RIDGE = 0.02


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far a slide is from the training slides, by aspect.

    ``over_limit``: its distance over the limit; the slide is unlike them in the aspects above 1. ``over_largest``: its
    distance over the largest among the training slides. Both are empty where the slide has too little tissue.
    """

    over_limit: Mapping[str, float]
    over_largest: Mapping[str, float]

    @property
    def unlike(self) -> dict[str, float]:
        """The aspects in which the slide is unlike, the furthest first, with ``over_largest``."""
        aspects = sorted(
            (name for name, ratio in self.over_limit.items() if ratio > 1), key=self.over_limit.__getitem__
        )
        return {name: self.over_largest[name] for name in reversed(aspects)}


@dataclass(frozen=True, slots=True)
class AspectReference:
    """The tiles of the training slides in one aspect, and the distances among the slides.

    Attributes:
        mean: float32 [D].
        projection: float32 [D, P], from standardised features to components of about unit variance.
        scale: float32 [P], from these components to those that tiles are matched in.
        tiles: float16 [M, P], the tiles of the training slides.
        limit: The distance from which on a slide is unlike.
        largest: The largest distance of a training slide from those of other patients.
    """

    mean: NDArray[np.float32]
    projection: NDArray[np.float32]
    scale: NDArray[np.float32]
    tiles: NDArray[np.float16]
    limit: float = 0.0
    largest: float = 0.0

    def distance(self, features: NDArray[np.float32]) -> float:
        """The distance of a slide, from features [N, D] of its tiles in the order of the grid."""
        return _of_slide(self.part_distances(features))

    def part_distances(self, features: NDArray[np.float32]) -> list[float]:
        """The distance of each part of ``PART_TILES`` tiles, or a few more, of a slide."""
        tiles = ((features - self.mean) @ self.projection).astype(np.float32)
        differences = _differences(tiles, self.tiles.astype(np.float32), self.scale)
        return [_length(part) for part in np.array_split(differences, max(1, len(tiles) // PART_TILES))]


@dataclass(frozen=True, slots=True)
class TrainingAppearance:
    """What the slides that a model learned from look like; ``aspects`` is empty where they are of too few patients."""

    aspects: Mapping[str, AspectReference]
    slides: int
    patients: int

    def compare(self, appearance: Appearance) -> Likeness:
        """How far a slide is from the training slides."""
        if len(appearance) < MIN_TILES:
            return Likeness({}, {})
        distances = {name: aspect.distance(getattr(appearance, name)) for name, aspect in self.aspects.items()}
        return Likeness(
            {name: distance / self.aspects[name].limit for name, distance in distances.items()},
            {name: distance / self.aspects[name].largest for name, distance in distances.items()},
        )


def learn_appearance(appearances: Sequence[Appearance], patients: Sequence[str]) -> TrainingAppearance:
    """What training slides look like, and how much slides of different patients differ.

    Args:
        appearances: Of each training slide.
        patients: The patient of each; of unknown ones a name for each slide.
    """
    usable = [
        (appearance, patient)
        for appearance, patient in zip(appearances, patients, strict=True)
        if len(appearance) >= MIN_TILES
    ]
    counted = len({patient for _, patient in usable})
    if counted < MIN_PATIENTS:
        return TrainingAppearance({}, len(usable), counted)
    of_slides = [patient for _, patient in usable]
    aspects = {
        field.name: _learn_aspect([getattr(appearance, field.name) for appearance, _ in usable], of_slides, field.name)
        for field in dataclasses.fields(Appearance)
    }
    return TrainingAppearance(aspects, len(usable), counted)


def describe_unlike(unlike: Mapping[str, float]) -> str:
    """In what a slide is unlike the training slides, for people: ``Likeness.unlike`` as text."""
    parts = [f"{aspect} ({times:.1f} times" for aspect, times in unlike.items()]
    parts[0] += " the largest difference among them"
    return f"unlike the slides that the model learned from: {'), '.join(parts)})"


def why_not_compared(training: TrainingAppearance | None) -> str:
    """Why slides cannot be compared with those that a model learned from, for people; empty where they can."""
    if training is None:
        reason = "the model does not say what they look like (train it again, or keep the files of its folder together)"
    elif not training.aspects:
        reason = (
            f"they are of {training.patients} patients, and {MIN_PATIENTS} are needed to know how such slides differ"
        )
    else:
        return ""
    return f"no slide is compared with those that the model learned from: {reason}"


def to_bytes(training: TrainingAppearance) -> bytes:
    """The content of ``FILE``."""
    tensors = {
        f"{name}.{field.name}": value
        for name, aspect in training.aspects.items()
        for field in dataclasses.fields(aspect)
        if isinstance(value := getattr(aspect, field.name), np.ndarray)
    }
    numbers = {name: {"limit": aspect.limit, "largest": aspect.largest} for name, aspect in training.aspects.items()}
    about = {"version": VERSION, "slides": training.slides, "patients": training.patients, "aspects": numbers}
    content: bytes = save(tensors, metadata={"appearance": json.dumps(about)})
    return content


def read(path: Path) -> TrainingAppearance | None:
    """What is in a file, None where there is no such file or it is of another version of the numbers.

    Raises:
        ConfigError: It is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as stored:
            about: dict[str, Any] = json.loads(stored.metadata()["appearance"])
            if about["version"] != VERSION:
                return None
            aspects = {
                name: AspectReference(
                    **{part: stored.get_tensor(f"{name}.{part}") for part in ("mean", "projection", "scale", "tiles")},
                    **numbers,
                )
                for name, numbers in about["aspects"].items()
            }
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path} cannot be read: {error}", hint="delete it: slides are then not compared") from error
    return TrainingAppearance(aspects, about["slides"], about["patients"])


def _learn_aspect(features: Sequence[NDArray[np.float32]], patients: Sequence[str], aspect: str) -> AspectReference:
    """The reference of one aspect from features [N, D] of each slide."""
    every = np.concatenate(features)
    mean, spread = every.mean(axis=0), every.std(axis=0) + 1e-3
    _, singular, rows = np.linalg.svd((every - mean) / spread, full_matrices=False)
    count = min(COMPONENTS, len(singular), len(every) // TILES_PER_COMPONENT)
    variance = singular[:count] ** 2 / len(every)
    scale = np.sqrt(variance + RIDGE * variance.mean())
    projection = np.ascontiguousarray(rows[:count].T / scale / spread[:, None])
    per_slide = max(1, MAX_TILES // len(features))
    kept = [tiles[:: -(-len(tiles) // per_slide)] for tiles in features]
    scale[MATCHED:] = 0
    reference = AspectReference(
        mean.astype(np.float32),
        projection.astype(np.float32),
        scale.astype(np.float32),
        ((np.concatenate(kept) - mean) @ projection).astype(np.float16),
    )
    owner = np.repeat(np.array(patients), [len(tiles) for tiles in kept])
    parts: list[float] = []
    distances: list[float] = []
    restained_distances: list[float] = []
    for index in np.linspace(0, len(features) - 1, min(len(features), MAX_CALIBRATED)).round().astype(int):
        others = dataclasses.replace(reference, tiles=reference.tiles[owner != patients[index]])
        lengths = others.part_distances(features[index])
        parts.extend(lengths)
        distances.append(_of_slide(lengths))
        if aspect == "colour":
            anew = restained(features[index], draws=RESTAINED, seed=int(index))
            restained_distances.extend(others.distance(colour) for colour in anew)
    limit = _limit(parts, patients=len(set(patients)), coverage=COVERAGE[aspect])
    least = float(np.median(restained_distances)) if restained_distances else 0.0
    return dataclasses.replace(reference, limit=max(*distances, limit, least), largest=max(distances))


def _of_slide(lengths: Sequence[float]) -> float:
    """The distance of a slide from those of its parts."""
    return float(np.quantile(lengths, 0.25))


def _limit(distances: Sequence[float], *, patients: int, coverage: float) -> float:
    """The distance below which a share of further ones are expected, from those among some patients."""
    logarithms = np.log(distances)
    above = logarithms - np.median(logarithms)
    deviation = max(float(np.sqrt((above[above >= 0] ** 2).mean())), MIN_LOG_SD)
    reach = float(stats.t.ppf(coverage, patients - 1)) * np.sqrt(1 + 1 / patients)
    return float(np.exp(np.median(logarithms) + reach * deviation))


def _differences(
    tiles: NDArray[np.float32], others: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The difference [N, P] of each of tiles [N, P] from the mean of its most alike ones among others [M, P]."""
    mine, theirs = tiles * scale, others * scale
    squares = (mine**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1)[None] - 2 * mine @ theirs.T
    count = min(NEIGHBOURS, len(others))
    nearest = np.argpartition(squares, count - 1, axis=1)[:, :count]
    differences: NDArray[np.float32] = tiles - others[nearest].mean(axis=1)
    return differences


def _length(differences: NDArray[np.float32]) -> float:
    """The length of the mean of the differences [N, P] of the tiles of a part.

    Few tiles have a longer one by chance: what N tiles have more of it than ``TILES`` is taken off.
    """
    by_chance = differences.var(axis=0, ddof=1).sum() * max(0.0, 1 / len(differences) - 1 / TILES)
    square = float((differences.mean(axis=0) ** 2).sum())
    return float(np.sqrt(max(square - by_chance, square / 4, 1e-12)))
