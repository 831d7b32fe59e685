"""What a person decided on a polygon, in sentences."""

from dataclasses import replace
from uuid import uuid4

import pytest
from shapely import box

from wsplf_cli.explain.decisions import describe_decisions
from wsplf_cli.explain.subject import Subject
from wsplf_cli.review.memory import Review
from wsplf_cli.schema import (
    CLASS_KEY,
    DESCRIPTION_KEY,
    DISPUTED,
    DISPUTED_KEY,
    NAME_KEY,
    READERS_KEY,
    REVIEWED_KEY,
    Annotation,
)

WRITTEN = Annotation(
    uuid4(), box(0, 0, 100, 100), "Tumor", "pseudolabel", metadata={CLASS_KEY: "Tumor", NAME_KEY: ""}, run_id="r"
)
REMOVED = Review("1", removed={"Tumor": (box(0, 0, 9, 9), box(20, 0, 29, 9))})


def decided(make_entry, *, reviewed="", of_image=None, **changes):
    entry = make_entry("a.tif", metadata={REVIEWED_KEY: reviewed})
    subject = Subject(entry, "a.tif", replace(WRITTEN, **changes))
    return describe_decisions(subject, of_image or Review("1"), WRITTEN, mpp=0.5)


def described(key, value):
    return {"metadata": dict(WRITTEN.metadata) | {key: value}}


@pytest.mark.parametrize(
    ("changes", "sentence", "meaning"),
    [
        ({}, "No person has decided on it yet.", "So the next run of pseudolabel replaces it"),
        ({"review": "accepted"}, "A person accepted it.", "So the next run learns from it as Tumor"),
        ({"review": "rejected"}, "A person rejected it.", "So the next run learns from it as background"),
        ({"locked": True}, "A person locked it.", "So the next run learns from it as Tumor"),
        ({"name": "check"}, "A person named it 'check'.", "So the next run learns from it as Tumor"),
        (described(DESCRIPTION_KEY, "odd"), "A person described it: odd", "So the next run learns from it as Tumor"),
        (
            {"path_class": "Ignore*", "edited": True},
            "A person gave it the class Ignore*; wsplf wrote Tumor.",
            "So the next run learns nothing from it.",
        ),
        (
            {"shape": box(0, 0, 100, 50), "edited": True},
            "A person changed its shape: 2,500 µm² as wsplf wrote it, 1,250 µm² now, IoU 0.50.",
            "So the next run learns from it as Tumor",
        ),
        (
            {
                "path_class": DISPUTED,
                "metadata": {CLASS_KEY: DISPUTED, NAME_KEY: "", DISPUTED_KEY: "Tumor", READERS_KEY: "A: accepted"},
            },
            "Readers disagreed on it: A: accepted.",
            "So the next run learns nothing from it.",
        ),
        ({"origin": "prediction"}, "No person has decided on it yet.", "So the next run of segment replaces it"),
    ],
)
def test_each_decision_has_its_sentence_and_its_meaning(changes, sentence, meaning, make_entry):
    sentences = decided(make_entry, **changes)
    assert sentences[0] == sentence
    assert len(sentences) == 2
    assert sentences[1].startswith(meaning)


def test_in_a_reviewed_image_a_pending_polygon_counts_as_right(make_entry):
    sentences = decided(make_entry, reviewed="2026-01-31 A. Person")
    assert sentences[0] == "The image is marked as reviewed: 2026-01-31 A. Person."
    assert sentences[-1].startswith("So the next run learns from it as Tumor")


def test_deletions_on_the_image_are_told(make_entry):
    assert "On this image people deleted 2 areas of this class; nothing is drawn there again." in decided(
        make_entry, of_image=REMOVED
    )
