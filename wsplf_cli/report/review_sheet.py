"""The review sheet: every pending polygon of a project with its thumbnails, the least certain first.

The page holds the thumbnails as text and shows a few cards at a time, so that it opens at once with thousands of
polygons. It is one file, needs no server and loads nothing from elsewhere.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import shapely
from markupsafe import Markup
from shapely.affinity import translate

from wsplf_cli import files
from wsplf_cli.backends import Project
from wsplf_cli.errors import SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.pages.pictures import jpeg_base64, outline_path
from wsplf_cli.pages.template import heading, load_template
from wsplf_cli.review.on_image import on_image
from wsplf_cli.review.order import least_certain
from wsplf_cli.review.roles import AREA, CONFIDENCE
from wsplf_cli.schema import READERS_KEY, Annotation, Entry, Tracker, is_disputed, is_pending, titles
from wsplf_cli.slides.entry import choose_pixel_size, slide_of
from wsplf_cli.slides.open import Slide

#: Longest and shortest side of a thumbnail, and the bytes that all of them may take together.
MOST_PX, LEAST_PX, THUMBNAIL_BYTES = 200, 96, 80_000_000
#: Bytes per pixel of a thumbnail of dense tissue at this quality, in base64.
JPEG_QUALITY, BYTES_PER_PIXEL = 68, 0.6
#: More thumbnails than this would not fit even at the shortest side; the most certain polygons go without.
MOST_CARDS_WITH_THUMBNAILS = int(THUMBNAIL_BYTES / (2 * BYTES_PER_PIXEL * LEAST_PX**2))
#: The close view is this much wider than the polygon; the other shows its surroundings, at least so many micrometres.
CLOSE_FACTOR, CONTEXT_FACTOR, CONTEXT_UM = 1.5, 6.0, 1500.0


@dataclass(frozen=True, slots=True)
class Pending:
    """A pending polygon: its entry with its title, and the area where the pixel size is known."""

    entry: Entry
    title: str
    annotation: Annotation
    mpp: float | None

    @property
    def entry_id(self) -> str:
        """The id of the entry."""
        return self.entry.id

    @property
    def confidence(self) -> float | None:
        """The confidence 0..1; None where the polygon has none."""
        value = self.annotation.measurements.get(CONFIDENCE)
        return None if value is None or math.isnan(value) else value

    @property
    def area_um2(self) -> float | None:
        """The area of its present shape, or as it was measured where the pixel size is not known."""
        if self.mpp is None:
            return self.annotation.measurements.get(AREA)
        return float(self.annotation.shape.area) * self.mpp**2


def render_sheet(
    project: Project, entries: Sequence[Entry], options: ProjectOptions, tracker: Tracker
) -> tuple[str, int]:
    """The review sheet as HTML, and the number of entries whose annotations could not be read.

    A polygon of a slide that cannot be read has no thumbnail, and its card says why. An entry whose annotations cannot
    be read is named at the top of the page.
    """
    polygons: list[Pending] = []
    problems: list[tuple[str, str]] = []
    for entry, title in zip(entries, titles(entries), strict=True):
        try:
            polygons += pending_polygons(project, entry, title, mpp_override=options.mpp_override)
        except SlideError as error:
            problems.append((title, error.message))
            tracker.say(f"{title}: left out, {error.message}")
    polygons = [polygons[index] for index in least_certain(polygons)]
    with_thumbnail = {id(polygon) for polygon in polygons[:MOST_CARDS_WITH_THUMBNAILS]}
    side_px = thumbnail_side_px(len(polygons))
    cards: dict[int, tuple[dict[str, Any], str]] = {}
    tracker.start("review sheet", len(polygons))
    slide_order = {entry.id: index for index, entry in enumerate(entries)}
    for index in sorted(range(len(polygons)), key=lambda index: slide_order[polygons[index].entry.id]):
        polygon = polygons[index]
        reason = "" if id(polygon) in with_thumbnail else f"only the first {len(with_thumbnail)} have thumbnails"
        cards[index] = make_card(polygon, side_px=side_px, no_thumbnail=reason)
        tracker.advance(1, message=polygon.title)
    ordered = [cards[index] for index in range(len(polygons))]
    document = json.dumps(files.json_value([card for card, _ in ordered]), ensure_ascii=False, separators=(",", ":"))
    page = load_template("review.html").render(
        **heading(project),
        side_px=side_px,
        cards=Markup(document.replace("<", "\\u003c")),
        thumbnails=[thumbnails for _, thumbnails in ordered],
        slides=len({polygon.entry.id for polygon in polygons}),
        problems=problems,
    )
    return page, len(problems)


def pending_polygons(project: Project, entry: Entry, title: str, *, mpp_override: float | None) -> list[Pending]:
    """The polygons of an entry on which no person has decided; none in an image that is marked as reviewed.

    Raises:
        SlideError: the annotations cannot be read.
    """
    if entry.reviewed:
        return []
    annotations = on_image(project.annotations(entry.id), entry).annotations
    pending = [annotation for annotation in annotations if is_pending(annotation)]
    if not pending:
        return []
    mpp = entry.mpp
    try:
        mpp = choose_pixel_size(entry, slide_of(entry), mpp_override=mpp_override).mpp
    except SlideError:
        mpp = mpp or mpp_override
    return [Pending(entry, title, annotation, mpp) for annotation in pending]


def thumbnail_side_px(cards: int) -> int:
    """The side of the thumbnails of so many cards, with which all of them fit into a page."""
    fitting = math.sqrt(THUMBNAIL_BYTES / (2 * BYTES_PER_PIXEL * max(cards, 1)))
    return int(min(MOST_PX, max(LEAST_PX, fitting)))


def make_card(polygon: Pending, *, side_px: int, no_thumbnail: str = "") -> tuple[dict[str, Any], str]:
    """What the page shows of a polygon, and its two thumbnails (close, surroundings) as base64 in two lines.

    ``no_thumbnail`` is a reason to leave them out; so is an image that cannot be read.
    """
    annotation = polygon.annotation
    left, top, right, bottom = annotation.shape.bounds
    centre = shapely.Point((left + right) / 2, (top + bottom) / 2)
    extent_px0 = max(right - left, bottom - top, 1.0)
    context_px0 = max(CONTEXT_FACTOR * extent_px0, CONTEXT_UM / polygon.mpp if polygon.mpp else 0.0)
    outlines, thumbnails, problem = [], [], no_thumbnail
    if not problem:
        try:
            slide = slide_of(polygon.entry)
            for window_px0 in (CLOSE_FACTOR * extent_px0, context_px0):
                corner = (centre.x - window_px0 / 2, centre.y - window_px0 / 2)
                thumbnails.append(_thumbnail(slide, corner, window_px0, side_px=side_px))
                outlines.append(_outline(annotation, corner, window_px0 / side_px))
        except SlideError as error:
            outlines, thumbnails, problem = [], [], error.message
    card = {
        "id": str(annotation.id),
        "slide": polygon.title,
        "class": annotation.path_class or "",
        "origin": annotation.origin,
        "disputed": annotation.metadata.get(READERS_KEY, "") if is_disputed(annotation) else "",
        "confidence": polygon.confidence,
        "area": polygon.area_um2,
        "x": round(centre.x),
        "y": round(centre.y),
        "width": round(right - left),
        "height": round(bottom - top),
        "outlines": outlines,
        "problem": problem,
    }
    return card, "\n".join(thumbnails)


def _thumbnail(slide: Slide, corner_px0: tuple[float, float], window_px0: float, *, side_px: int) -> str:
    pixels = slide.read(*corner_px0, size_px=(side_px, side_px), downsample=window_px0 / side_px)
    return jpeg_base64(pixels, quality=JPEG_QUALITY)


def _outline(annotation: Annotation, corner_px0: tuple[float, float], downsample: float) -> str:
    """The outline as the data of an SVG path in pixels of the thumbnail."""
    moved = translate(annotation.shape, -corner_px0[0], -corner_px0[1])
    return outline_path([moved], downsample=downsample)
