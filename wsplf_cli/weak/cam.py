"""The class activation map of a slide: for each cell the logit of the classifier, out of fold and on average.

A CAM here is the map of instance logits, unclipped: its mean over a tile is the tile's logit. Linear probes on the
frozen backbone and fine-tuned MIL networks give one each; with both, the CAM is their mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.cohort.run import for_each_entry
from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.networks.backbone import DenseBackbone
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.schema import Entry, EntryResult, Tracker
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.window import DenseInference
from wsplf_cli.weak.epithelium.search import restrict_to_epithelium
from wsplf_cli.weak.features import probe_maps
from wsplf_cli.weak.kept.alike import KeptInstances
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.mil.ensemble import MilEnsemble, network_map, on_one_scale


@dataclass(frozen=True, slots=True)
class FittedProbes:
    """The out-of-fold probe of each entry id, and the suspected label errors by entry id, with the reason.

    ``epithelium`` tells the epithelium that the probes are restricted to; None: they cover all tissue. ``in_sample``
    says why the probes learned from the slides that they score; empty where they are out of fold. ``instances`` are
    some of those that the probes were fitted on.
    """

    probes: Mapping[str, LinearProbe]
    suspected: Mapping[str, str]
    epithelium: LinearProbe | None = None
    in_sample: str = ""
    instances: KeptInstances | None = None


@dataclass(frozen=True, slots=True)
class Classifiers:
    """What was fitted for one class: an ensemble of MIL networks, or linear probes with their backbone, or both."""

    probes: FittedProbes | None = None
    backbone: DenseBackbone | None = None
    ensemble: MilEnsemble | None = None

    @property
    def suspected(self) -> Mapping[str, str]:
        """The suspected label errors by entry id, with the reason."""
        return {} if self.probes is None else self.probes.suspected

    @property
    def search_in(self) -> str:
        """Where tumour was searched for: "epithelium" or "tissue"."""
        return "tissue" if self.probes is None or self.probes.epithelium is None else "epithelium"

    @property
    def in_sample(self) -> str:
        """Why no slide is scored by classifiers that did not learn from it; empty where every slide is."""
        fitted = [fitted for fitted in (self.probes, self.ensemble) if fitted is not None]
        return next((one.in_sample for one in fitted if one.in_sample), "")

    @property
    def fold_of(self) -> dict[str, int]:
        """The fold of each entry id in the MIL ensemble."""
        return {} if self.ensemble is None else dict(self.ensemble.fold_of)


@dataclass(frozen=True, slots=True)
class SlideLogits:
    """CAM logits of one slide: ``out_of_fold`` by the classifiers that did not learn from it, ``mean`` by all of them.

    ``raw`` is the mean of the logits as the classifiers give them, above 0 where they rather see tumour.
    """

    out_of_fold: SlideMap
    mean: SlideMap
    raw: SlideMap


@dataclass(slots=True)
class _Maps:
    """The maps of one class by entry id: of each network in half precision (all are kept), and of the probes."""

    of_networks: dict[str, NDArray[np.float16]]
    of_probes: dict[str, NDArray[np.float32]]


def compute_cams(
    cohort: Sequence[CohortSlide],
    classifiers: Mapping[str, Classifiers],
    options: PseudolabelOptions,
    tracker: Tracker,
) -> tuple[dict[str, dict[str, SlideLogits]], list[EntryResult]]:
    """For each class the CAM logits of every slide, and one result per entry.

    The unit is the spread of negative slides that a classifier did not see. The probes of all classes share one pass of
    the backbone over a slide.
    """
    slides = {slide.entry.id: slide for slide in cohort}
    maps = {path_class: _Maps({}, {}) for path_class in classifiers}
    downsample: dict[str, float] = {}

    def compute(entry: Entry) -> Mapping[str, float]:
        slide = slides[entry.id]
        for path_class, fitted in classifiers.items():
            if fitted.ensemble is not None:
                inference = dense_inference(slide, fitted.ensemble.networks[0].backbone, options)
                network_maps = [network_map(slide, network, inference) for network in fitted.ensemble.networks]
                maps[path_class].of_networks[entry.id] = np.concatenate(network_maps).astype(np.float16)
                downsample[entry.id] = inference.downsample
        backbone = next(iter(classifiers.values())).backbone
        fitted_probes = {
            path_class: fitted.probes for path_class, fitted in classifiers.items() if fitted.probes is not None
        }
        if backbone is not None and fitted_probes:
            inference = dense_inference(slide, backbone, options)
            for path_class, logits in _probe_logits(slide, backbone, fitted_probes, inference).items():
                maps[path_class].of_probes[entry.id] = logits
            downsample[entry.id] = inference.downsample
        return {}

    results = for_each_entry([slide.entry for slide in cohort], compute, tracker=tracker, name="CAM")
    logits_of = {
        path_class: _joined(cohort, path_class, fitted, maps[path_class], downsample)
        for path_class, fitted in classifiers.items()
    }
    return logits_of, results


def dense_inference(slide: CohortSlide, backbone: DenseBackbone, options: PseudolabelOptions) -> DenseInference:
    """How the map of a slide is computed with these options."""
    return DenseInference(
        mpp=options.mpp,
        mpp_slide=slide.mpp,
        window_px=window_side(options.recipe.tile_px),
        stride=backbone.stride,
        rotations=options.recipe.tta,
    )


def window_side(tile_px: int) -> int:
    """Side of the windows of a CAM: two tiles or more, a multiple of every network's stride."""
    return max(256, -(-2 * tile_px // 32) * 32)


def _probe_logits(
    slide: CohortSlide,
    backbone: DenseBackbone,
    fitted: Mapping[str, FittedProbes],
    inference: DenseInference,
) -> dict[str, NDArray[np.float32]]:
    """The out-of-fold probe logits of a slide for each class, restricted to epithelium where the probes are."""
    entry_id = slide.entry.id
    epithelium = next((probes.epithelium for probes in fitted.values() if probes.epithelium is not None), None)
    of_classes = [probes.probes[entry_id] for probes in fitted.values()]
    maps = probe_maps(slide, backbone, of_classes if epithelium is None else [*of_classes, epithelium], inference)
    logits = {}
    for (path_class, probes), class_map in zip(fitted.items(), maps, strict=False):
        if probes.epithelium is None:
            logits[path_class] = class_map
        else:
            logits[path_class] = restrict_to_epithelium(class_map, maps[-1], inference)
    return logits


def _joined(
    cohort: Sequence[CohortSlide],
    path_class: str,
    fitted: Classifiers,
    maps: _Maps,
    downsample: Mapping[str, float],
) -> dict[str, SlideLogits]:
    """The logits of networks and probes joined, by entry id."""
    scaled = {}
    if fitted.ensemble is not None:
        negatives = [
            slide.entry.id
            for slide in cohort
            if not slide.is_positive(path_class) and slide.entry.id in maps.of_networks
        ]
        trusted = [entry_id for entry_id in negatives if entry_id not in fitted.suspected]
        scaled = on_one_scale(trusted or negatives, fitted.ensemble, maps.of_networks)
    logits = {}
    for entry_id, cell_px0 in downsample.items():
        of_probes = [maps.of_probes[entry_id]] if entry_id in maps.of_probes else []
        of_networks = scaled.get(entry_id)
        out_of_fold = SlideMap(np.mean([*of_probes, *([of_networks[0]] if of_networks else [])], axis=0), cell_px0)
        mean = out_of_fold
        raw = maps.of_probes.get(entry_id)
        if of_networks:
            mean = SlideMap(np.mean([*of_probes, of_networks[1]], axis=0), cell_px0)
            raw = maps.of_networks[entry_id].mean(axis=0, dtype=np.float32)
        assert raw is not None
        logits[entry_id] = SlideLogits(out_of_fold, mean, SlideMap(raw, cell_px0))
    return logits
