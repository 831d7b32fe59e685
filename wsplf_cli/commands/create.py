"""``wsplf project create`` and ``project relink``: make a QuPath project, or tell one where its slides are now."""

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image as Picture

from wsplf_cli.cohort.label_table import match_table, read_table
from wsplf_cli.cohort.names import IMAGE_SUFFIX
from wsplf_cli.cohort.run import Skipped, for_each_entry
from wsplf_cli.errors import ConfigError, ProjectError, SlideError
from wsplf_cli.options import CreateOptions, RelinkOptions
from wsplf_cli.qupath import project_file, servers
from wsplf_cli.qupath.addresses import Move, moves_of
from wsplf_cli.qupath.create import Image, create_project, level_sizes, refuse_project
from wsplf_cli.qupath.images import files_in, uri_path
from wsplf_cli.qupath.relink import Link, Search, changed, links
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import Entry, EntryResult, StageReport, Tracker
from wsplf_cli.slides.open import PICTURES, Slide, measure, open_slide

#: QuPath's thumbnails fit into this (width, height).
THUMBNAIL_PX = (1000, 600)
#: Says in a thumbnail's file that it is not QuPath's own; a thumbnail that QuPath writes does not have it.
THUMBNAIL_COMMENT = b"wsplf"


def create(folder: Path, slides: Sequence[Path], options: CreateOptions, tracker: Tracker) -> StageReport:
    """Make a project of slides and of the slides in folders; a slide that cannot be opened is recorded and left out.

    Raises:
        ConfigError: there is no slide to add, or the table of labels cannot be used.
        ProjectError: the folder holds a project already or cannot be written, or no slide can be opened.
    """
    began = time.monotonic()
    refuse_project(folder)
    rows = read_table(options.labels) if options.labels is not None else []
    paths = _slide_files(slides)
    opened: dict[str, Image] = {}
    seen: dict[str, str] = {}

    def work(entry: Entry) -> Mapping[str, float] | Skipped:
        assert entry.slide_path is not None
        with open_slide(entry.slide_path) as slide:
            scan = slide.scan_id
            if scan and scan in seen:
                return Skipped(f"belongs to the same slide as {seen[scan]}")
            opened[entry.id] = _image(slide, entry.name)
        seen[scan] = entry.name
        return {"width_px0": slide.width_px0, "height_px0": slide.height_px0, "levels": len(slide.levels)}

    results = for_each_entry(
        [_entry(number, path) for number, path in enumerate(paths, start=1)], work, tracker=tracker, name="slides"
    )
    if not opened:
        raise ProjectError(f"none of {len(paths)} slides can be opened", hint=results[0].reason)
    images = _labelled(list(opened.values()), rows, options, tracker)
    path = create_project(folder, images, classes=[])
    tracker.say(f"{path}: {len(images)} of {len(paths)} slides")
    details = {"project": path, "labelled": sum(options.label_key in image.metadata for image in images)}
    numbers = {before: str(number) for number, before in enumerate(opened, start=1)}
    numbered = tuple(replace(result, id=numbers.get(result.id, "")) for result in results)
    return StageReport("project create", "", numbered, time.monotonic() - began, details)


def _slide_files(slides: Sequence[Path]) -> list[Path]:
    """The files that were named, and those in the folders that were named which look like slides; each once."""
    found: list[Path] = []
    for path in slides:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [
            one
            for one in files_in(path)
            if IMAGE_SUFFIX.search(one.name.casefold()) and one.suffix.lower() not in PICTURES
        ]
        if not inside:
            raise ConfigError(f"{path}: no slides in this folder", hint="name the slide files")
        found += sorted(inside)
    return list({path.absolute(): path for path in found}.values())


def _entry(number: int, path: Path) -> Entry:
    return Entry(str(number), path.name, path, 0, 0, None, "")


def _image(slide: Slide, name: str) -> Image:
    """What the project records of a slide.

    Raises:
        SlideError: QuPath's reader of slides does not read such a file, or the slide cannot be read.
    """
    if slide.path.suffix.lower() in PICTURES:
        raise SlideError(f"{name}: a plain picture, not a slide", hint="add it in QuPath")
    shown = (slide.width_px0, slide.height_px0)
    return Image(
        path=slide.path,
        name=name,
        width_px0=shown[0],
        height_px0=shown[1],
        mpp=slide.mpp_xy,
        levels=level_sizes([(level.width_px, level.height_px) for level in slide.levels], shown_px=shown),
        magnification=slide.magnification,
        tile_px=slide.tile_px,
        thumbnail=_thumbnail(slide),
    )


