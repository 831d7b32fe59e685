"""What the readers say of one slide, for every class: areas, polygons, and who has read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wsplf_cli.agreement.area import AreaAgreement, compare_areas
from wsplf_cli.agreement.decisions import Polygon, decide
from wsplf_cli.agreement.match import MatchedSlide, Reader
from wsplf_cli.agreement.reading import ReadEntry, read_class, read_entry
from wsplf_cli.errors import SlideError
from wsplf_cli.schema import TissueMask
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.tissue import tissue_mask, tissue_um2


@dataclass(frozen=True, slots=True)
class SlideAgreement:
    """One slide. ``entries`` by reader's index; ``areas`` and ``polygons`` by class, of the readers who read the slide.

    ``mpp`` is micrometres per pixel at level 0, None where nothing says it; areas then are in square pixels, and
    pooled figures leave the slide out. ``note`` says what is not known of the slide, and why.
    """

    slide: MatchedSlide
    entries: Mapping[int, ReadEntry]
    mpp: float | None
    tissue_um2: float | None
    areas: Mapping[str, AreaAgreement] = field(default_factory=dict)
    polygons: Mapping[str, Sequence[Polygon]] = field(default_factory=dict)
    note: str = ""

    @property
    def readers(self) -> list[int]:
        """The readers who have read the slide."""
        return [reader for reader, entry in self.entries.items() if entry.read]


@dataclass(frozen=True, slots=True)
class _Image:
    """What is known of the image of a slide."""

    mpp: float | None
    tissue: TissueMask | None
    note: str = ""


def compare_slide(
    readers: Sequence[Reader], slide: MatchedSlide, classes: Sequence[str], *, rule: str, mpp_override: float | None
) -> SlideAgreement:
    """Compare what the readers say of a slide.

    Raises:
        SlideError: the data of an entry cannot be read.
        ProjectError: what earlier runs left in a project cannot be read.
    """
    entries: dict[int, ReadEntry] = {}
    for reader in slide.readers:
        entry = slide.entries[reader]
        assert entry is not None
        try:
            entries[reader] = read_entry(readers[reader], entry, classes)
        except SlideError as error:
            where = f"{slide.title}, reader {readers[reader].name}"
            raise SlideError(f"{where}: {error.message}", hint=error.hint) from error
    image = _look(slide, mpp_override=mpp_override)
    unit_um2 = 1.0 if image.mpp is None else image.mpp**2
    areas: dict[str, AreaAgreement] = {}
    polygons: dict[str, list[Polygon]] = {}
    for path_class in classes:
        readings = {reader: read_class(entry, path_class) for reader, entry in entries.items() if entry.read}
        polygons[path_class] = decide(readings, path_class, rule=rule, unit_um2=unit_um2)
        areas[path_class] = compare_areas(readings, readers=len(readers), unit_um2=unit_um2, tissue=image.tissue)
    tissue = None if image.tissue is None or image.mpp is None else tissue_um2(image.tissue, mpp_slide=image.mpp)
    return SlideAgreement(slide, entries, image.mpp, tissue, areas, polygons, image.note)


def _look(slide: MatchedSlide, *, mpp_override: float | None) -> _Image:
    """The pixel size and the tissue, from the first reader whose image can be read."""
    entries = [entry for entry in slide.entries if entry is not None]
    reason = ""
    for entry in entries:
        try:
            image, pixel_size = entry_slide(entry, mpp_override=mpp_override)
            return _Image(pixel_size.mpp, tissue_mask(image, mpp_slide=pixel_size.mpp, find_ink=False))
        except SlideError as error:
            reason = reason or error.message
    mpp = next((entry.mpp for entry in entries if entry.mpp is not None), mpp_override)
    unknown = "no kappa" if mpp is not None else "no kappa, and not in the pooled figures"
    return _Image(mpp, None, f"the tissue is not known ({unknown}): {reason}")
