"""``wsplf project create``: a QuPath project from slides."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wsplf_cli.cohort.label_table import read_table
from wsplf_cli.cohort.project_images import fill_in_mpp, image_of_slide, label_images, slide_entry, slide_files
from wsplf_cli.cohort.run import Skipped, for_each_entry
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import CreateOptions
from wsplf_cli.qupath.create import Image, create_project, refuse_project
from wsplf_cli.schema import Entry, StageReport, Tracker
from wsplf_cli.slides.open import open_slide


def create(folder: Path, slides: Sequence[Path], options: CreateOptions, tracker: Tracker) -> StageReport:
    """Make a project of slide files and of the slides in folders.

    A slide that cannot be opened is left out, and its result says why. So is a further file of the same slide.

    Args:
        folder: The folder of the new project.
        slides: Slide files, and folders that hold some.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result per slide file, with the id of its entry; ``details`` has the path of the project, the number of
        labelled slides and the image type.

    Raises:
        ConfigError: there is no slide to add, or the table of labels cannot be used.
        ProjectError: the folder holds a project already or cannot be written, or no slide can be opened.
    """
    began = time.monotonic()
    refuse_project(folder)
    rows = read_table(options.labels) if options.labels is not None else []
    paths = slide_files(slides, tracker)
    images: dict[str, Image] = {}
    name_of_scan: dict[str, str] = {}

    def read_slide(entry: Entry) -> Mapping[str, float] | Skipped:
        assert entry.slide_path is not None
        with open_slide(entry.slide_path) as slide:
            scan = slide.scan_id
            if scan and scan in name_of_scan:
                return Skipped(f"belongs to the same slide as {name_of_scan[scan]}")
            images[entry.id] = image_of_slide(slide, entry.name)
        name_of_scan[scan] = entry.name
        return {"width_px0": slide.width_px0, "height_px0": slide.height_px0, "levels": len(slide.levels)}

    files = [slide_entry(index, path) for index, path in enumerate(paths, start=1)]
    results = for_each_entry(files, read_slide, tracker=tracker, name="slides")
    if not images:
        raise ProjectError(f"none of {len(paths)} slides can be opened", hint=results[0].reason)
    labelled = list(images.values())
    if options.labels is not None:
        labelled = label_images(labelled, rows, table=options.labels, label_key=options.label_key, tracker=tracker)
    sized = fill_in_mpp(labelled, options.mpp_override, tracker)
    path = create_project(folder, sized, classes=[], image_type=options.image_type)
    chosen = options.image_type if options.image_type != "UNSET" else "not set, QuPath asks when it opens one"
    tracker.say(f"{path}: {len(labelled)} of {len(paths)} slides; image type: {chosen}")
    details = {
        "project": path,
        "image_type": options.image_type,
        "labelled": sum(options.label_key in image.metadata for image in labelled),
    }
    entry_ids = {file_id: str(index) for index, file_id in enumerate(images, start=1)}
    with_ids = tuple(replace(result, id=entry_ids.get(result.id, "")) for result in results)
    return StageReport("project create", "", with_ids, time.monotonic() - began, details)
