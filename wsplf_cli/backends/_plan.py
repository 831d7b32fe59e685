"""What replacing wsplf's annotations of an entry takes away and adds: the same for every backend."""

from collections.abc import Sequence
from dataclasses import dataclass

from wsplf_cli.qupath import qpdata
from wsplf_cli.schema import CLASS_KEY, SHAPE_KEY, Annotation, Origin, is_pending


@dataclass(frozen=True, slots=True)
class Plan:
    """``remove``: places among the entry's annotations; ``add``: as they are to be written; ``kept``: how many stay."""

    remove: tuple[int, ...]
    add: tuple[Annotation, ...]
    kept: int


def plan(found: Sequence[Annotation], *, origin: Origin, annotations: Sequence[Annotation]) -> Plan:
    """How ``annotations`` replace the pending, unedited ones of ``origin`` among ``found``, an entry's annotations.

    A shape that a person has decided on already (accepted, rejected or edited as wsplf wrote it) is not written a
    second time. Where nothing would change, nothing is removed and nothing added.
    """
    mine = [place for place, one in enumerate(found) if one.origin == origin != "human"]
    old = [place for place in mine if is_pending(found[place])]
    decided = {_written_as(found[place]) for place in mine if not is_pending(found[place])}
    new = qpdata.mark_all(annotations, origin=origin)
    new = [part for part in new if origin == "human" or _written_as(part) not in decided]
    kept = len(mine) - len(old)
    if [_content(found[place]) for place in old] == [_content(one) for one in new]:
        return Plan(remove=(), add=(), kept=kept)
    return Plan(remove=tuple(old), add=tuple(new), kept=kept)


def _written_as(annotation: Annotation) -> tuple[str, str]:
    """The shape and class that wsplf wrote, whatever they are by now."""
    return annotation.metadata.get(SHAPE_KEY, ""), annotation.metadata.get(CLASS_KEY, "")


def _content(annotation: Annotation) -> tuple[object, ...]:
    """All that is written of one of wsplf's own annotations, but for its id."""
    marks = sorted(annotation.metadata.items())
    measured = sorted(
        (key, repr(float(value))) for key, value in annotation.measurements.items()
    )  # nan equals nan here
    return marks, measured, annotation.path_class, annotation.name, annotation.locked
