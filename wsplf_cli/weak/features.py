"""Dense features of a frozen backbone: instances sampled for training, and the maps of linear probes over a slide.

An instance is a cell of the backbone's feature map with its context: its features averaged over three Gaussian
neighbourhoods (``pooling``). Both pooling and probes are linear. So the map of a probe is computed by applying the
probe's weights of each neighbourhood to the features first and averaging after that, which needs one map per
neighbourhood in place of all features.
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
class SampleSlide:
    """Samples instances of a slide: those that depend on the seed and the entry, and on no other slide."""

    classes: tuple[str, ...]
    backbone: DenseBackbone
    seed: int

    def __call__(self, item: tuple[CohortSlide, DenseInference, int], tracker: Tracker) -> dict[str, Instances]:
        """Instances of a slide for each class: how its map is computed, and about how many there are."""
        slide, inference, most = item
        rng = slide_rng(self.seed, "features", slide.entry.id)
        return sample_slide(slide, self.classes, self.backbone, inference, most=most, rng=rng)

    def resumed(self, store: ResumeStore) -> Resumed[tuple[CohortSlide, DenseInference, int], Mapping[str, Instances]]:
        """How the instances of a slide are kept, and what they depend on."""
        backbone = backbone_digest(self.backbone)

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
    backbone: DenseBackbone,
    inference: DenseInference,
    *,
    most: int = INSTANCES_PER_SLIDE,
    rng: np.random.Generator,
) -> dict[str, Instances]:
    """About ``most`` random instances of a slide for each class, with what a person has decided about them."""
    opened = slide.open()
    inside = tissue_cells(slide.tissue, shape=inference.shape(opened), downsample=inference.downsample)
    regions = sampled_regions(inside, region_side(backbone.channels), rng)
    tissue = np.array([inside[region.slices].sum() for region in regions])
    features = [np.zeros((0, len(CONTEXT_SIGMAS_PX) * backbone.channels), np.float16)]
    centres_px0 = [np.zeros((0, 2), np.float32)]
    known = {path_class: [np.zeros(0, np.int8)] for path_class in classes}
    infer = on_arrays(backbone, device=backbone.device, rotations=inference.rotations)
    for region, share in zip(regions, tissue / max(1, tissue.sum()), strict=True):
        rows, columns = np.nonzero(inside[region.slices])
        chosen = rng.permutation(len(rows))[: round(most * share)]
        region_map = infer_map(opened, slide.tissue, infer, inference, channels=backbone.channels, region=region)
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
    slide: CohortSlide, backbone: DenseBackbone, probes: Sequence[LinearProbe], inference: DenseInference
) -> NDArray[np.float32]:
    """The logits of several probes for each cell of a slide, float32 [P, rows, columns], NaN outside the tissue.

    One pass of the backbone serves all probes.
    """
    stacked = np.concatenate([probe.weight.reshape(len(CONTEXT_SIGMAS_PX), -1) for probe in probes])
    weights = torch.from_numpy(stacked).to(backbone.device)

    def neighbourhood_logits(tiles: Tensor) -> Tensor:
        features = backbone(tiles)
        with torch.autocast(backbone.device.type, enabled=False):  # half-precision weights would shift the logits
            return functional.conv2d(features.float(), weights[:, :, None, None])

    infer = on_arrays(neighbourhood_logits, device=backbone.device, rotations=inference.rotations)
    maps = infer_map(slide.open(), slide.tissue, infer, inference, channels=len(stacked))
    inside = ~np.isnan(maps[0])
    logits = np.zeros((len(probes), *inside.shape), np.float32)
    for index, (probe, layers) in enumerate(zip(probes, np.split(maps, len(probes)), strict=True)):
        for layer, sigma in zip(layers, _sigmas(inference), strict=True):  # one at a time: maps of a slide are large
            logits[index] += masked_gaussian(layer[None], inside, sigma=sigma)[0]
        logits[index] += np.float32(probe.bias)
    return logits


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
