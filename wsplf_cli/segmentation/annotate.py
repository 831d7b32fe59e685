"""From a segmentation model and one entry to the annotations of that entry."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shapely import Polygon
from shapely.geometry.base import BaseGeometry

from wsplf_cli.cohort.labels import display_names
from wsplf_cli.cohort.seeds import annotation_id, slide_rng
from wsplf_cli.cohort.slide import SlideResult
from wsplf_cli.geometry import clip_polygons
from wsplf_cli.options import SegmentOptions
from wsplf_cli.review.memory import Review
from wsplf_cli.review.merge import decided_by_a_person, subtract_regions
from wsplf_cli.review.roles import AREA, CONFIDENCE
from wsplf_cli.schema import MODEL_KEY, Annotation, Entry, SlideLabel, TissueMask, Tracker
from wsplf_cli.segmentation.appearance import describe_slide
from wsplf_cli.segmentation.likeness import Likeness
from wsplf_cli.segmentation.loading import LoadedModel, require_pixel_size
from wsplf_cli.segmentation.outlines import OutlineRefiner
from wsplf_cli.segmentation.predict import TOLERANCE_PX, ClassPrediction, OutlineSettings, model_canvas, predict_slide
from wsplf_cli.segmentation.slide_confidence import reaches
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.tissue import ink_polygons, tissue_mask
from wsplf_cli.slides.window import WindowCounter

#: Smaller holes of predictions are filled: a gap of a few nuclei is no finding. (Holes of pseudo-labels: see
#: ``weak.polygons.MIN_LUMEN_UM2``, which is larger, because a CAM is coarser than a segmentation model.)
MIN_GAP_UM2 = 500.0


def is_ruled_out(entry: Entry, path_class: str) -> bool:
    """Whether the slide label rules the class out. Held-out slides are exempt: false positives are measured there."""
    label = _label_that_counts(entry)
    return label is not None and not label.holds(path_class)


def is_known(entry: Entry, path_class: str) -> bool:
    """Whether the slide label says that the slide holds the class; held-out slides are exempt here too."""
    label = _label_that_counts(entry)
    return label is not None and label.holds(path_class)


def _label_that_counts(entry: Entry) -> SlideLabel | None:
    return None if entry.held_out else entry.label


@dataclass(frozen=True, slots=True)
class SegmentSlide:
    """Predicts a slide with a model, whose polygons get their outlines from ``refiner`` where there is one."""

    model: LoadedModel
    options: SegmentOptions
    run_id: str
    refiner: OutlineRefiner | None = None

    def __call__(self, item: tuple[Entry, Review], tracker: Tracker) -> SlideResult:
        """As ``segment_slide``, of an entry and its review, without the probability maps."""
        entry, review = item
        result = segment_slide(
            entry,
            review,
            self.model,
            self.options,
            run_id=self.run_id,
            refiner=self.refiner,
            advance=lambda windows: tracker.advance(0, message=f"{entry.name}, {windows} windows"),
        )
        return replace(result, maps={})


def segment_slide(  # noqa: PLR0913  what a slide, its polygons and their ids depend on
    entry: Entry,
    review: Review,
    model: LoadedModel,
    options: SegmentOptions,
    *,
    run_id: str,
    refiner: OutlineRefiner | None = None,
    advance: Callable[[int], None],
) -> SlideResult:
    """The predictions of a model on one slide, off marker ink and what a person decided, measured in their final shape.

    Where the model says what the slides that it learned from look like, the count ``unlike`` is the slide's distance
    from them over the limit, in the aspect that is furthest (see ``likeness``): above 1 it is unlike them.

    A class that the slide label rules out gets no polygon; the area that the model would have drawn is counted as
    ``suppressed_um2``. Where the slide is not confident enough of a class, nothing of it is drawn either, unless the
    slide label says that it is there: ``unsure_um2``. Polygons of two classes do not overlap. ``advance`` is called
    with the number of windows done.

    Raises:
        SlideError: The slide cannot be read at all, or is too coarse for a model from elsewhere.
    """
    classes, checkpoint = model.checkpoint.classes, model.checkpoint
    slide, pixel_size = entry_slide(entry, mpp_override=options.project.mpp_override)
    mpp_slide = pixel_size.mpp
    if model.from_elsewhere:
        require_pixel_size(entry, checkpoint, mpp_slide)
    absent = [is_ruled_out(entry, path_class) for path_class in classes]
    canvas = model_canvas(slide, mpp=checkpoint.mpp, window_px=checkpoint.predicted_px, mpp_slide=mpp_slide)
    outlines = OutlineSettings(
        threshold=model.threshold,
        tolerance_px0=TOLERANCE_PX * canvas.downsample,
        min_area_px0=options.min_area_um2 / mpp_slide**2,
        min_hole_px0=MIN_GAP_UM2 / mpp_slide**2,
        competing=tuple(not ruled_out for ruled_out in absent),
    )
    counter = WindowCounter(advance)
    tissue = tissue_mask(slide, mpp_slide=mpp_slide)
    drawn = predict_slide(slide, tissue, model.infer, canvas, outlines, counter=counter)
    predictions = [
        _clipped(_confident(prediction, confidence), entry, outlines)
        for prediction, confidence in zip(drawn, model.confidences, strict=True)
    ]
    kept = [annotation.shape for annotation in decided_by_a_person(review.annotations, origin="prediction")]
    annotations: list[Annotation] = []
    suppressed_px0 = unsure_px0 = 0.0
    ink = ink_polygons(tissue)
    needed = model.slide_confidences
    for path_class, prediction, ruled_out, level in zip(classes, predictions, absent, needed, strict=True):
        off_ink = _remaining(prediction.polygons, ink, outlines)
        if not off_ink:
            continue
        probability = prediction.probability
        cell_um = probability.downsample * mpp_slide
        if not is_known(entry, path_class) and not reaches(probability.values, level, cell_um=cell_um):
            unsure_px0 += sum(polygon.area for polygon in off_ink)
            continue
        if ruled_out:
            suppressed_px0 += sum(polygon.area for polygon in off_ink)
            continue
        outlined = off_ink
        if refiner is not None:
            outlined = refiner(
                slide,
                replace(prediction, polygons=off_ink),
                outlines,
                window_downsample=canvas.downsample,
                rng=slide_rng(options.run.seed, f"outlines {path_class}", entry.id),
            )
            outlined = _remaining(_on_image(outlined, entry, outlines), ink, outlines)
        regions = review.of(path_class)
        polygons = _remaining(outlined, [*kept, *regions.negative, *regions.ignored], outlines)
        # Simplified outlines of two classes can cross along their common border.
        polygons = _remaining(polygons, [annotation.shape for annotation in annotations], outlines)
        annotations += [
            Annotation(
                id=annotation_id(run_id, entry.id, number),
                shape=polygon,
                path_class=path_class,
                origin="prediction",
                run_id=run_id,
                measurements={
                    CONFIDENCE: round(prediction.probability.mean_inside(polygon), 4),
                    AREA: round(polygon.area * mpp_slide**2, 1),
                },
                metadata={MODEL_KEY: checkpoint.run_id},
            )
            for number, polygon in enumerate(polygons, start=len(annotations))
        ]
    of_class = Counter(annotation.path_class for annotation in annotations)
    counts = {f"polygons {name}": of_class[name] for name in display_names(classes) if name} | {
        "polygons": len(annotations),
        "area_um2": sum(annotation.shape.area for annotation in annotations) * mpp_slide**2,
        "suppressed_um2": suppressed_px0 * mpp_slide**2,
        "damaged_windows": counter.damaged,
    }
    if unsure_px0:
        counts["unsure_um2"] = unsure_px0 * mpp_slide**2
    unlike = _compare(entry, tissue, model, mpp_slide=mpp_slide)
    if unlike.over_limit:
        counts["unlike"] = round(max(unlike.over_limit.values()), 2)
    maps = {path_class: prediction.probability for path_class, prediction in zip(classes, predictions, strict=True)}
    return SlideResult(entry.id, tuple(annotations), counts, maps, unlike=unlike.unlike)


def _compare(entry: Entry, tissue: TissueMask, model: LoadedModel, *, mpp_slide: float) -> Likeness:
    """How far a slide is from those that the model learned from; empty where the model does not say what they are."""
    if model.appearance is None or not model.appearance.aspects:
        return Likeness({}, {})
    return model.appearance.compare(describe_slide(entry, tissue, mpp=model.checkpoint.mpp, mpp_slide=mpp_slide))


def _confident(prediction: ClassPrediction, confidence: float) -> ClassPrediction:
    """The prediction without the polygons whose mean probability is lower."""
    polygons = [polygon for polygon in prediction.polygons if prediction.probability.mean_inside(polygon) >= confidence]
    return replace(prediction, polygons=polygons)


def _clipped(prediction: ClassPrediction, entry: Entry, outlines: OutlineSettings) -> ClassPrediction:
    """The prediction with its polygons cut at the border of the image: the canvas may reach a pixel beyond."""
    return replace(prediction, polygons=_on_image(prediction.polygons, entry, outlines))


def _on_image(polygons: Sequence[Polygon], entry: Entry, outlines: OutlineSettings) -> list[Polygon]:
    parts = clip_polygons(polygons, entry.size_px0, min_area_px0=outlines.min_area_px0)
    return [part for parts_of_polygon in parts for part in parts_of_polygon]


def _remaining(
    polygons: Sequence[Polygon], regions: Sequence[BaseGeometry], outlines: OutlineSettings
) -> list[Polygon]:
    parts = subtract_regions(polygons, regions, min_area_px0=outlines.min_area_px0)
    return [part for parts_of_polygon in parts for part in parts_of_polygon]
