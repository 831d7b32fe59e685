"""What a stopped ``wsplf segment`` had finished of a slide: how it is kept, and all that it depends on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import shapely

from wsplf_cli.cache import FileIdentity, digest_of, identity, key_of
from wsplf_cli.cohort.run import Resumed
from wsplf_cli.cohort.seeds import annotation_id
from wsplf_cli.cohort.slide import SlideResult
from wsplf_cli.review.memory import Review
from wsplf_cli.review.merge import decided_by_a_person
from wsplf_cli.runs.resume import Finished, ResumeStore, finished_polygons, polygons_of
from wsplf_cli.schema import Entry
from wsplf_cli.segmentation.annotate import SegmentSlide, is_known, is_ruled_out
from wsplf_cli.slides.entry import SlideContent, content_of, entry_slide


@dataclass(frozen=True, slots=True)
class _Input:
    """The input of the predictions of a slide; shapes by their digests."""

    content: SlideContent
    size_px0: tuple[int, int]
    mpp: float
    model: tuple[FileIdentity, ...]
    device: str
    threshold: float
    min_area_um2: float
    ruled_out: Mapping[str, bool]
    known: Mapping[str, bool]
    outlines: str
    seed: int
    decided: str
    regions: Mapping[str, str]


def resumed_predictions(work: SegmentSlide, store: ResumeStore) -> Resumed[tuple[Entry, Review], SlideResult]:
    """How the predictions of a slide are kept, and what they depend on, the files of the model included."""
    model, options = work.model, work.options
    paths = [path for path in model.path.iterdir() if path.is_file()] if model.path.is_dir() else [model.path]
    files = tuple(identity(path) for path in sorted(paths))
    classes = model.checkpoint.classes

    def key(item: tuple[Entry, Review]) -> str:
        entry, review = item
        slide, pixel_size = entry_slide(entry, mpp_override=options.project.mpp_override)
        decided = decided_by_a_person(review.annotations, origin="prediction")
        return key_of(
            _Input(
                content_of(slide),
                entry.size_px0,
                pixel_size.mpp,
                files,
                model.device,
                model.threshold,
                options.min_area_um2,
                {path_class: is_ruled_out(entry, path_class) for path_class in classes},
                {path_class: is_known(entry, path_class) for path_class in classes},
                "" if work.refiner is None else work.refiner.digest,
                0 if work.refiner is None else options.run.seed,
                digest_of(*(shapely.to_wkb(annotation.shape) for annotation in decided)),
                {path_class: review.of(path_class).digest for path_class in classes},
            )
        )

    def write(result: SlideResult) -> Finished:
        finished = finished_polygons(result.annotations, result.prompted, result.counts)
        return replace(finished, document={**finished.document, "unlike": dict(result.unlike)})

    def read(item: tuple[Entry, Review], finished: Finished) -> SlideResult:
        entry_id = item[0].id
        id_of = partial(annotation_id, work.run_id, entry_id)
        annotations, _, counts = polygons_of(finished, origin="prediction", run_id=work.run_id, id_of=id_of)
        return SlideResult(entry_id, annotations, counts, unlike=finished.document["unlike"])

    return Resumed(store, key, write, read)
