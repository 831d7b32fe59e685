"""Draw one image of a QuPath project as QuPath shows it in review: list of annotations, menu, slide with outlines.

    python examples/draw_review.py PROJECT.qpproj IMAGE-NAME OUT.png

It is a drawing from the project's files, not a screenshot of QuPath. Outlines have the colours of their classes. A
rejected polygon is grey, and the least certain pending one is selected (yellow), as wsplf_next_pending does it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import shapely
from PIL import Image, ImageDraw, ImageFont

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.install_scripts import shipped
from wsplf_cli.geometry import polygonal
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.colours import STANDARD
from wsplf_cli.schema import Annotation, is_pending
from wsplf_cli.slides.entry import entry_slide

LIST_PX, VIEW_PX, ROW_PX, MENU_ROW_PX, BAR_PX, PAD_PX = 430, 660, 30, 24, 34, 12
PAPER, INK, SOFT, LINE, SELECTED = (244, 244, 244), (30, 30, 30), (110, 110, 110), (205, 205, 205), (0, 150, 201)
YELLOW, GREY = (255, 255, 0), (140, 140, 140)
CONFIDENCE = "wsplf: confidence"
SLIDE_COLOURS = 96  # more colours make the file larger and show no difference


def main(path: Path, name: str, out: Path) -> None:
    """Draw one image of a project into a PNG file."""
    project = open_project(path, ProjectOptions())
    entry = next(entry for entry in project.entries() if entry.name == name)
    slide, _ = entry_slide(entry)
    pixels, downsample = slide.thumbnail(VIEW_PX)
    colours = {
        **STANDARD,
        **{path_class.name: path_class.rgb for path_class in project.path_classes() if path_class.rgb},
    }
    annotations = [annotation for annotation in project.annotations(entry.id) if annotation.shape.area > 0]
    pending = sorted(filter(is_pending, annotations), key=confidence)
    selected = pending[0] if pending else None
    canvas = Image.new("RGB", (LIST_PX + pixels.shape[1], BAR_PX + pixels.shape[0]), PAPER)
    thumbnail = Image.fromarray(pixels).quantize(SLIDE_COLOURS, dither=Image.Dither.NONE)
    canvas.paste(thumbnail.convert("RGB"), (LIST_PX, BAR_PX))
    draw = ImageDraw.Draw(canvas)
    for annotation in annotations:
        rgb = YELLOW if annotation is selected else colour(annotation, colours)
        outline(draw, annotation, downsample=downsample, rgb=rgb)
    draw.text((LIST_PX + PAD_PX, 8), f"{name}   label: {entry.metadata.get('label', '-')}", INK, font(15))
    draw.text((PAD_PX, 8), "Annotations", INK, font(15))
    rows(draw, sorted(annotations, key=confidence), selected, colours)
    menu(draw, bottom=canvas.height - 2 * ROW_PX)
    footer(draw, annotations, pending, top=canvas.height - ROW_PX - PAD_PX)
    draw.line([(LIST_PX - 1, 0), (LIST_PX - 1, canvas.height)], LINE, 2)
    draw.line([(0, BAR_PX - 1), (canvas.width, BAR_PX - 1)], LINE, 1)
    canvas.quantize(palette=palette(thumbnail, [*colours.values()]), dither=Image.Dither.NONE).save(out, optimize=True)


def palette(slide: Image.Image, colours: Sequence[Sequence[int]]) -> Image.Image:
    """The palette of the picture: the colours of the slide, of outlines and list, and greys for the letters."""
    greys = [(value, value, value) for value in range(0, 256, 8)]
    others = [*colours, PAPER, INK, SOFT, LINE, SELECTED, YELLOW, GREY, *greys]
    image = Image.new("P", (1, 1))
    image.putpalette([*(slide.getpalette() or [])[: 3 * SLIDE_COLOURS], *(value for rgb in others for value in rgb)])
    return image


def confidence(annotation: Annotation) -> float:
    """The confidence of an annotation, by which the list is sorted; a person's own polygons come last."""
    return annotation.measurements.get(CONFIDENCE, 2.0)


