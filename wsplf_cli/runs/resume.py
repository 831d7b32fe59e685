"""What a stopped run had finished, slide by slide, so that the next run of the same command goes on from there.

A file ``wsplf/resume/COMMAND/STEP-KEY.npz`` for each slide and step. KEY is a digest of all that the result depends on
(see ``cache.key_of``, which adds the version of wsplf), so whatever has changed since is computed again. The folder is
removed when a run of the command ends. Files hold arrays and one JSON document, no pickles; a damaged one is ignored.
"""

import io
import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
import shapely
from numpy.typing import NDArray

from wsplf_cli import files
from wsplf_cli.runs.prompted import mask_of, mask_values
from wsplf_cli.runs.written import annotation_of, annotation_values
from wsplf_cli.schema import Annotation, Origin, PromptedMask

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Name of the JSON document among the arrays of a file.
_DOCUMENT = "document"
#: What reading a damaged file raises.
_DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile),
    shapely.errors.GEOSException,
)


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of one step on one slide, as it is kept: arrays by name, and JSON values."""

    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    document: Any = None


class ResumeStore:
    """The finished steps of one command on the slides of one project.

    Args:
        folder: Where the files lie, which only the run that holds the project's lock may use; None keeps nothing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def get(self, step: str, key: str, read: Callable[[Finished], T]) -> T | None:
        """The result of a step that a stopped run has kept, as ``read`` makes it of the file; None without one."""
        path = self._path(step, key)
        if path is None or not path.is_file():
            return None
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return read(Finished(arrays, json.loads(arrays.pop(_DOCUMENT).tobytes())))
        except _DAMAGED as error:
            log.info("%s is damaged and computed again: %s", path, error)
            return None

    def put(self, step: str, key: str, finished: Finished) -> None:
        """Keep the result of a step. On a full disk it is not kept, which stops nothing."""
        path = self._path(step, key)
        if path is None:
            return
        document = np.frombuffer(json.dumps(finished.document).encode(), np.uint8)
        stream = io.BytesIO()
        arrays: dict[str, Any] = {**finished.arrays, _DOCUMENT: document}
        np.savez(stream, **arrays)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.write_bytes(path, stream.getvalue())
        except OSError as error:
            log.info("not kept for a later run: %s: %s", path, error)

    def clear(self) -> None:
        """Remove everything: the run has ended."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, step: str, key: str) -> Path | None:
        return None if self.folder is None else self.folder / f"{step}-{key}.npz"


def finished_polygons(
    annotations: Sequence[Annotation],
    prompted: Mapping[UUID, Sequence[PromptedMask]],
    counts: Mapping[str, float],
) -> Finished:
    """The polygons of a slide as they are kept, with SAM's masks of each (see ``SlideResult``) and the counts."""
    polygons = [
        {
            **annotation_values(annotation),
            "metadata": dict(annotation.metadata),
            "prompted": [mask_values(mask) for mask in prompted.get(annotation.id, ())],
        }
        for annotation in annotations
    ]
    return Finished(document={"polygons": polygons, "counts": dict(counts)})


def polygons_of(
    finished: Finished, *, origin: Origin, run_id: str, id_of: Callable[[int], UUID]
) -> tuple[tuple[Annotation, ...], dict[UUID, list[PromptedMask]], dict[str, float]]:
    """Kept polygons as those of another run, ``id_of`` their number; SAM's masks by these ids; and the counts."""
    annotations, prompted = [], {}
    for number, values in enumerate(finished.document["polygons"]):
        annotation = annotation_of(values, origin=origin, run_id=run_id)
        annotation = replace(annotation, id=id_of(number), metadata=values["metadata"])
        annotations.append(annotation)
        prompted[annotation.id] = [mask_of(mask) for mask in values["prompted"]]
    return tuple(annotations), prompted, finished.document["counts"]
