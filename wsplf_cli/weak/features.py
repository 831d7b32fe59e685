"""Dense features of a frozen backbone: instances sampled for training, and the maps of linear probes over a slide.

An instance is a cell of the backbone's feature map with its context: its features averaged over three Gaussian
neighbourhoods (``pooling``). Both pooling and probes are linear. So the map of a probe is computed by applying the
probe's weights of each neighbourhood to the features first and averaging after that, which needs one map per
neighbourhood in place of all features.

Of a slide with little tissue all features fit into memory. They are computed for its instances and used again for its
map. On other slides the backbone runs twice, since instances come from a few regions only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from wsplf_cli.cache import key_of
from wsplf_cli.cohort.run import Resumed, SlideStep, for_each_slide
from wsplf_cli.cohort.seeds import slide_rng
from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.executors.workers import IN_PROCESS, Workers
from wsplf_cli.networks.backbone import DenseBackbone
from wsplf_cli.networks.inference import on_arrays
from wsplf_cli.review.regions import known_area
from wsplf_cli.runs.resume import ResumeStore
from wsplf_cli.schema import Entry, EntryResult, TissueMask, Tracker
from wsplf_cli.slides.open import Slide
from wsplf_cli.slides.window import DenseInference, MapRegion, infer_map, tissue_blocks, tissue_cells
from wsplf_cli.weak.kept.resume import SlideInput, backbone_digest, finished_instances, instances_of
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.pooling import CONTEXT_SIGMAS_PX, TRUNCATE, masked_gaussian, pool_context
from wsplf_cli.weak.self_training import Instances

#: Instances per slide, and of all slides together, but never fewer than a few hundred per slide.
INSTANCES_PER_SLIDE = 2500
MOST_INSTANCES = 400_000
LEAST_INSTANCES = 300
#: Cells on a side of a region from which instances are taken, and how many regions of a slide are used.
REGION = 256
MOST_REGIONS = 6
#: Features of a region at most, so that they fit into memory: wide backbones get smaller regions.
_MOST_VALUES = 64_000_000
#: The features of a slide with little tissue take at most so many bytes, and those that wait for their map together.
SMALL_BYTES = 200_000_000
WAITING_BYTES = 1_000_000_000
#: Cells whose logits are computed at once.
_ROWS = 8192


@dataclass(frozen=True, slots=True)
class SampledInstances:
    """For each class the instances of each entry id. The features of all classes are the same arrays.

    A slide that cannot be read has none; ``results`` says so.
    """

    of_class: Mapping[str, Mapping[str, Instances]]
    results: Sequence[EntryResult]


def sample_instances(
    cohort: Sequence[CohortSlide],
    work: "SampleSlide",
    inferences: Mapping[str, DenseInference],
    *,
    tracker: Tracker,
    workers: Workers = IN_PROCESS,
    store: ResumeStore | None = None,
) -> SampledInstances:
    """Random instances of all slides.

    Args:
        cohort: The slides.
        work: How a slide is sampled.
        inferences: How the map of each entry id is computed.
        tracker: Where progress is shown.
        workers: Who does the work.
        store: What a stopped run had finished.
    """
    slides = {slide.entry.id: slide for slide in cohort}
    most = min(INSTANCES_PER_SLIDE, max(LEAST_INSTANCES, MOST_INSTANCES // len(slides)))
    of_class: dict[str, dict[str, Instances]] = {path_class: {} for path_class in work.classes}

    def read(entry: Entry) -> tuple[CohortSlide, DenseInference, int]:
        return slides[entry.id], inferences[entry.id], most

    def receive(entry: Entry, sampled: Mapping[str, Instances]) -> Mapping[str, float]:
        for path_class, instances in sampled.items():
            of_class[path_class][entry.id] = instances
        return {}

    step = SlideStep("features", read, work, receive, work.resumed(store or ResumeStore()))
    results = for_each_slide([slide.entry for slide in cohort], step, tracker=tracker, workers=workers)
    return SampledInstances(of_class, results)


@dataclass(frozen=True, slots=True)
class TissueFeatures:
    """The features of the cells of tissue of a slide, ``values`` float16 [N, D].

    ``inside`` bool [rows, columns] is where the tissue is. ``cells_before`` int [rows + 1] counts its cells in the rows
    above each row, since ``values`` holds them row after row.
    """

    values: NDArray[np.float16]
    inside: NDArray[np.bool_]
    cells_before: NDArray[np.intp]

    @classmethod
    def compute(
        cls, slide: CohortSlide, inside: NDArray[np.bool_], backbone: DenseBackbone, inference: DenseInference
    ) -> "TissueFeatures":
        """Run a backbone on the tissue of a slide, which is ``inside``, bool [rows, columns]."""
        opened = slide.open()
        cells_before = np.concatenate([[0], inside.sum(axis=1).cumsum()])
        features = cls(np.empty((int(cells_before[-1]), backbone.channels), np.float16), inside, cells_before)
        infer = on_arrays(backbone, device=backbone.device, rotations=inference.rotations)
        whole = MapRegion(0, inside.shape[0], 0, inside.shape[1])
        for region in tissue_blocks(inside, region_side(backbone.channels), whole):
            region_map = infer_map(opened, slide.tissue, infer, inference, channels=backbone.channels, region=region)
            features.values[features._numbers(region)] = region_map[:, inside[region.slices]].T
        return features

    def region_map(self, region: MapRegion) -> NDArray[np.float32]:
        """The map of a region as ``infer_map`` gives it, float32 [D, rows, columns], NaN outside the tissue."""
        inside = self.inside[region.slices]
        cells = np.full((*inside.shape, self.values.shape[1]), np.nan, np.float32)
        cells[inside] = self.values[self._numbers(region)]
        return np.moveaxis(cells, -1, 0)

    def logit_maps(self, weights: NDArray[np.float32]) -> NDArray[np.float32]:
        """The product with weights [P, D] for each cell, float32 [P, rows, columns], NaN outside the tissue."""
        maps = np.full((len(weights), *self.inside.shape), np.nan, np.float32)
        rows = range(0, len(self.values), _ROWS)
        logits = [self.values[row : row + _ROWS].astype(np.float32) @ weights.T for row in rows]
        maps[:, self.inside] = np.concatenate([np.zeros((0, len(weights)), np.float32), *logits]).T
        return maps

    def _numbers(self, region: MapRegion) -> NDArray[np.intp]:
        """The rows of ``values`` that are cells of a region."""
        left = self.inside[region.top : region.bottom, : region.left].sum(axis=1)
        inside = self.inside[region.slices]
        numbers = (self.cells_before[region.top : region.bottom] + left)[:, None] + inside.cumsum(axis=1) - 1
        of_region: NDArray[np.intp] = numbers[inside]
        return of_region


class FeatureMaps:
    """The features of slides with little tissue, by a frozen backbone.

    What is computed for instances waits in the memory of this process for the map, as long as there is room. In another
    process it is computed again, to the same values.
    """

    def __init__(self, backbone: DenseBackbone) -> None:
        self.backbone = backbone
        self._waiting: dict[str, TissueFeatures] = {}

    def __reduce__(self) -> "tuple[type[FeatureMaps], tuple[DenseBackbone]]":
        """Another process begins without features."""
        return FeatureMaps, (self.backbone,)

    def for_instances(self, slide: CohortSlide, inference: DenseInference) -> TissueFeatures | None:
        """The features of a slide, which then wait for its map; None where there is much tissue."""
        inside = _inside(slide, inference)
        if not feature_bytes(inside, self.backbone.channels):
            return None
        features = TissueFeatures.compute(slide, inside, self.backbone, inference)
        waiting = sum(other.values.nbytes for other in self._waiting.values())
        if waiting + features.values.nbytes <= WAITING_BYTES:
            self._waiting[slide.entry.id] = features
        return features

    def for_map(self, slide: CohortSlide, inference: DenseInference) -> TissueFeatures | None:
        """The features of a slide, which wait no longer; None where there is much tissue."""
        waiting = self._waiting.pop(slide.entry.id, None)
        if waiting is not None:
            return waiting
        inside = _inside(slide, inference)
        if not feature_bytes(inside, self.backbone.channels):
            return None
        return TissueFeatures.compute(slide, inside, self.backbone, inference)


def _inside(slide: CohortSlide, inference: DenseInference) -> NDArray[np.bool_]:
    """The tissue at the cells of the map of a slide, bool [rows, columns]."""
    return tissue_cells(slide.tissue, shape=inference.shape(slide.open()), downsample=inference.downsample)


def feature_bytes(inside: NDArray[np.bool_], channels: int) -> int:
    """Bytes of the features of a slide with that tissue, bool [rows, columns]; 0 where there is too much of it."""
    taken = 2 * int(inside.sum()) * channels
    return taken if taken <= SMALL_BYTES else 0


@dataclass(frozen=True, slots=True)
class SampleSlide:
    """Samples instances of a slide: those that depend on the seed and the entry, and on no other slide."""

    classes: tuple[str, ...]
    maps: FeatureMaps
    seed: int

    def __call__(self, item: tuple[CohortSlide, DenseInference, int], tracker: Tracker) -> dict[str, Instances]:
        """Instances of a slide for each class: how its map is computed, and about how many there are."""
        slide, inference, most = item
        rng = slide_rng(self.seed, "features", slide.entry.id)
        return sample_slide(slide, self.classes, self.maps, inference, most=most, rng=rng)

    def resumed(self, store: ResumeStore) -> Resumed[tuple[CohortSlide, DenseInference, int], Mapping[str, Instances]]:
        """How the instances of a slide are kept, and what they depend on."""
        backbone = backbone_digest(self.maps.backbone)

        def key(item: tuple[CohortSlide, DenseInference, int]) -> str:
            slide, inference, most = item
            return key_of([SlideInput.of(slide, self.classes), inference, most, self.seed, backbone])

        return Resumed(
            store,
            key,
            finished_instances,
            lambda item, finished: instances_of(finished, item[0], self.classes),
        )


def sample_slide(
    slide: CohortSlide,
    classes: Sequence[str],
    maps: FeatureMaps,
    inference: DenseInference,
    *,
    most: int = INSTANCES_PER_SLIDE,
    rng: np.random.Generator,
) -> dict[str, Instances]:
    """About ``most`` random instances of a slide for each class, with what a person has decided about them."""
    opened, backbone = slide.open(), maps.backbone
    inside = _inside(slide, inference)
    of_tissue = maps.for_instances(slide, inference)
    regions = sampled_regions(inside, region_side(backbone.channels), rng)
    tissue = np.array([inside[region.slices].sum() for region in regions])
    features = [np.zeros((0, len(CONTEXT_SIGMAS_PX) * backbone.channels), np.float16)]
    centres_px0 = [np.zeros((0, 2), np.float32)]
    known = {path_class: [np.zeros(0, np.int8)] for path_class in classes}
    infer = on_arrays(backbone, device=backbone.device, rotations=inference.rotations)
    for region, share in zip(regions, tissue / max(1, tissue.sum()), strict=True):
        rows, columns = np.nonzero(inside[region.slices])
        chosen = rng.permutation(len(rows))[: round(most * share)]
        if of_tissue is None:
            region_map = infer_map(opened, slide.tissue, infer, inference, channels=backbone.channels, region=region)
        else:
            region_map = of_tissue.region_map(region)
        features.append(pool_context(region_map, rows[chosen], columns[chosen], sigmas=_sigmas(inference)))
        cells = np.stack([columns[chosen] + region.left, rows[chosen] + region.top], axis=1)
        centres_px0.append(((cells + 0.5) * inference.downsample).astype(np.float32))
        for path_class in classes:
            decided = _known_cells(slide, path_class, region, inference.downsample)
            known[path_class].append(decided[rows[chosen], columns[chosen]])
    joined, positions = np.concatenate(features), np.concatenate(centres_px0)
    blocks = tuple(part.channels for part in backbone.parts)
    return {
        path_class: Instances(
            joined,
            slide.is_positive(path_class),
            np.concatenate(known[path_class]),
            centres_px0=positions,
            blocks=blocks,
        )
        for path_class in classes
    }


def instance_at(
    slide: Slide,
    tissue: TissueMask,
    backbone: DenseBackbone,
    inference: DenseInference,
    centre_px0: tuple[float, float],
) -> tuple[NDArray[np.float16], tuple[float, float]] | None:
    """The features [D] of the cell at a point, as in ``sample_slide``, and the centre of the cell in level-0 pixels.

    Outside the tissue the nearest cell of tissue is taken; None where there is none around.

    Args:
        slide: The open slide.
        tissue: Its tissue.
        backbone: In eval mode, on its device.
        inference: How the map of the slide is computed.
        centre_px0: The point (x, y).

    Raises:
        SlideError: The slide's data is damaged.
    """
    rows, columns = inference.shape(slide)
    row = min(max(int(centre_px0[1] / inference.downsample), 0), rows - 1)
    column = min(max(int(centre_px0[0] / inference.downsample), 0), columns - 1)
    reach = int(np.ceil(TRUNCATE * max(_sigmas(inference)))) + 1
    region = MapRegion(
        max(0, row - reach), min(rows, row + reach + 1), max(0, column - reach), min(columns, column + reach + 1)
    )
    infer = on_arrays(backbone, device=backbone.device, rotations=inference.rotations)
    region_map = infer_map(slide, tissue, infer, inference, channels=backbone.channels, region=region)
    inside_rows, inside_columns = np.nonzero(~np.isnan(region_map[0]))
    if not len(inside_rows):
        return None
    distance = (inside_rows + region.top - row) ** 2 + (inside_columns + region.left - column) ** 2
    nearest = int(np.argmin(distance))
    at = inside_rows[nearest : nearest + 1], inside_columns[nearest : nearest + 1]
    features = pool_context(region_map, *at, sigmas=_sigmas(inference))[0]
    cell = (int(at[1][0]) + region.left, int(at[0][0]) + region.top)
    return features, ((cell[0] + 0.5) * inference.downsample, (cell[1] + 0.5) * inference.downsample)


def probe_maps(
    slide: CohortSlide, maps: FeatureMaps, probes: Sequence[LinearProbe], inference: DenseInference
) -> NDArray[np.float32]:
    """The logits of several probes for each cell of a slide, float32 [P, rows, columns], NaN outside the tissue.

    One pass of the backbone serves all probes.
    """
    stacked = np.concatenate([probe.weight.reshape(len(CONTEXT_SIGMAS_PX), -1) for probe in probes])
    of_tissue = maps.for_map(slide, inference)
    if of_tissue is None:
        layers = _logit_maps(slide, maps.backbone, stacked, inference)
    else:
        layers = of_tissue.logit_maps(stacked)
    inside = ~np.isnan(layers[0])
    logits = np.zeros((len(probes), *inside.shape), np.float32)
    for index, (probe, of_probe) in enumerate(zip(probes, np.split(layers, len(probes)), strict=True)):
        for layer, sigma in zip(of_probe, _sigmas(inference), strict=True):  # one at a time: maps of a slide are large
            logits[index] += masked_gaussian(layer[None], inside, sigma=sigma)[0]
        logits[index] += np.float32(probe.bias)
    return logits


def _logit_maps(
    slide: CohortSlide, backbone: DenseBackbone, stacked: NDArray[np.float32], inference: DenseInference
) -> NDArray[np.float32]:
    """The product of weights [P, D] with the features of each cell of a slide, float32 [P, rows, columns]."""
    weights = torch.from_numpy(stacked).to(backbone.device)

    def neighbourhood_logits(tiles: Tensor) -> Tensor:
        features = backbone(tiles)
        with torch.autocast(backbone.device.type, enabled=False):  # half-precision weights would shift the logits
            return functional.conv2d(features.float(), weights[:, :, None, None])

    infer = on_arrays(neighbourhood_logits, device=backbone.device, rotations=inference.rotations)
    return infer_map(slide.open(), slide.tissue, infer, inference, channels=len(stacked))


def _sigmas(inference: DenseInference) -> list[float]:
    """The standard deviations of the neighbourhoods in cells."""
    return [sigma / inference.stride for sigma in CONTEXT_SIGMAS_PX]


def region_side(channels: int) -> int:
    """Cells on a side of a region, so that its features fit into memory."""
    return int(min(REGION, np.sqrt(_MOST_VALUES / channels)))


def sampled_regions(inside: NDArray[np.bool_], side: int, rng: np.random.Generator) -> list[MapRegion]:
    """Squares that cover the tissue, or ``MOST_REGIONS`` of them: squares with more tissue are chosen more often."""
    regions = list(tissue_blocks(inside, side, MapRegion(0, inside.shape[0], 0, inside.shape[1])))
    if len(regions) <= MOST_REGIONS:
        return regions
    tissue = np.array([inside[region.slices].sum() for region in regions], float)
    chosen = rng.choice(len(regions), size=MOST_REGIONS, replace=False, p=tissue / tissue.sum())
    return [regions[index] for index in np.sort(chosen)]


def _known_cells(slide: CohortSlide, path_class: str, region: MapRegion, downsample: float) -> NDArray[np.int8]:
    """What a person decided about the cells of a region, int8: 1 positive, -1 negative, 0 nothing."""
    positive, negative = known_area(
        slide.regions(path_class),
        origin_px0=(region.left * downsample, region.top * downsample),
        downsample=downsample,
        size_px=(region.right - region.left, region.bottom - region.top),
    )
    return positive.astype(np.int8) - negative.astype(np.int8)
