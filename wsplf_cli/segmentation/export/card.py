"""The model card: what a model learned from, how it was measured, what it is for. What is not known is said so.

It names no slide, because the names of slides can name patients.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsplf_cli import __version__
from wsplf_cli.runs.layout import run_file, run_folder
from wsplf_cli.schema import Entry
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.operating_point import describe_bounds


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """What the record of a training and the project say of it.

    Attributes:
        run: The content of run.json.
        patients: Distinct patients of the slides that were learned from, as the project names them now.
        slides_without_patient: Slides that were learned from and have no patient there, or are gone.
    """

    run: Mapping[str, Any]
    patients: int
    slides_without_patient: int

    @property
    def slides(self) -> list[Mapping[str, Any]]:
        """The slides that were learned from, as run.json has them."""
        return [entry for entry in self.run.get("entries", []) if entry.get("status") == "done"]

    @property
    def details(self) -> Mapping[str, Any]:
        """The results of the training."""
        return dict(self.run.get("details") or {})

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the training."""
        return dict(self.run.get("options") or {})


def read_training(project_folder: Path, run_id: str, entries: Sequence[Entry]) -> TrainingRecord | None:
    """The record of a training in a project; None where the project has none that can be read.

    Args:
        project_folder: The folder of the project.
        run_id: The run of the training.
        entries: The entries of the project, which name the patients.
    """
    try:
        run = json.loads(run_file(run_folder(project_folder, run_id)).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(run, dict) or run.get("stage") != "train":
        return None
    patient_of = {entry.id: entry.metadata.get("patient", "").strip() for entry in entries}
    learned = [str(entry.get("id")) for entry in run.get("entries", []) if entry.get("status") == "done"]
    patients = [patient_of.get(entry_id, "") for entry_id in learned]
    return TrainingRecord(run, len({name for name in patients if name}), patients.count(""))


def model_card(name: str, checkpoint: Checkpoint, training: TrainingRecord | None) -> str:
    """The card as Markdown, with the front matter of the Hugging Face Hub.

    Args:
        name: Name of the model.
        checkpoint: The description of the model.
        training: The record of its training; None where it is not known.
    """
    classes = ", ".join(checkpoint.classes)
    sections = [
        _FRONT,
        f"# {name}",
        f"A segmentation model for histology slides, trained with wsplf {checkpoint.version}. It outlines: {classes}.",
        "## The model",
        _table(checkpoint),
        "## What it learned from",
        _training_data(checkpoint, training),
        "## Scores, and how they were measured",
        _scores(checkpoint, training),
        _USE.format(name=name, mpp=checkpoint.mpp, onnx=_ONNX_OF_SAM if checkpoint.plugin == "sam" else _ONNX),
    ]
    return "\n\n".join(sections)


def _table(checkpoint: Checkpoint) -> str:
    settings = ", ".join(f"{key} {value}" for key, value in checkpoint.settings.items())
    networks = f", the mean of {checkpoint.networks} networks" if checkpoint.networks > 1 else ""
    rows = {
        "architecture": f"{checkpoint.plugin}{f' ({settings})' if settings else ''}{networks}",
        "classes, in the order of the outputs": ", ".join(checkpoint.classes),
        "pixel size of the input": f"{checkpoint.mpp:g} um per pixel",
        "tiles that it was trained on": f"{checkpoint.tile_px} x {checkpoint.tile_px} pixels, RGB",
        "output": "the probability of each class at every pixel; the classes do not sum to 1",
        "threshold": f"a pixel belongs to a class from a probability of {checkpoint.threshold:g} on",
        "run of the training": checkpoint.run_id,
    }
    described = describe_bounds(checkpoint.bounds, checkpoint.confidences, checkpoint.slide_confidences)
    # models of earlier versions have no bounds
    for path_class, sentence in zip(checkpoint.classes, described, strict=False):
        rows[f"polygons of {path_class}"] = (
            f"{sentence} (`wsplf segment` leaves out what is below, other programs do not)"
        )
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def _training_data(checkpoint: Checkpoint, training: TrainingRecord | None) -> str:
    if training is None:
        return f"Not known: the project has no record of the training, {checkpoint.run_id}."
    counts = Counter[str]()
    for entry in training.slides:
        counts.update({key: int(value) for key, value in dict(entry.get("counts") or {}).items()})
    without = sum(not _polygons(entry) for entry in training.slides)
    options = training.options
    started = str(training.run.get("started", "")) or "not known"
    weights = Path(str(options.get("backbone_weights") or options.get("sam_checkpoint") or "")).name
    weights = weights or "the default weights of its architecture"
    rows = [
        f"- {len(training.slides)} slides, {without} of them without a polygon of the classes (known negatives)",
        f"- {_patients(training)}",
        f"- {counts['positive']} polygons that a person drew, accepted or corrected",
        f"- {counts['pending']} pseudo-labels that no person had looked at, made from the labels of whole slides",
        f"- {counts['negative']} areas that a person marked as background",
        f"- {counts['reviewed']} of the slides were reviewed as a whole by a person",
        f"- begun {started}; {options.get('epochs', 'an unknown number of')} epochs, seed"
        f" {training.run.get('seed', 'not known')}; started from {weights}",
        "- organ, stain, scanner and site of the slides: not recorded; who passes the model on should add them",
    ]
    return "\n".join(rows)


def _polygons(entry: Mapping[str, Any]) -> int:
    counts = dict(entry.get("counts") or {})
    return int(counts.get("positive", 0)) + int(counts.get("pending", 0))


def _patients(training: TrainingRecord) -> str:
    if not training.patients:
        return "patients: not recorded"
    missing = training.slides_without_patient
    return f"patients: {training.patients}" + (f"; the patient of {missing} slides is not recorded" if missing else "")


def _scores(checkpoint: Checkpoint, training: TrainingRecord | None) -> str:
    dice = checkpoint.scores.get("validation_dice")
    if dice is None:
        return (
            "None. There were too few patients with polygons to hold some out, so the threshold is a default.\n\n"
            "It was not measured against an independent truth."
        )
    held_out = None if training is None else training.details.get("validation_slides")
    count = "a number that is not known" if held_out is None else str(len(held_out))
    return (
        f"Dice {dice:.3f} at the threshold {checkpoint.threshold:g}, pooled over pixels of {count} slides, each"
        " predicted by a network that did not learn from its patient (from the slide itself, where patients are not"
        " known). The reference is the polygons in the project at that time, pseudo-labels included. The threshold was"
        " chosen on the same pixels, so expect less elsewhere.\n\n"
        "It was not measured against an independent truth as part of the training; add what `wsplf evaluate` says on"
        " slides of your own."
    )


_FRONT = f"""\
---
library_name: wsplf
pipeline_tag: image-segmentation
tags:
- histopathology
- whole-slide-images
- segmentation
- qupath
metrics:
- dice
# license: of these weights, for you to choose and write here; see the end of this card
# written by wsplf {__version__}
---"""

_ONNX = """\
- The sides of the input of `model.onnx` are multiples of `multiple_px`, which stands in its metadata and in
  `model.onnx.json`.
- In QuPath 0.5 to 0.7: *wsplf apply model* makes a pixel classifier of `model.onnx`."""

_ONNX_OF_SAM = """\
- `model.onnx` takes one tile of the size above at a time. It does not run in QuPath."""

_USE = """\
## Intended use

Research: to propose outlines on histology slides, which a person reviews. It is not a medical device, and no diagnosis
may rest on it.

## Limits

- Slides of other organs, stains, scanners or laboratories than those that it learned from can look unlike anything
  that it has seen. Measure it on some of yours first.
- It sees tiles at {mpp:g} um per pixel. Slides that are coarser than that cannot give them.
- A probability is the network's, and not calibrated to how often it is right.
- What the pseudo-labels it learned from miss or add, it can miss or add too.

## How to use it

- `wsplf segment PROJECT --model FOLDER` with this folder (format `hf`), or `--model FOLDER/model.onnx`, writes its
  outlines into a QuPath project.
- `model.onnx` and `model.pt` (TorchScript) take RGB as float32 [batch, 3, height, width] in 0..255 and give the
  probability of each class as float32 [batch, class, height, width].
{onnx}

## Licence

wsplf, the code, is under GPL-3.0-or-later. The licence of these weights is not set: it is for those who trained
{name} to choose, as the terms of the slides and of the weights that it started from allow.
"""
