"""What a person's review says of an entry, whatever way it was said: with the scripts, or by simply editing in QuPath.

=============================================  =====================================================================
what the person did                            what it is for a class
=============================================  =====================================================================
drew a polygon of the class                    decided: truth
accepted, edited, locked, named or described   decided: truth as it is now
rejected it                                    refused: background, with the weight of truth
deleted it, or cut a part off                  refused where it was (see ``removed``)
gave it another class, or none                 refused
gave it an ignored class (``Ignore*``)         ignored: neither truth nor background
drew a polygon of another class                refused, but for classes that only mark places (see ``PLACES``)
drew ``Ignore*``                               ignored
nothing, a pseudo-label                        pending, with its confidence
nothing, a prediction                          nothing: a model would learn from itself
marked the image as reviewed                   ``complete``: what is pending is decided, the rest is background
=============================================  =====================================================================

Where they disagree, truth is stronger than refused: who rejects a polygon and draws a better one means the better one.
"""

import re

from wsplf_cli.class_names import is_a
from wsplf_cli.schema import CLASS_KEY, Annotation, is_pending

CONFIDENCE = "wsplf: confidence"
IGNORED_MARK = "*"
"""QuPath ignores classes whose name ends so, such as Region* and Ignore*."""
IGNORE = "ignore"
PLACES = frozenset({"tissue", "region", "roi", "slide", "section", "core", "area", "annotation"})
"""First words of classes that say where to look, not what is there ("Region 2"): such a polygon teaches nothing."""
SLIVER_UM = 4.0
"""What is left where a polygon was, and is nowhere so wide, is the rest of a corrected outline, not a removal."""


def role_of(annotation: Annotation, path_class: str) -> str:
    """What an annotation is for a class: "positive", "pending", "negative", "ignored", or "" for nothing.

    "pending" is every polygon of wsplf's that no person has decided on, a prediction too.
    """
    if annotation.shape.area == 0:
        return ""
    if annotation.origin == "human":
        role = _role_of_persons(annotation.path_class, path_class)
        return role if annotation.review != "rejected" else {"positive": "negative", "ignored": "ignored"}.get(role, "")
    if not is_a(annotation.metadata.get(CLASS_KEY, annotation.path_class), path_class):
        decided = annotation.review != "rejected" and not is_pending(annotation)
        return _role_of_persons(annotation.path_class, path_class) if decided else ""
    if not is_a(annotation.path_class, path_class):
        return "ignored" if _is_ignored(annotation.path_class) else "negative"
    if annotation.review == "rejected":
        return "negative"
    return "pending" if is_pending(annotation) else "positive"


def _role_of_persons(name: str | None, path_class: str) -> str:
    """What a person's polygon of a class is for another class."""
    if name is None:
        return ""
    if is_a(name, path_class):
        return "positive"
    base = name.split(":")[0].strip().casefold()
    if _is_ignored(name):
        return "ignored" if base.rstrip(IGNORED_MARK).strip() == IGNORE else ""
    first = re.match(r"[^\W\d_]*", base)
    return "" if first is not None and first[0] in PLACES else "negative"


def _is_ignored(name: str | None) -> bool:
    return name is not None and name.strip().endswith(IGNORED_MARK)
