"""The method: from slide labels to polygons. ``fit`` learns from a cohort, ``annotate`` draws on a slide.

The walk of a slide through ``wsplf pseudolabel``:

1.  ``cohort.slide.prepare_cohort`` finds its tissue, lays tiles and reads what a person decided on it.
2.  ``features.sample_slide`` takes random instances: dense features of the frozen backbone with their context.
3.  ``epithelium.search.restrict_instances`` keeps those that are epithelium.
4.  ``probes.fit_probes`` fits linear probes out of fold (``self_training``) and suspects labels (``label_noise``).
5.  Recipes that fine-tune the backbone train MIL networks on its tiles instead, or as well (``mil``, with ADL).
6.  ``cam.compute_cams`` computes its CAM: the out-of-fold logit of every cell of its tissue.
7.  ``class_fit.ClassFit.with_scale`` chooses threshold and peak for the cohort; the CAM is in 0..1 from here on.
8.  ``class_fit.resolve_overlap`` gives each cell to one class; SAM's decoder is tuned if the recipe has rounds.
9.  ``polygons.draw_polygons`` refines the CAM: it prompts SAM in windows (``sam``), joins its masks, and outlines.
10. ``annotate`` cuts the polygons clear of what a person decided, separates the classes, and measures them, last.
"""

import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType

import numpy as np
import torch

from wsplf_cli import plugins
from wsplf_cli.cache import key_of
from wsplf_cli.cohort.class_tracker import ClassTracker, class_in_errors
from wsplf_cli.cohort.folds import unknown_patients
from wsplf_cli.cohort.labels import display_names
from wsplf_cli.cohort.run import Resumed, merge_results
from wsplf_cli.cohort.seeds import annotation_id, slide_rng
from wsplf_cli.cohort.slide import CohortSlide, PreparedCohort, SlideResult, require_both_labels, tiles_of
from wsplf_cli.executors.workers import IN_PROCESS, Workers
from wsplf_cli.networks import distributed
from wsplf_cli.networks.backbone import AUTO, SMALL, DenseBackbone, build_dense
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.networks.sam import Sam, load_sam
from wsplf_cli.networks.state import weights_digest
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.recipes import Recipe
from wsplf_cli.runs.resume import ResumeStore
from wsplf_cli.schema import Annotation, EntryResult, Tracker
from wsplf_cli.weak.cam import Classifiers, compute_cams, dense_inference
from wsplf_cli.weak.class_fit import CamsOfClass, ClassFit, resolve_overlap
from wsplf_cli.weak.epithelium.search import SearchArea, search_area
from wsplf_cli.weak.features import FeatureMaps, SampleSlide, sample_instances
from wsplf_cli.weak.kept.resume import SlideInput, finished_result, map_digest, result_of
from wsplf_cli.weak.mil.ensemble import fit_ensemble
from wsplf_cli.weak.polygons import draw_polygons, measure, outside_of_review, prompted_masks, separate_classes
from wsplf_cli.weak.probes import ProbeSettings, fit_probes
from wsplf_cli.weak.prompts import Strategy
from wsplf_cli.weak.sam import refiners
from wsplf_cli.weak.sam.embeddings import Embedder
from wsplf_cli.weak.sam.refine import Refiner
from wsplf_cli.weak.sam.rounds import tune_rounds
from wsplf_cli.weak.self_training import SelfTraining

#: Options that say how CAMs become polygons, and who works. Runs that differ only in these share what was learned.
_OF_DRAWING = ("sam", "sam_checkpoint", "alpha", "min_area_um2", "cache_gb", "workers")
_RECIPE_OF_DRAWING = (
    "name",
    "summary",
    "trains",
    "refiner",
    "prompts",
    "rounds",
    "first_round",
    "selection",
    "robust_loss",
    "cam_scale",
)


@dataclass(frozen=True, slots=True)
class Networks:
    """What the options name, loaded before any work begins, so that a wrong name costs nothing.

    ``backbone`` is the frozen backbone, None where the recipe only fine-tunes; ``make_mil`` makes a new MIL network,
    None where the recipe trains none.
    """

    sam: Sam
    strategy: Strategy
    search: SearchArea
    backbone: DenseBackbone | None
    make_mil: Callable[[], MilNetwork] | None


