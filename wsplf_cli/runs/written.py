"""What each run wrote into an entry, kept in the run's folder: later runs see from it what a person deleted in review.

A file ``wsplf/runs/ID/written/ENTRY-ORIGIN.json.gz`` for each entry: gzipped JSON with, for each annotation, its id,
class, name, measurements and its shape as WKB in base64.
"""

import base64
import binascii
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import shapely

from wsplf_cli import files
from wsplf_cli.errors import ProjectError
from wsplf_cli.runs.history import PastRun, part_undone, past_runs
from wsplf_cli.runs.layout import run_folders, written_file
from wsplf_cli.schema import Annotation, Origin


def keep(run_folder: Path, entry_id: str, *, origin: Origin, annotations: Sequence[Annotation]) -> None:
    """Keep what a run wrote into an entry, with the ids and shapes that are in the project.

    Raises:
        ProjectError: the disk is full, or the folder cannot be written.
    """
    path = written_file(run_folder, entry_id, origin)
    document = {"run_id": run_folder.name, "annotations": [annotation_values(annotation) for annotation in annotations]}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, gzip.compress(json.dumps(document, ensure_ascii=False).encode("utf-8"), 1, mtime=0))
    except OSError as error:
        raise ProjectError(f"cannot write {path}: {error.strerror}") from error


def written(folder: Path, entry_id: str, *, origin: Origin) -> list[Annotation] | None:
    """The annotations that the newest run of an origin wrote into an entry, as it wrote them; None when no run did.

    A write that was undone since does not count, nor one that a killed run did not finish.

    Raises:
        ProjectError: a file cannot be read.
    """
    paths = [path for run in run_folders(folder) if (path := written_file(run, entry_id, origin)).is_file()]
    if not paths:
        return None
    runs = past_runs(folder)
    known = {run.id: run for run in runs}
    counted = [path for path in paths if _counts(known.get(path.parts[-3]), runs, entry_id)]
    newest = max(counted, key=lambda path: _order(path.parts[-3], known), default=None)
    return None if newest is None else _load(newest, origin=origin)


def written_by(run: Path, entry_id: str, *, origin: Origin) -> list[Annotation] | None:
    """The annotations of an origin that one run wrote into an entry, as it wrote them; None when it wrote none.

    Raises:
        ProjectError: the file cannot be read.
    """
    path = written_file(run, entry_id, origin)
    return _load(path, origin=origin) if path.is_file() else None


def _counts(run: PastRun | None, runs: Sequence[PastRun], entry_id: str) -> bool:
    """Whether what a run wrote into an entry is complete and was not undone; true for a run without a journal."""
    if run is None:
        return True
    part = f"entry {entry_id}"
    finished = any(write.part == part and write.decisive and write.done for write in run.writes)
    return finished and not part_undone(run, runs, part=part)


def _order(run_id: str, known: Mapping[str, PastRun]) -> tuple[str, int, str]:
    """Sort key: the second in the run's id, then the order in which the journals began."""
    return run_id[:16], known[run_id].sequence if run_id in known else 0, run_id


def annotation_values(annotation: Annotation) -> dict[str, Any]:
    """What is kept of an annotation as JSON values, its shape to the bit."""
    return {
        "id": str(annotation.id),
        "class": annotation.path_class,
        "name": annotation.name,
        "measurements": files.json_value(annotation.measurements),
        "wkb": base64.b64encode(shapely.to_wkb(annotation.shape)).decode("ascii"),
    }


def annotation_of(values: Mapping[str, Any], *, origin: Origin, run_id: str) -> Annotation:
    """The annotation of such values."""
    return Annotation(
        id=UUID(values["id"]),
        shape=shapely.from_wkb(base64.b64decode(values["wkb"], validate=True)),
        path_class=values["class"],
        origin=origin,
        run_id=run_id,
        name=values["name"],
        measurements={name: value for name, value in values["measurements"].items() if value is not None},
    )


def _load(path: Path, *, origin: Origin) -> list[Annotation]:
    try:
        document = json.loads(gzip.decompress(path.read_bytes()))
        records, run_id = document["annotations"], document["run_id"]
        return [annotation_of(values, origin=origin, run_id=run_id) for values in records]
    except (OSError, EOFError, ValueError, KeyError, TypeError, binascii.Error, shapely.errors.GEOSException) as error:
        raise ProjectError(f"{path}: not a record of what a run wrote ({error})", hint="delete the file") from error