def _thumbnail(slide: Slide) -> bytes:
    """A JPEG file of the whole slide that fits into THUMBNAIL_PX."""
    downsample = max(1.0, slide.width_px0 / THUMBNAIL_PX[0], slide.height_px0 / THUMBNAIL_PX[1])
    size_px = (max(1, int(slide.width_px0 / downsample)), max(1, int(slide.height_px0 / downsample)))
    stream = io.BytesIO()
    pixels = slide.read(0, 0, size_px=size_px, downsample=downsample)
    Picture.fromarray(pixels).save(stream, "JPEG", quality=85, comment=THUMBNAIL_COMMENT)
    return stream.getvalue()


def _labelled(
    images: Sequence[Image], rows: Sequence[Mapping[str, str]], options: CreateOptions, tracker: Tracker
) -> list[Image]:
    """The images with their labels from a table as metadata; without a table as they are."""
    if options.labels is None:
        return list(images)
    entries = [replace(_entry(number, image.path), name=image.name) for number, image in enumerate(images, start=1)]
    values, warnings = match_table(rows, entries, label_key=options.label_key)
    if not values:
        raise ConfigError(f"{options.labels}: no row belongs to a slide", hint=warnings[0] if warnings else "")
    for warning in warnings:
        tracker.say(f"warning: {warning}")
    return [replace(image, metadata=values.get(entry.id, {})) for image, entry in zip(images, entries, strict=True)]


# ---- relink ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found for one entry."""

    id: str
    name: str
    links: Sequence[Link]

    @property
    def result(self) -> EntryResult:
        """The entry's line of the report."""
        changes = [f"{uri_path(link.old)} -> {uri_path(link.new)}" for link in self.links if link.new is not None]
        missing = [link.note for link in self.links if link.missing]
        others = [link.note for link in self.links if link.new is None and not link.missing]
        reason = "; ".join(dict.fromkeys([*missing, *changes]))
        if missing:
            return EntryResult(self.id, self.name, "failed", reason=f"{self.name}: {reason}")
        if changes:
            return EntryResult(self.id, self.name, "done", reason=reason)
        if not self.links:
            return EntryResult(self.id, self.name, "failed", reason=f"{self.name}: the project names no image file")
        return EntryResult(self.id, self.name, "skipped", reason="; ".join(dict.fromkeys(others)))


def relink(project_path: Path, options: RelinkOptions, tracker: Tracker) -> StageReport:
    """Change the addresses of slides that moved to where they are now; entries whose slide is there are left alone.

    Raises:
        ConfigError: neither --map nor --search, or one that cannot be understood.
        ProjectError: the project cannot be read or written.
    """
    began = time.monotonic()
    moves, search = _moves(options), None
    if options.search is not None:
        if not options.search.is_dir():
            raise ConfigError(f"--search {options.search}: no such folder")
        search = Search(options.search, measure)
    if not moves and search is None:
        raise ConfigError("nothing to relink by", hint="give --map OLD=NEW, --search DIR, or both")
    project = project_file.read(project_path)
    found: list[_Found] = []
    tracker.start("relink", len(project.images))
    for image in project.images:
        found.append(_Found(project_file.entry_id(image), _name(image), links(image, moves, search)))
        tracker.advance(1, message=found[-1].name)
    new: dict[str, dict[str, str]] = {}
    for one in found:
        new.setdefault(one.id, {}).update({link.old: link.new for link in one.links if link.new is not None})
    results = tuple(one.result for one in found)
    changes = [
        {"id": one.id, "old": link.old, "new": link.new} for one in found for link in one.links if link.new is not None
    ]
    count = len({change["id"] for change in changes})
    written = 0 if options.dry_run else count
    details = {
        "changed": written,
        "missing": sum(result.status == "failed" for result in results),
        "changes": changes,
    }
    with start_run(project, "relink", options=options, seed=0, dry_run=not written) as run:
        run.began = began
        if written:
            project_file.write(project, beside=changed(project, new))
        tracker.say(f"{project.path}: {written} of {len(found)} entries changed" + _dry(options, count))
        return run.finish(results, details=details)


def _dry(options: RelinkOptions, count: int) -> str:
    return f"; a dry run, {count} would be" if options.dry_run else ""


def _moves(options: RelinkOptions) -> list[Move]:
    moves = []
    for typed in options.map:
        found = moves_of(typed)
        if not found:
            raise ConfigError(
                f"--map {typed!r}: not OLD=NEW with an absolute path or address as OLD",
                hint=r"such as --map 'D:\slides=/data/slides'",
            )
        moves += found
    return moves


def _name(image: Mapping[str, object]) -> str:
    """The name of an entry, or where it has none the name of its file."""
    if image.get("imageName"):
        return str(image["imageName"])
    uri = next((str(one["uri"]) for one in servers.files(image.get("serverBuilder"))), "")
    return (uri_path(uri) or uri).rpartition("/")[2] or "unnamed"
