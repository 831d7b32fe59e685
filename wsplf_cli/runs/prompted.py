"""SAM's prompts and masks of each polygon of an entry, kept in the run's folder to explain the polygons later.

A file ``wsplf/runs/ID/prompts/ENTRY.json.gz`` for each entry: gzipped JSON with the masks by the polygon's id.
"""

import binascii
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import shapely

from wsplf_cli import files
from wsplf_cli.errors import ProjectError
from wsplf_cli.runs.layout import prompts_file
from wsplf_cli.schema import PromptedMask


def keep_prompted(run_folder: Path, entry_id: str, prompted: Mapping[UUID, Sequence[PromptedMask]]) -> None:
    """Keep SAM's prompts and masks of the polygons of an entry, rounded to level-0 pixels.

    Raises:
        ProjectError: The disk is full, or the folder cannot be written.
    """
    path = prompts_file(run_folder, entry_id)
    document = {str(polygon): [mask_values(mask) for mask in masks] for polygon, masks in prompted.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(path, gzip.compress(json.dumps(document).encode("utf-8"), 6, mtime=0))
    except OSError as error:
        raise ProjectError(f"cannot write {path}: {error.strerror}") from error


def read_prompted(run_folder: Path, entry_id: str) -> dict[UUID, list[PromptedMask]] | None:
    """SAM's prompts and masks of each polygon that a run wrote into an entry; None where it kept none.

    Raises:
        ProjectError: The file is damaged.
    """
    path = prompts_file(run_folder, entry_id)
    if not path.is_file():
        return None
    try:
        document = json.loads(gzip.decompress(path.read_bytes()))
        return {UUID(polygon): [mask_of(values) for values in masks] for polygon, masks in document.items()}
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, binascii.Error) as error:
        raise ProjectError(f"{path}: not a record of SAM's prompts ({error})", hint="delete the file") from error
    except shapely.errors.GEOSException as error:
        raise ProjectError(f"{path}: a mask is no shape ({error})", hint="delete the file") from error


def mask_values(mask: PromptedMask) -> dict[str, Any]:
    """A mask as JSON values, rounded to level-0 pixels."""
    return {
        "points": mask.points_px0.round(1).tolist(),
        "labels": mask.point_labels.tolist(),
        "box": None if mask.box_px0 is None else mask.box_px0.round(1).tolist(),
        "mask": shapely.to_wkt(mask.shape, rounding_precision=0),
        "score": round(mask.score, 4),
        "soft_dice": None if mask.soft_dice is None else round(mask.soft_dice, 4),
        "used": mask.used,
    }


def mask_of(values: Mapping[str, Any]) -> PromptedMask:
    """The mask of such values."""
    box = values["box"]
    return PromptedMask(
        points_px0=np.array(values["points"], np.float32).reshape(-1, 2),
        point_labels=np.array(values["labels"], np.int8),
        box_px0=None if box is None else np.array(box, np.float32),
        shape=shapely.from_wkt(values["mask"]),
        score=float(values["score"]),
        soft_dice=values["soft_dice"],
        used=bool(values["used"]),
    )