@dataclass(frozen=True, slots=True)
class CohortFit:
    """What was learned of each class from a cohort, one result per entry, and the seconds that it took."""

    fits: tuple[ClassFit, ...]
    results: tuple[EntryResult, ...]
    seconds: float


Memory = MutableMapping[str, CohortFit]
"""What earlier runs on the same entries learned, by ``fit_key``."""


def load_networks(options: PseudolabelOptions, device: torch.device, tracker: Tracker) -> Networks:
    """The networks that the options name.

    Args:
        options: Of the command.
        device: Where the networks are to be.
        tracker: Is told of a training that a backbone needs at its first use.

    Raises:
        ConfigError: A name or weights file is wrong, or a field of the recipe has no effect.
    """
    recipe = options.recipe
    head = plugins.load("weak.heads", recipe.head)
    strategy: Strategy = plugins.load("weak.prompts", recipe.prompts).build()
    sam = load_sam(options.sam, checkpoint=options.sam_checkpoint, device=device)
    make_mil = backbone = None
    if recipe.backbone_mode == "frozen":
        distributed.require_single("this recipe trains no network")
    else:
        make_mil = partial(_mil_network, options, head, device)
        make_mil()  # a backbone that cannot be fine-tuned is refused before any work
    if recipe.backbone_mode != "fine-tuned":
        backbone = build_dense(options.backbone, weights=options.backbone_weights).to(device).eval()
    return Networks(sam, strategy, search_area(options, backbone, tracker), backbone, make_mil)


def fit_key(options: PseudolabelOptions) -> str:
    """The options that decide what is learned from the slide labels, as text."""
    default = PseudolabelOptions()
    recipe = replace(options.recipe, **{name: getattr(Recipe(), name) for name in _RECIPE_OF_DRAWING})
    return repr(replace(options, recipe=recipe, **{name: getattr(default, name) for name in _OF_DRAWING}))


