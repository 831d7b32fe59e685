"""The agreement of all slides as ``wsplf agree --json`` prints it."""

from collections.abc import Mapping, Sequence
from typing import Any

from wsplf_cli.agreement.area import AreaAgreement
from wsplf_cli.agreement.decisions import Polygon
from wsplf_cli.agreement.match import MatchedSlide, Reader
from wsplf_cli.agreement.slides import SlideAgreement


def agreement_document(
    readers: Sequence[Reader], slides: Sequence[SlideAgreement], classes: Sequence[str], *, rule: str
) -> dict[str, Any]:
    """What the readers agree on.

    Returns:
        ``readers`` (name, project) and ``rule``; for the class, or in ``classes`` by class where there are several:

        - ``slides``: name, entries (their name by reader), read_by, tissue_um2, the figures below, disputed (number of
          polygons), note.
        - ``pooled``: the same figures over all slides of which the pixel size is known.
        - ``polygons``: id, slide, decisions by reader, outcome by the rule, disputed_um2.
        - ``disagreements``: the polygons with a disputed area, or disputed by the rule; the largest area first.

        Figures: ``area_um2`` and ``undecided_um2`` by reader; ``pairs`` of readers with dice and Cohen's kappa;
        ``majority`` with the dice of each reader; ``fleiss_kappa``. None is what is not defined or not known.
    """
    names = [reader.name for reader in readers]
    by_class = {path_class: _of_class(names, slides, path_class) for path_class in classes}
    figures = {"classes": by_class} if len(classes) > 1 else by_class[classes[0]]
    return {
        "readers": [{"name": reader.name, "project": reader.project.path} for reader in readers],
        "rule": rule,
        **figures,
    }


def unmatched_slides(readers: Sequence[Reader], slides: Sequence[MatchedSlide]) -> list[dict[str, Any]]:
    """The slides that some readers lack: slide, the readers who have it and those who lack it, and a reason or ""."""
    return [
        {
            "slide": slide.title,
            "in": [readers[index].name for index in slide.readers],
            "missing": [reader.name for index, reader in enumerate(readers) if index not in slide.readers],
            "reason": slide.reason,
        }
        for slide in slides
        if len(slide.readers) < len(readers)
    ]


def _of_class(names: Sequence[str], slides: Sequence[SlideAgreement], path_class: str) -> dict[str, Any]:
    pooled = sum((slide.areas[path_class] for slide in slides if slide.mpp is not None), AreaAgreement())
    polygons = [
        (slide, polygon, _polygon(names, slide, polygon)) for slide in slides for polygon in slide.polygons[path_class]
    ]
    disputed = [line for _, polygon, line in polygons if polygon.outcome == "disputed" or polygon.disputed_um2 > 0]
    return {
        "slides": [_slide(names, slide, path_class) for slide in slides],
        "pooled": {"slides": sum(slide.mpp is not None for slide in slides), **_figures(names, pooled)},
        "polygons": [line for _, _, line in polygons],
        "disagreements": sorted(disputed, key=lambda line: -line["disputed_um2"]),
    }


def _slide(names: Sequence[str], slide: SlideAgreement, path_class: str) -> dict[str, Any]:
    entries = {names[index]: entry.name for index, entry in enumerate(slide.slide.entries) if entry is not None}
    unread = [names[reader] for reader in slide.entries if reader not in slide.readers]
    unread_by = ", ".join(unread) if slide.readers else "anybody"
    notes = [slide.note, f"not read by {unread_by}" if unread else ""]
    return {
        "name": slide.slide.title,
        "entries": entries,
        "read_by": [names[reader] for reader in slide.readers],
        "tissue_um2": slide.tissue_um2,
        **_figures(names, slide.areas[path_class]),
        "disputed": sum(polygon.outcome == "disputed" for polygon in slide.polygons[path_class]),
        "note": "; ".join(note for note in notes if note),
    }


def _figures(names: Sequence[str], areas: AreaAgreement) -> dict[str, Any]:
    def kappa(pair: tuple[int, int]) -> float | None:
        return areas.confusions[pair].kappa if pair in areas.confusions else None

    return {
        "area_um2": _by_name(names, areas.marked),
        "undecided_um2": _by_name(names, areas.undecided),
        "pairs": [
            {"readers": [names[pair[0]], names[pair[1]]], "dice": overlap.dice, "kappa": kappa(pair)}
            for pair, overlap in areas.pairs.items()
        ],
        "majority": [{"reader": names[reader], "dice": overlap.dice} for reader, overlap in areas.majority.items()],
        "fleiss_kappa": areas.votes.kappa,
    }


def _polygon(names: Sequence[str], slide: SlideAgreement, polygon: Polygon) -> dict[str, Any]:
    return {
        "id": str(polygon.id),
        "slide": slide.slide.title,
        "decisions": _by_name(names, polygon.decisions),
        "outcome": polygon.outcome,
        "disputed_um2": polygon.disputed_um2,
    }


def _by_name(names: Sequence[str], values: Mapping[int, Any]) -> dict[str, Any]:
    return {names[reader]: value for reader, value in values.items()}
