"""What an annotation is for a class, however the person said it: with wsplf's scripts, or by editing in QuPath.

==============================================  ====================================================================
what the person did                             what the annotation is for a class
==============================================  ====================================================================
drew a polygon of the class                     positive
accepted, edited, locked, named or described    positive, in its present shape
rejected it                                     negative: background with the weight of truth
deleted it, or cut a part off                   negative where it was (see ``regions.removed``)
gave it another class, or none                  negative
gave it the class ``Ignore*`` or ``Disputed``   ignored: neither positive nor negative
drew a polygon of another class                 negative, unless that class only marks an area (see ``AREA_WORDS``)
drew ``Ignore*`` or ``Disputed``                ignored
nothing, to a pseudo-label                      pending, with its confidence
nothing, to a prediction                        nothing: a model would learn from itself
nothing, to a polygon that ``agree`` disputed   ignored, until a person accepts it (positive), rejects it (negative) or
                                                gives it a class
marked the image as reviewed                    pending polygons become positive, all else becomes background
==============================================  ====================================================================

Where two annotations disagree, positive wins over negative: a person who rejects a polygon and draws a better one means
the better one.
"""

import re
from typing import Literal

from wsplf_cli.class_names import class_key, is_a, same_class
from wsplf_cli.schema import CLASS_KEY, DISPUTED, DISPUTED_KEY, Annotation, is_pending

Role = Literal["positive", "pending", "negative", "ignored", ""]

#: The measurement that holds the confidence of a polygon.
CONFIDENCE = "wsplf: confidence"
#: The measurement that holds the area of a polygon.
AREA = "wsplf: area um^2"
#: QuPath ignores classes whose name ends in this, such as Region* and Ignore*.
IGNORED_MARK = "*"
IGNORE = "ignore"
#: First words of classes that mark an area and not a finding ("Region 2"). Such a polygon has no role.
AREA_WORDS = frozenset({"tissue", "region", "roi", "slide", "section", "core", "area", "annotation"})


def role_of(annotation: Annotation, path_class: str) -> Role:  # noqa: PLR0911  one return per line of the table above
    """What an annotation is for a class: "positive", "pending", "negative", "ignored", or "" for nothing.

    "pending" is every polygon of wsplf that no person has decided on, predictions included.
    """
    if annotation.shape.area == 0:
        return ""
    if annotation.origin == "human":
        role = _role_of_drawn(annotation.path_class, path_class)
        if annotation.review != "rejected":
            return role
        return "negative" if role == "positive" else "ignored" if role == "ignored" else ""
    made_for = class_made_for(annotation)
    undecided_class = DISPUTED_KEY in annotation.metadata and same_class(annotation.path_class, DISPUTED)
    present_class = made_for if undecided_class else annotation.path_class
    if not is_a(made_for, path_class):
        decided = annotation.review != "rejected" and not is_pending(annotation)
        return _role_of_drawn(present_class, path_class) if decided else ""
    if not is_a(present_class, path_class):
        return "ignored" if _is_ignored(present_class) else "negative"
    if annotation.review == "rejected":
        return "negative"
    if not is_pending(annotation):
        return "positive"
    return "ignored" if DISPUTED_KEY in annotation.metadata else "pending"


def class_made_for(annotation: Annotation) -> str | None:
    """The class of which wsplf wrote a polygon: of a disputed one, the class that is in dispute."""
    return annotation.metadata.get(DISPUTED_KEY) or annotation.metadata.get(CLASS_KEY, annotation.path_class)


def _role_of_drawn(drawn_class: str | None, path_class: str) -> Role:
    """What a person's polygon of one class is for another class."""
    if not class_key(drawn_class):
        return ""
    if is_a(drawn_class, path_class):
        return "positive"
    if same_class(drawn_class, DISPUTED):
        return "ignored"
    base = class_key(drawn_class)[0]
    if _is_ignored(drawn_class):
        return "ignored" if base.rstrip(IGNORED_MARK).strip() == IGNORE else ""
    first_word = re.match(r"[^\W\d_]*", base)
    return "" if first_word is not None and first_word[0] in AREA_WORDS else "negative"


def _is_ignored(name: str | None) -> bool:
    return name is not None and (same_class(name, DISPUTED) or name.strip().endswith(IGNORED_MARK))