def colour(annotation: Annotation, colours: dict[str, tuple[int, int, int]]) -> tuple[int, int, int]:
    """The colour in which QuPath shows an annotation: its own (grey when rejected), else that of its class."""
    return GREY if annotation.review == "rejected" else colours.get(annotation.path_class or "", GREY)


def state(annotation: Annotation) -> str:
    """What a person decided about an annotation, in a word."""
    if annotation.origin == "human":
        return "drawn"
    if annotation.review != "pending":
        return annotation.review
    return "pending" if is_pending(annotation) else "edited"


def outline(draw: ImageDraw.ImageDraw, annotation: Annotation, *, downsample: float, rgb: Sequence[int]) -> None:
    """The rings of an annotation over the slide."""
    for polygon in polygonal(annotation.shape):
        for ring in (polygon.exterior, *polygon.interiors):
            xy_px = shapely.get_coordinates(ring) / downsample
            draw.line([(LIST_PX + x, BAR_PX + y) for x, y in xy_px], tuple(rgb), 3, joint="curve")


def rows(
    draw: ImageDraw.ImageDraw,
    annotations: Sequence[Annotation],
    selected: Annotation | None,
    colours: dict[str, tuple[int, int, int]],
) -> None:
    """The list of annotations: class, confidence and decision, with a padlock where one is locked."""
    top = BAR_PX + 4
    for x, text in ((44, "class"), (170, CONFIDENCE), (320, "wsplf.review")):
        draw.text((x, top + 6), text, SOFT, font(13))
    for row, annotation in enumerate(annotations, start=1):
        y = top + row * ROW_PX
        if annotation is selected:
            draw.rectangle([4, y, LIST_PX - 6, y + ROW_PX - 2], SELECTED)
        ink = (255, 255, 255) if annotation is selected else INK
        draw.rectangle([16, y + 7, 32, y + 21], fill=colour(annotation, colours), outline=LINE)
        draw.text((44, y + 5), annotation.path_class or "Unclassified", ink, font(15))
        value = annotation.measurements.get(CONFIDENCE)
        draw.text((200, y + 5), "" if value is None else f"{value:.2f}", ink, font(15))
        draw.text((320, y + 5), state(annotation), ink, font(15))
        if annotation.locked:
            padlock(draw, 404, y + 7, ink)


def padlock(draw: ImageDraw.ImageDraw, x: int, y: int, ink: tuple[int, int, int]) -> None:
    """QuPath's sign for a locked annotation."""
    draw.arc([x + 2, y - 1, x + 10, y + 11], 180, 360, ink, 2)
    draw.rectangle([x, y + 5, x + 12, y + 14], ink)


def menu(draw: ImageDraw.ImageDraw, *, bottom: int) -> None:
    """QuPath's menu of scripts once they are installed in the project."""
    names = [Path(name).stem.replace("_", " ") for name in shipped()]
    top = bottom - MENU_ROW_PX * len(names) - PAD_PX
    draw.text((PAD_PX, top - 24), "Automate > Project scripts", SOFT, font(13))
    draw.rectangle([PAD_PX, top, LIST_PX - 2 * PAD_PX, bottom], (255, 255, 255), LINE)
    for row, name in enumerate(names):
        draw.text((2 * PAD_PX, top + PAD_PX // 2 + row * MENU_ROW_PX), name, INK, font(14))


def footer(
    draw: ImageDraw.ImageDraw, annotations: Sequence[Annotation], pending: Sequence[Annotation], *, top: int
) -> None:
    """What wsplf_next_pending says, and the number of annotations that are decided."""
    message = f"{len(pending)} to review" + (f"; this one: confidence {confidence(pending[0]):.2f}" if pending else "")
    decided = sum(not is_pending(annotation) for annotation in annotations)
    draw.text((PAD_PX, top), f"{message}   ({decided} decided or drawn)", INK, font(14))


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which makes the picture the same on every machine."""
    return ImageFont.load_default(size)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
