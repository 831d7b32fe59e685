"""The class activation map of a slide: for each cell the logit of the classifier, out of fold and on average.

A CAM here is the map of instance logits, unclipped: its mean over a tile is the tile's logit. Linear probes on the
frozen backbone and fine-tuned MIL networks give one each; with both, the CAM is their mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.cache import key_of
from wsplf_cli.cohort.run import Resumed, SlideStep, for_each_slide
from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.executors.workers import IN_PROCESS, Workers
from wsplf_cli.networks.backbone import DenseBackbone
from wsplf_cli.networks.state import weights_digest
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.runs.resume import Finished, ResumeStore
from wsplf_cli.schema import Entry, EntryResult, Tracker
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.window import DenseInference
from wsplf_cli.weak.epithelium.search import restrict_to_epithelium
from wsplf_cli.weak.features import FeatureMaps, probe_maps
from wsplf_cli.weak.kept.alike import KeptInstances
from wsplf_cli.weak.kept.resume import SlideInput, backbone_digest, finished_maps, maps_of, probe_digest
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
    maps: FeatureMaps | None = None
    ensemble: MilEnsemble | None = None

    def without_instances(self) -> "Classifiers":
        """The same without the instances of the probes: all that CAMs need."""
        return self if self.probes is None else replace(self, probes=replace(self.probes, instances=None))

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


@dataclass(frozen=True, slots=True)
class SlideMaps:
    """The maps of one slide by class: of each network in half precision (all are kept), and of the probes."""

    of_networks: Mapping[str, NDArray[np.float16]]
    of_probes: Mapping[str, NDArray[np.float32]]
    downsample: float


@dataclass(frozen=True, slots=True)
class ComputeMaps:
    """Computes the maps of a slide. The probes of all classes share one pass of the backbone over it."""

    classifiers: Mapping[str, Classifiers]
    options: PseudolabelOptions

    def __call__(self, slide: CohortSlide, tracker: Tracker) -> SlideMaps:
        """The maps of all classes."""
        of_networks: dict[str, NDArray[np.float16]] = {}
        of_probes: dict[str, NDArray[np.float32]] = {}
        downsample = 0.0
        for path_class, fitted in self.classifiers.items():
            if fitted.ensemble is not None:
                inference = dense_inference(slide, fitted.ensemble.networks[0].backbone, self.options)
                network_maps = [network_map(slide, network, inference) for network in fitted.ensemble.networks]
                of_networks[path_class] = np.concatenate(network_maps).astype(np.float16)
                downsample = inference.downsample
        maps = next(iter(self.classifiers.values())).maps
        fitted_probes = {
            path_class: fitted.probes for path_class, fitted in self.classifiers.items() if fitted.probes is not None
        }
        if maps is not None and fitted_probes:
            inference = dense_inference(slide, maps.backbone, self.options)
            of_probes = _probe_logits(slide, maps, fitted_probes, inference)
            downsample = inference.downsample
        return SlideMaps(of_networks, of_probes, downsample)

    def resumed(self, store: ResumeStore) -> Resumed[CohortSlide, SlideMaps]:
        """How the maps of a slide are kept, and what they depend on."""
        networks = [
            (path_class, [weights_digest(network) for network in fitted.ensemble.networks])
            for path_class, fitted in self.classifiers.items()
            if fitted.ensemble is not None
        ]
        backbones = [
            backbone_digest(backbone)
            for fitted in self.classifiers.values()
            for backbone in (
                None if fitted.maps is None else fitted.maps.backbone,
                None if fitted.ensemble is None else fitted.ensemble.networks[0].backbone,
            )
            if backbone is not None
        ]

        def key(slide: CohortSlide) -> str:
            probes = [
                (probe_digest(fitted.probes.probes[slide.entry.id]), probe_digest(fitted.probes.epithelium))
                for fitted in self.classifiers.values()
                if fitted.probes is not None
            ]
            recipe = self.options.recipe
            inference = (self.options.mpp, recipe.tile_px, recipe.tta)
            return key_of([SlideInput.of(slide, tuple(self.classifiers)), inference, networks, backbones, probes])

        return Resumed(store, key, _finished, _maps_of)


def _finished(maps: SlideMaps) -> Finished:
    arrays = {f"network {name}": values for name, values in maps.of_networks.items()}
    packed = finished_maps(arrays | {f"probe {name}": values for name, values in maps.of_probes.items()})
    return replace(packed, document={"maps": packed.document, "downsample": maps.downsample})


def _maps_of(_slide: CohortSlide, finished: Finished) -> SlideMaps:
    maps = maps_of(replace(finished, document=finished.document["maps"]))
    of_networks, of_probes = (
        {name.removeprefix(kind): values for name, values in maps.items() if name.startswith(kind)}
        for kind in ("network ", "probe ")
    )
    return SlideMaps(of_networks, of_probes, finished.document["downsample"])


def compute_cams(
    cohort: Sequence[CohortSlide],
    classifiers: Mapping[str, Classifiers],
    options: PseudolabelOptions,
    tracker: Tracker,
    *,
    workers: Workers = IN_PROCESS,
    store: ResumeStore | None = None,
) -> tuple[dict[str, dict[str, SlideLogits]], list[EntryResult]]:
    """For each class the CAM logits of every slide, and one result per entry.

    The unit is the spread of negative slides that a classifier did not see.
    """
    slides = {slide.entry.id: slide for slide in cohort}
    maps: dict[str, SlideMaps] = {}

    def receive(entry: Entry, of_slide: SlideMaps) -> Mapping[str, float]:
        maps[entry.id] = of_slide
        return {}

    work = ComputeMaps({path_class: fitted.without_instances() for path_class, fitted in classifiers.items()}, options)
    resumed = work.resumed(store or ResumeStore())
    step = SlideStep("CAM", lambda entry: slides[entry.id], work, receive, resumed)
    results = for_each_slide([slide.entry for slide in cohort], step, tracker=tracker, workers=workers)
    finished = [slide for slide in cohort if slide.entry.id in maps]
    logits_of = {path_class: _joined(finished, path_class, fitted, maps) for path_class, fitted in classifiers.items()}
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
    feature_maps: FeatureMaps,
    fitted: Mapping[str, FittedProbes],
    inference: DenseInference,
) -> dict[str, NDArray[np.float32]]:
    """The out-of-fold probe logits of a slide for each class, restricted to epithelium where the probes are."""
    entry_id = slide.entry.id
    epithelium = next((probes.epithelium for probes in fitted.values() if probes.epithelium is not None), None)
    of_classes = [probes.probes[entry_id] for probes in fitted.values()]
    maps = probe_maps(slide, feature_maps, of_classes if epithelium is None else [*of_classes, epithelium], inference)
    logits = {}
    for (path_class, probes), class_map in zip(fitted.items(), maps, strict=False):
        if probes.epithelium is None:
            logits[path_class] = class_map
        else:
            logits[path_class] = restrict_to_epithelium(class_map, maps[-1], inference)
    return logits


def _joined(
    cohort: Sequence[CohortSlide], path_class: str, fitted: Classifiers, maps: Mapping[str, SlideMaps]
) -> dict[str, SlideLogits]:
    """The logits of networks and probes joined, by entry id, in the order of the cohort."""
    scaled = {}
    if fitted.ensemble is not None:
        negatives = [slide.entry.id for slide in cohort if not slide.is_positive(path_class)]
        trusted = [entry_id for entry_id in negatives if entry_id not in fitted.suspected]
        of_networks = {slide.entry.id: maps[slide.entry.id].of_networks[path_class] for slide in cohort}
        scaled = on_one_scale(trusted or negatives, fitted.ensemble, of_networks)
    logits = {}
    for slide in cohort:
        of_slide = maps[slide.entry.id]
        cell_px0 = of_slide.downsample
        raw = of_slide.of_probes.get(path_class)
        of_probes = [] if raw is None else [raw]
        on_scale = scaled.get(slide.entry.id)
        out_of_fold = SlideMap(np.mean([*of_probes, *([on_scale[0]] if on_scale else [])], axis=0), cell_px0)
        mean = out_of_fold
        if on_scale:
            mean = SlideMap(np.mean([*of_probes, on_scale[1]], axis=0), cell_px0)
            raw = of_slide.of_networks[path_class].mean(axis=0, dtype=np.float32)
        assert raw is not None
        logits[slide.entry.id] = SlideLogits(out_of_fold, mean, SlideMap(raw, cell_px0))
    return logits
