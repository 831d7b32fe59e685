"""What a person decided on a polygon since wsplf wrote it, and what it means for the next run."""

from collections.abc import Sequence

from wsplf_cli.class_names import same_class
from wsplf_cli.explain.subject import Subject
from wsplf_cli.review.memory import Review
from wsplf_cli.review.roles import class_made_for, role_of
from wsplf_cli.schema import (
    DESCRIPTION_KEY,
    NAME_KEY,
    READERS_KEY,
    REVIEWED_KEY,
    Annotation,
    is_disputed,
    is_pending,
)

#: Shapes whose IoU is above this are the same but for rounding.
_SAME_IOU = 0.999
_MEANING = {
    "positive": "the next run learns from it as {path_class}, in its present shape",
    "negative": "the next run learns from it as background",
    "ignored": "the next run learns nothing from it",
    "pending": "the next run of pseudolabel replaces it; train learns from it with its confidence",
    "": "the next run learns nothing from it",
}


def describe_decisions(subject: Subject, review: Review, as_written: Annotation | None, *, mpp: float) -> list[str]:
    """Sentences on what a person decided, the last one on what follows from it.

    Args:
        subject: The polygon.
        review: What a person's review says of the entry.
        as_written: The polygon as the run wrote it, where that is known.
        mpp: Micrometres per pixel at level 0, to state areas.
    """
    annotation = subject.annotation
    made_for = class_made_for(annotation) or ""
    sentences = []
    if annotation.review == "accepted":
        sentences.append("A person accepted it.")
    elif annotation.review == "rejected":
        sentences.append("A person rejected it.")
    if not same_class(annotation.path_class, made_for) and not is_disputed(annotation):
        sentences.append(f"A person gave it the class {annotation.path_class or 'none'}; wsplf wrote {made_for}.")
    sentences += _change_of_shape(annotation, as_written, mpp=mpp)
    if annotation.locked:
        sentences.append("A person locked it.")
    if annotation.name != annotation.metadata.get(NAME_KEY, annotation.name):
        sentences.append(f"A person named it {annotation.name!r}.")
    if text := annotation.metadata.get(DESCRIPTION_KEY):
        sentences.append(f"A person described it: {text}")
    if readers := annotation.metadata.get(READERS_KEY):
        sentences.append(f"Readers disagreed on it: {readers}.")
    if subject.entry.reviewed:
        sentences.append(f"The image is marked as reviewed: {subject.entry.metadata.get(REVIEWED_KEY, '')}.")
    if not sentences and is_pending(annotation):
        sentences.append("No person has decided on it yet.")
    if removed := review.removed.get(made_for, ()):
        sentences.append(_removed(len(removed)))
    role = role_of(annotation, made_for)
    if role == "pending" and subject.entry.reviewed:
        role = "positive"
    elif role == "pending" and annotation.origin == "prediction":
        meaning = "the next run of segment replaces it, and train learns nothing from it"
        return [*sentences, f"So {meaning}."]
    return [*sentences, f"So {_MEANING[role].format(path_class=made_for)}."]


def _change_of_shape(annotation: Annotation, as_written: Annotation | None, *, mpp: float) -> Sequence[str]:
    if as_written is None:
        changed_class = not same_class(annotation.path_class, class_made_for(annotation))
        return ["A person changed its shape."] if annotation.edited and not changed_class else []
    before, now = as_written.shape, annotation.shape
    union = before.union(now).area
    iou = before.intersection(now).area / union if union else 1.0
    if iou > _SAME_IOU:
        return []
    areas = [shape.area * mpp**2 for shape in (before, now)]
    return [
        f"A person changed its shape: {areas[0]:,.0f} µm² as wsplf wrote it, {areas[1]:,.0f} µm² now, IoU {iou:.2f}."
    ]


def _removed(count: int) -> str:
    areas = "an area" if count == 1 else f"{count} areas"
    return f"On this image people deleted {areas} of this class; nothing is drawn there again."
