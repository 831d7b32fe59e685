"""What replacing wsplf's annotations of an entry removes and adds: the same for every backend."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from wsplf_cli.class_names import class_key, spelling_of
from wsplf_cli.qupath import qpdata
from wsplf_cli.schema import CLASS_KEY, SHAPE_KEY, Annotation, Origin, PathClass, is_disputed, is_pending


@dataclass(frozen=True, slots=True)
class Plan:
    """``remove``: indices into the entry's annotations; ``add``: what to write; ``kept``: how many of ours stay."""

    remove: tuple[int, ...]
    add: tuple[Annotation, ...]
    kept: int


def plan(
    existing: Sequence[Annotation],
    *,
    origin: Origin,
    annotations: Sequence[Annotation],
    path_classes: Sequence[PathClass] = (),
) -> Plan:
    """How ``annotations`` replace the pending ones of ``origin`` among the ``existing`` annotations of an entry.

    A shape that a person has decided on already (accepted, rejected or edited) is not written a second time, and a
    disputed one waits for a person. Where nothing would change, nothing is removed and nothing is added. wsplf's
    annotations are written in the spelling of their class among ``path_classes``, the classes of the project.
    """
    if origin != "human":
        annotations = [_as_spelled(annotation, path_classes) for annotation in annotations]
    own_indices = [index for index, annotation in enumerate(existing) if annotation.origin == origin != "human"]
    pending = [index for index in own_indices if is_pending(existing[index]) and not is_disputed(existing[index])]
    decided = {_written_as(existing[index]) for index in own_indices if not is_pending(existing[index])}
    new = qpdata.mark(annotations, origin=origin)
    new = [part for part in new if origin == "human" or _written_as(part) not in decided]
    kept = len(own_indices) - len(pending)
    if [_content(existing[index]) for index in pending] == [_content(annotation) for annotation in new]:
        return Plan(remove=(), add=(), kept=kept)
    return Plan(remove=tuple(pending), add=tuple(new), kept=kept)


def _as_spelled(annotation: Annotation, path_classes: Sequence[PathClass]) -> Annotation:
    if not annotation.path_class:
        return annotation
    known = [path_class.name for path_class in path_classes]
    return replace(annotation, path_class=spelling_of(annotation.path_class, known))


def _written_as(annotation: Annotation) -> tuple[str, tuple[str, ...]]:
    """Hash of the shape, and class, as wsplf wrote them."""
    return annotation.metadata.get(SHAPE_KEY, ""), class_key(annotation.metadata.get(CLASS_KEY))


def _content(annotation: Annotation) -> tuple[object, ...]:
    """All that is written of one of wsplf's annotations, except its id."""
    marks = sorted(annotation.metadata.items())
    # as text, NaN equals NaN
    measurements = sorted((name, repr(float(value))) for name, value in annotation.measurements.items())
    return marks, measurements, annotation.path_class, annotation.name, annotation.locked
