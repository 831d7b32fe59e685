"""A segmentation model in and around a polygon: its probabilities, computed again, and what the model is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsplf_cli.errors import WsplfError
from wsplf_cli.review.roles import class_made_for
from wsplf_cli.runs.history import read_record
from wsplf_cli.runs.layout import run_file, run_folder
from wsplf_cli.schema import MODEL_KEY, Annotation, Entry, Step, TissueMask
from wsplf_cli.segmentation.loading import LoadedModel, find_model, load_model
from wsplf_cli.segmentation.predict import model_canvas
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.open import slide_for
from wsplf_cli.slides.window import WindowCounter, infer_strips

#: Pixels of the model on a side of what is predicted again; of larger polygons the middle is shown.
MOST_PX = 2048


@dataclass(frozen=True, slots=True)
class ModelView:
    """The model of a prediction: its config.json, and the record of the run that trained it (empty where it is gone).

    ``loaded`` is None where the model is gone or was trained again since; ``missing`` says so.
    """

    name: str
    run_id: str
    config: Mapping[str, Any]
    training: Mapping[str, Any]
    loaded: LoadedModel | None
    missing: str = ""


@dataclass(frozen=True, slots=True)
class ProbabilityMap:
    """Probabilities 0..1 of a part of a slide: ``values`` as a map, whose first cell begins at ``origin_px0``."""

    origin_px0: tuple[float, float]
    values: SlideMap


def read_model(project_folder: Path, annotation: Annotation, record: Mapping[str, Any]) -> ModelView:
    """The model that a prediction came from, as far as it is still there."""
    run_id = annotation.metadata.get(MODEL_KEY, "")
    options = record.get("options")
    name = str(options.get("model", "default")) if isinstance(options, dict) else "default"
    training = read_record(run_file(run_folder(project_folder, run_id))) if run_id else {}
    folder = find_model(project_folder, name)
    details = record.get("details")
    threshold = details.get("threshold") if isinstance(details, dict) else None
    try:
        loaded = load_model(folder, threshold=threshold, device="auto")
    except WsplfError as error:
        return ModelView(name, run_id, {}, training, None, f"The model {name} cannot be loaded: {error.message}.")
    if run_id and loaded.checkpoint.run_id != run_id:
        missing = f"The model {name} was trained again since (run {loaded.checkpoint.run_id}): its map is not shown."
        return ModelView(name, run_id, {}, training, None, missing)
    return ModelView(name, run_id, asdict(loaded.checkpoint), training, loaded)


def probability_map(
    model: LoadedModel, entry: Entry, tissue: TissueMask, annotation: Annotation, *, mpp: float
) -> ProbabilityMap:
    """The model's probabilities of the polygon's class around it, by the windows that cover the slide as in segment.

    Raises:
        SlideError: The slide cannot be read.
    """
    checkpoint = model.checkpoint
    assert entry.slide_path is not None
    whole = slide_for(entry.slide_path, crop_to_bounds=entry.crop_to_bounds, steps=entry.steps)
    canvas = model_canvas(whole, mpp=checkpoint.mpp, window_px=checkpoint.predicted_px, mpp_slide=mpp)
    stride_px0 = canvas.stride_px * canvas.downsample
    x_px0, y_px0, right, bottom = annotation.shape.bounds
    most_px0 = MOST_PX * canvas.downsample
    if max(right - x_px0, bottom - y_px0) > most_px0:
        x_px0, right = _middle(x_px0, right, most_px0)
        y_px0, bottom = _middle(y_px0, bottom, most_px0)
    # Windows begin where those of the whole slide begin, so that the same windows are blended.
    left = max(0, round((x_px0 // stride_px0 - 1) * stride_px0))
    top = max(0, round((y_px0 // stride_px0 - 1) * stride_px0))
    margin_px0 = checkpoint.predicted_px * canvas.downsample
    width = round(min(whole.width_px0, right + margin_px0)) - left
    height = round(min(whole.height_px0, bottom + margin_px0)) - top
    crop = Step("cropped", (left, top, width, height))
    part = slide_for(entry.slide_path, crop_to_bounds=entry.crop_to_bounds, steps=(*entry.steps, crop))
    part_canvas = model_canvas(part, mpp=checkpoint.mpp, window_px=checkpoint.predicted_px, mpp_slide=mpp)
    rows, columns = (
        slice(int(start / tissue.downsample), int(np.ceil((start + length) / tissue.downsample)))
        for start, length in ((top, height), (left, width))
    )
    strips = infer_strips(
        part,
        TissueMask(tissue.mask[rows, columns], tissue.downsample),
        model.infer,
        part_canvas,
        channels=len(checkpoint.classes),
        counter=WindowCounter(),
    )
    values = np.concatenate(list(strips), axis=1)[checkpoint.classes.index(_class_of(model, annotation))]
    return ProbabilityMap((float(left), float(top)), SlideMap(values, canvas.downsample))


def _middle(start: float, end: float, most: float) -> tuple[float, float]:
    """The middle of an interval, at most so long."""
    if end - start <= most:
        return start, end
    return (start + end - most) / 2, (start + end + most) / 2


def _class_of(model: LoadedModel, annotation: Annotation) -> str:
    """The class of the model that a polygon was written as; the first where the model has no such class."""
    written = class_made_for(annotation) or ""
    classes = model.checkpoint.classes
    return written if written in classes else classes[0]