def fit(
    prepared: PreparedCohort,
    trackers: Mapping[str, ClassTracker],
    networks: Networks,
    options: PseudolabelOptions,
    *,
    workers: Workers = IN_PROCESS,
    store: ResumeStore | None = None,
) -> CohortFit:
    """Learn each class from the slide labels, against all other labelled slides.

    Args:
        prepared: The slides, and what became of every entry so far.
        trackers: For each class where its progress is shown.
        networks: As ``load_networks`` gives them.
        options: The recipe and the rest.
        workers: Who does the work on slides.
        store: What a stopped run had finished of the slides.

    Raises:
        ProjectError: No positive or no negative slide of a class can be used.
    """
    began = time.monotonic()
    tracker = next(iter(trackers.values())).tracker
    rng = np.random.default_rng(options.run.seed)  # chooses folds and tiles; slides have their own
    cohort, results = prepared.slides, prepared.results
    classes = list(trackers)
    for path_class, class_tracker in trackers.items():
        with class_in_errors(class_tracker.name):
            require_both_labels(cohort, path_class, results)
    if patients := unknown_patients([slide.entry for slide in cohort]):
        tracker.say(patients)
    classifiers = {path_class: Classifiers() for path_class in classes}
    if networks.backbone is not None:
        inferences = {slide.entry.id: dense_inference(slide, networks.backbone, options) for slide in cohort}
        if networks.search.message:
            tracker.say(networks.search.message)
        recipe = options.recipe
        settings = ProbeSettings(networks.search, SelfTraining(rounds=recipe.self_training, adl=recipe.adl))
        feature_maps = FeatureMaps(networks.backbone)
        work = SampleSlide(tuple(classes), feature_maps, options.run.seed)
        sampled = sample_instances(cohort, work, inferences, tracker=tracker, workers=workers, store=store)
        cohort = [slide for slide in cohort if slide.entry.id in sampled.of_class[classes[0]]]
        for path_class, class_tracker in trackers.items():
            with class_in_errors(class_tracker.name):
                require_both_labels(cohort, path_class, sampled.results)
            instances = [sampled.of_class[path_class][slide.entry.id] for slide in cohort]
            probes = fit_probes(cohort, path_class, instances, settings, rng=rng, tracker=class_tracker)
            classifiers[path_class] = Classifiers(probes, feature_maps)
        results = merge_results(results, sampled.results)
    if networks.make_mil is not None:
        tiles = tiles_of(cohort)
        for path_class, class_tracker in trackers.items():
            suspected = classifiers[path_class].suspected
            ensemble = fit_ensemble(
                [of_slide for of_slide in tiles if of_slide.slide.entry.id not in suspected],
                path_class,
                networks.make_mil,
                options=options,
                rng=rng,
                tracker=class_tracker,
            )
            # No network learned from a suspected slide, so any network is out of fold for it.
            fold_of = {slide.entry.id: 0 for slide in cohort} | dict(ensemble.fold_of)
            classifiers[path_class] = replace(classifiers[path_class], ensemble=replace(ensemble, fold_of=fold_of))
    distributed.only_main_goes_on()
    logits, cam_results = compute_cams(cohort, classifiers, options, tracker, workers=workers, store=store)
    fits = []
    for path_class, class_tracker in trackers.items():
        fitted = classifiers[path_class]
        for slide in cohort:
            if slide.entry.id in fitted.suspected:
                class_tracker.say(
                    f"{slide.entry.name}: {fitted.suspected[slide.entry.id]}; not learned from, please check its label"
                )
        slides = tuple(slide for slide in cohort if slide.entry.id in logits[path_class])
        fits.append(
            ClassFit(
                path_class,
                class_tracker.name,
                slides,
                logits[path_class],
                fitted.suspected,
                fitted.fold_of,
                fitted.search_in,
                in_sample=fitted.in_sample,
                probes=fitted.probes,
                backbone_digest="" if networks.backbone is None else weights_digest(networks.backbone),
            )
        )
    return CohortFit(tuple(fits), tuple(merge_results(results, cam_results)), time.monotonic() - began)


def class_refiners(
    fits: Sequence[ClassFit],
    networks: Networks,
    embed: Embedder,
    options: PseudolabelOptions,
    trackers: Mapping[str, ClassTracker],
) -> tuple[list[Refiner], list[dict[str, object]]]:
    """The refiner of each class, with its own tuned SAM where the recipe has rounds, and what to say of the rounds."""
    class_refiners: list[Refiner] = []
    details: list[dict[str, object]] = []
    for index, fit_of_class in enumerate(fits):
        sam: Sam = networks.sam
        detail: dict[str, object] = {}
        if options.recipe.rounds:
            tuned = tune_rounds(
                networks.sam,
                CamsOfClass(fits, index),
                embed=embed,
                strategy=networks.strategy,
                options=options,
                tracker=trackers[fit_of_class.path_class],
            )
            sam, detail = tuned.sam, {"round_windows": list(tuned.windows)}
        class_refiners.append(refiners.build(options.recipe.refiner, sam=sam, embed=embed, strategy=networks.strategy))
        details.append(detail)
    return class_refiners, details


