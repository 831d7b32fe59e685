"""What a pseudolabel run learned of each class, and what is said of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wsplf_cli.cohort.labels import count_classes, display_names
from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.schema import Entry, Tracker
from wsplf_cli.weak.cam import SlideLogits


@dataclass(frozen=True, slots=True)
class Taught:
    """What the slide labels taught of one class: the CAM logits of every slide.

    ``name`` is what to call the class, empty for the only one; ``prepared`` are the slides as the class sees them;
    ``suspects`` are the entry ids whose label is doubted, with why; ``within`` is where tumour was looked for.
    """

    path_class: str
    name: str
    prepared: list[CohortSlide]
    folds: dict[str, int]
    suspects: Mapping[str, str]
    looked: dict[str, SlideLogits]
    within: str


def details_of(taught: Sequence[Taught], of_class: Sequence[Mapping[str, object]]) -> dict[str, object]:
    """What run.json says of the learning: the slides whose label is doubted, and the rest by class if several.

    ``of_class`` is what is said of the scale and the rounds of each class.
    """
    suspects: dict[str, dict[str, str]] = {}
    for own in taught:
        for one in own.prepared:
            if one.entry.id in own.suspects:
                reason = f"{own.name}: {own.suspects[one.entry.id]}" if own.name else own.suspects[one.entry.id]
                before = suspects.get(one.entry.id)
                reason = reason if before is None else f"{before['reason']}; {reason}"
                suspects[one.entry.id] = {"name": one.entry.name, "reason": reason}
    if len(taught) == 1:
        return {**of_class[0], "within": taught[0].within, "suspects": suspects, "folds": taught[0].folds}
    by_class = zip(taught, of_class, strict=True)
    return {
        "classes": {own.name: {**one, "within": own.within, "folds": own.folds} for own, one in by_class},
        "suspects": suspects,
    }


def say_left_out(entries: Sequence[Entry], used: Sequence[Entry], classes: Sequence[str], tracker: Tracker) -> None:
    """Tell how many slides there are to learn from, of each of several classes too, and why others are left out."""
    held_out = sum(entry.held_out for entry in entries)
    unlabelled = len(entries) - held_out - len(used)
    positive = sum(bool(entry.label and entry.label.classes) for entry in used)
    of_class = [f"{count} {name}" for name, count in count_classes(used, display_names(classes)).items() if name]
    each_class = f" ({', '.join(of_class)})" if of_class else ""
    tracker.say(
        f"{len(used)} labelled slides ({positive} positive{each_class}, {len(used) - positive} negative); left out: "
        f"{unlabelled} without label, {held_out} held out"
    )
