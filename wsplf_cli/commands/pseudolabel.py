"""``wsplf pseudolabel``: from slide labels to polygons that a pathologist can review."""

from collections.abc import Mapping, Sequence

from wsplf_cli import files
from wsplf_cli.backends import Project
from wsplf_cli.cache import Store
from wsplf_cli.cohort.class_tracker import ClassTracker
from wsplf_cli.cohort.labels import classes_of, count_classes, display_names, require_both
from wsplf_cli.cohort.run import Skipped, SlideStep, for_each_slide, merge_results
from wsplf_cli.cohort.slide import CohortSlide, SlideResult, prepare_cohort
from wsplf_cli.cohort.square_pixels import with_square_pixels
from wsplf_cli.executors.choose import open_workers
from wsplf_cli.executors.workers import Workers
from wsplf_cli.networks.device import pick_device, seed_everything
from wsplf_cli.networks.distributed import is_main
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.review.memory import REVIEWED, write_polygons
from wsplf_cli.runs import layout
from wsplf_cli.runs.prompted import keep_prompted
from wsplf_cli.runs.record import Run, start_run
from wsplf_cli.schema import Entry, EntryResult, StageReport, Tracker
from wsplf_cli.weak.class_fit import ClassFit, fit_details
from wsplf_cli.weak.kept.fit import keep_fit
from wsplf_cli.weak.method import (
    AnnotateSlide,
    Memory,
    class_refiners,
    fit,
    fit_key,
    load_networks,
)
from wsplf_cli.weak.sam.embeddings import Embedder


def pseudolabel(
    project: Project,
    entries: Sequence[Entry],
    options: PseudolabelOptions,
    tracker: Tracker,
    *,
    memory: Memory | None = None,
) -> StageReport:
    """Learn from slide labels where the tumour is, and write it as pending pseudo-labels into the positive slides.

    Slides without a label and held-out slides are left as they are; negative slides get no polygon. With several
    classes, each is learned against the rest, and a slide gets polygons of the classes that its label names.

    Args:
        project: Where the polygons go.
        entries: With their labels resolved.
        options: The options of the command.
        tracker: Where progress is shown.
        memory: What earlier runs on these entries learned in this process; it is not learned again.

    Returns:
        One result per entry; ``details`` says what was learned.

    Raises:
        ProjectError: No positive or no negative slide of a class can be used, or the project cannot be written.
        ConfigError: A network, weights file or recipe that cannot be used.
    """
    project, entries = with_square_pixels(project, entries)
    device = pick_device(options.run.device)
    seed_everything(options.run.seed)
    classes = classes_of(options.project)
    labelled = [entry for entry in entries if entry.label is not None and not entry.held_out]
    require_both([entry for entry in entries if not entry.held_out], classes)
    _say_left_out(entries, labelled, classes, tracker)
    networks = load_networks(options, device, tracker)
    run = start_run(
        project,
        "pseudolabel",
        options=options,
        seed=options.run.seed,
        device=str(device),
        dry_run=options.run.dry_run or not is_main(),
    )
    with open_workers(options.workers, labelled, tracker, files=[project.folder]) as workers, run:
        trackers = {
            path_class: ClassTracker(tracker, run, name)
            for path_class, name in zip(classes, display_names(classes), strict=True)
        }
        memory = {} if memory is None else memory
        learned = memory.get(fit_key(options))
        if learned is None:
            prepared = prepare_cohort(project, labelled, classes, options, tracker, workers=workers)
            learned = fit(prepared, trackers, networks, options, workers=workers, store=run.resume)
            memory[fit_key(options)] = learned
        fits = [fit_of_class.with_scale(options, trackers[fit_of_class.path_class]) for fit_of_class in learned.fits]
        cache = None if run.folder is None else layout.embeddings_folder(project.folder)
        embed = Embedder(networks.sam, Store(cache, most_bytes=round(options.cache_gb * 1e9)))
        refiner_of_class, round_details = class_refiners(fits, networks, embed, options, trackers)
        embedded = embed.computed
        work = AnnotateSlide(tuple(refiner_of_class), embed, options, run.id)
        drawn, results = _draw(project, fits, work, run=run, tracker=tracker, workers=workers)
        embed.store.hold_bound()
        embedded += sum(result.embedded for result in drawn)
        details = fit_details(fits, round_details) | {"learn_seconds": learned.seconds, "embedded": embedded}
        return run.finish(merge_results(learned.results, results), details=details)


def _draw(
    project: Project, fits: Sequence[ClassFit], work: AnnotateSlide, *, run: Run, tracker: Tracker, workers: Workers
) -> tuple[list[SlideResult], list[EntryResult]]:
    """Draw polygons on every slide, and write them into the project entry by entry."""
    slides = {slide.entry.id: slide for slide in fits[0].slides}
    names = display_names([fit_of_class.path_class for fit_of_class in fits])
    if run.folder is not None:
        for fit_of_class, name in zip(fits, names, strict=True):
            keep_fit(layout.fit_file(run.folder, name), fit_of_class)
    drawn: list[SlideResult] = []

    def read(entry: Entry) -> tuple[CohortSlide, list[ClassFit]]:
        return slides[entry.id], [fit_of_class.for_slide(slides[entry.id]) for fit_of_class in fits]

    def write(entry: Entry, result: SlideResult) -> Mapping[str, float] | Skipped:
        drawn.append(result)
        if run.folder is not None:
            for picture, name in zip(result.pictures.values(), names, strict=True):
                path = layout.cam_file(run.folder, entry.id, name)
                path.parent.mkdir(exist_ok=True)
                files.write_bytes(path, picture)
        if entry.reviewed:
            return Skipped(REVIEWED)
        if run.folder is None:
            return result.counts
        replaced = write_polygons(
            project, slides[entry.id].review, annotations=result.annotations, origin="pseudolabel", run_id=run.id
        )
        keep_prompted(run.folder, entry.id, result.prompted)
        return {**result.counts, "removed": replaced.removed, "kept": replaced.kept}

    step = SlideStep("polygons", read, work, write, work.resumed(run.resume))
    results = for_each_slide([slide.entry for slide in slides.values()], step, tracker=tracker, workers=workers)
    return drawn, results


def _say_left_out(
    entries: Sequence[Entry], labelled: Sequence[Entry], classes: Sequence[str], tracker: Tracker
) -> None:
    """Say how many slides there are to learn from, of each class, and why others are left out."""
    held_out = sum(entry.held_out for entry in entries)
    unlabelled = len(entries) - held_out - len(labelled)
    positive = sum(bool(entry.label and entry.label.classes) for entry in labelled)
    of_class = [f"{count} {name}" for name, count in count_classes(labelled, display_names(classes)).items() if name]
    each_class = f" ({', '.join(of_class)})" if of_class else ""
    tracker.say(
        f"{len(labelled)} labelled slides ({positive} positive{each_class}, {len(labelled) - positive} negative); "
        f"left out: {unlabelled} without label, {held_out} held out"
    )