def annotate(
    slide: CohortSlide,
    fits: Sequence[ClassFit],
    class_refiners: Sequence[Refiner],
    options: PseudolabelOptions,
    *,
    run_id: str,
) -> SlideResult:
    """The pseudo-labels of all classes on one slide, measured in their final shape, with the CAMs they come from.

    A slide gets no polygon of a class that its label lacks; the area that would have been drawn is counted as
    ``suppressed_um2``. An image that a person has reviewed gets no polygon at all.

    Raises:
        SlideError: The slide's data is damaged.
    """
    cams = resolve_overlap(slide, fits)
    maps = {fit_of_class.path_class: cam for fit_of_class, cam in zip(fits, cams, strict=True)}
    if slide.entry.reviewed:
        return SlideResult(slide.entry.id, (), {}, maps)
    rng = slide_rng(options.run.seed, "polygons", slide.entry.id)
    min_area_px0 = options.min_area_um2 / slide.mpp**2
    drawn, suppressed_px0 = [], 0.0
    for fit_of_class, cam, refiner in zip(fits, cams, class_refiners, strict=True):
        polygons = draw_polygons(slide, cam, refiner, options, rng)
        if not slide.is_positive(fit_of_class.path_class):
            suppressed_px0 += sum(polygon.shape.area for polygon in polygons)
            polygons = []
        drawn.append(outside_of_review(polygons, slide, fit_of_class.path_class, min_area_px0=min_area_px0))
    drawn = separate_classes(drawn, cams, min_area_px0=min_area_px0)
    annotations = tuple(
        Annotation(
            id=annotation_id(run_id, slide.entry.id, number),
            shape=polygon.shape,
            path_class=path_class,
            origin="pseudolabel",
            run_id=run_id,
            measurements=measure(polygon, mpp_slide=slide.mpp),
        )
        for number, (path_class, polygon) in enumerate(
            (fit_of_class.path_class, polygon)
            for fit_of_class, polygons in zip(fits, drawn, strict=True)
            for polygon in polygons
        )
    )
    names = display_names([fit_of_class.path_class for fit_of_class in fits])
    counts = {f"polygons {name}": len(polygons) for name, polygons in zip(names, drawn, strict=True) if name} | {
        "polygons": len(annotations),
        "area mm2": sum(annotation.shape.area for annotation in annotations) * slide.mpp**2 / 1e6,
        "suppressed_um2": suppressed_px0 * slide.mpp**2,
    }
    of_annotation = zip(annotations, (polygon for polygons in drawn for polygon in polygons), strict=True)
    prompted = {annotation.id: prompted_masks(polygon) for annotation, polygon in of_annotation}
    return SlideResult(slide.entry.id, annotations, counts, maps, prompted)


@dataclass(frozen=True, slots=True)
class AnnotateSlide:
    """Draws the pseudo-labels of a slide, from the fits for that slide. The embedder is that of the refiners."""

    class_refiners: Sequence[Refiner]
    embed: Embedder
    options: PseudolabelOptions
    run_id: str

    def __call__(self, item: tuple[CohortSlide, Sequence[ClassFit]], tracker: Tracker) -> SlideResult:
        """As ``annotate``, with pictures of the CAMs in place of the CAMs."""
        slide, fits = item
        before = self.embed.computed
        result = annotate(slide, fits, self.class_refiners, self.options, run_id=self.run_id)
        pictures = {path_class: cam.picture() for path_class, cam in result.maps.items()}
        return replace(result, maps={}, pictures=pictures, embedded=self.embed.computed - before)

    def resumed(self, store: ResumeStore) -> Resumed[tuple[CohortSlide, Sequence[ClassFit]], SlideResult]:
        """How the pseudo-labels of a slide are kept, and what they depend on."""
        options = (self.options.recipe, self.options.mpp, self.options.min_area_um2, self.options.run.seed)
        of_refiners = [refiners.digest(refiner) for refiner in self.class_refiners]

        def key(item: tuple[CohortSlide, Sequence[ClassFit]]) -> str:
            slide, fits = item
            classes = [fit_of_class.path_class for fit_of_class in fits]
            logits = [fit_of_class.logits[slide.entry.id] for fit_of_class in fits]
            maps = [(map_digest(of_class.mean), map_digest(of_class.raw)) for of_class in logits]
            scales = [fit_of_class.calibrated for fit_of_class in fits]
            return key_of([SlideInput.of(slide, classes), classes, options, of_refiners, maps, scales])

        return Resumed(
            store,
            key,
            finished_result,
            lambda item, finished: result_of(finished, item[0].entry.id, run_id=self.run_id),
        )


def _mil_network(options: PseudolabelOptions, head: ModuleType, device: torch.device) -> MilNetwork:
    recipe = options.recipe
    backbone = build_dense(
        SMALL if options.backbone == AUTO else options.backbone,
        weights=options.backbone_weights,
        adl=recipe.adl,
        high_frequency=recipe.high_frequency,
    )
    return MilNetwork(backbone, head.build(backbone.channels, 1)).to(device)
