"""What a run keeps of the fit of a class, in one safetensors file: probes, calibration, slides and some instances."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as safetensors_bytes

from wsplf_cli import files
from wsplf_cli.errors import ProjectError
from wsplf_cli.weak.calibration import Calibration, PeakThreshold
from wsplf_cli.weak.class_fit import ClassFit
from wsplf_cli.weak.kept.alike import KeptInstances
from wsplf_cli.weak.linear_probe import FeatureBasis, LinearProbe

FORMAT = 1
#: Key of the JSON document in the header of the file.
_DOCUMENT = "wsplf"


@dataclass(frozen=True, slots=True)
class KeptFit:
    """What a run keeps of the fit of a class.

    ``positive`` are the ids of the slides whose label names the class, ``negative`` those of the others;
    ``suspected`` label errors are among them, with the reason. ``probes`` are by entry id; there are none where the
    recipe only fine-tunes. ``in_sample`` says why they learned from the slides; empty where they are out of fold.
    ``calibration`` and ``peak`` are None where tiles had scales of their own.
    ``epithelium`` tells where was searched; None for all tissue. ``backbone_digest`` is that of the frozen backbone.
    """

    path_class: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    suspected: Mapping[str, str]
    probes: Mapping[str, LinearProbe]
    epithelium: LinearProbe | None
    calibration: Calibration | None
    peak: PeakThreshold | None
    instances: KeptInstances | None
    backbone_digest: str
    in_sample: str


def keep_fit(path: Path, fit: ClassFit) -> None:
    """Write what is kept of a fit, whole or not at all.

    Raises:
        ProjectError: The file cannot be written.
    """
    calibrated = fit.calibrated
    document: dict[str, Any] = {
        "format": FORMAT,
        "path_class": fit.path_class,
        "positive": [slide.entry.id for slide in fit.positive_slides],
        "negative": [slide.entry.id for slide in fit.slides if not slide.is_positive(fit.path_class)],
        "suspected": dict(fit.suspected),
        "calibration": None if calibrated is None or calibrated.calibration is None else asdict(calibrated.calibration),
        "peak": None if calibrated is None or calibrated.peak is None else asdict(calibrated.peak),
        "backbone_digest": fit.backbone_digest,
        "in_sample": "" if fit.probes is None else fit.probes.in_sample,
    }
    arrays: dict[str, NDArray[Any]] = {}
    if fit.probes is not None:
        document["probe_of"], distinct = _distinct(fit.probes.probes)
        arrays |= _probe_arrays("probes", distinct)
        if fit.probes.epithelium is not None:
            arrays |= _probe_arrays("epithelium", [fit.probes.epithelium])
        if fit.probes.instances is not None:
            document["instances_of"] = list(fit.probes.instances.entry_ids)
            arrays |= _instance_arrays(fit.probes.instances)
    content = safetensors_bytes(arrays, metadata={_DOCUMENT: json.dumps(files.json_value(document))})
    try:
        path.parent.mkdir(exist_ok=True)
        files.write_bytes(path, content)
    except OSError as error:
        raise ProjectError(f"cannot write {path}: {error.strerror}") from error


def load_fit(path: Path) -> KeptFit | None:
    """What a run kept of a fit; None where it kept nothing, or a later wsplf wrote it.

    Raises:
        ProjectError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            document = json.loads((file.metadata() or {})[_DOCUMENT])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a mapping
        return _kept_fit(document, arrays) if document["format"] == FORMAT else None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise ProjectError(f"{path}: not a fit that wsplf kept ({error})", hint="delete the file") from error


def _kept_fit(document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> KeptFit:
    distinct = _probes("probes", arrays)
    epithelium = _probes("epithelium", arrays)
    instances = None
    if "instances_of" in document:
        instances = KeptInstances(
            FeatureBasis(arrays["basis.mean"], arrays["basis.spread"], arrays["basis.directions"]),
            tuple(document["instances_of"]),
            arrays["instances.slide_of"],
            arrays["instances.centres_px0"],
            arrays["instances.features"],
            arrays["instances.logits"],
        )
    return KeptFit(
        path_class=document["path_class"],
        positive=tuple(document["positive"]),
        negative=tuple(document["negative"]),
        suspected=document["suspected"],
        probes={entry_id: distinct[index] for entry_id, index in document.get("probe_of", {}).items()},
        epithelium=epithelium[0] if epithelium else None,
        calibration=None if document["calibration"] is None else Calibration(**document["calibration"]),
        peak=None if document["peak"] is None else PeakThreshold(**document["peak"]),
        instances=instances,
        backbone_digest=document["backbone_digest"],
        in_sample=document["in_sample"],
    )


def _distinct(probes: Mapping[str, LinearProbe]) -> tuple[dict[str, int], list[LinearProbe]]:
    """The index of each slide's probe, and the probes: slides that share all folds share one."""
    index_of: dict[bytes, int] = {}
    distinct: list[LinearProbe] = []
    probe_of = {}
    for entry_id, probe in probes.items():
        key = probe.weight.tobytes() + np.float64(probe.bias).tobytes()
        if key not in index_of:
            index_of[key] = len(distinct)
            distinct.append(probe)
        probe_of[entry_id] = index_of[key]
    return probe_of, distinct


def _probe_arrays(name: str, probes: Sequence[LinearProbe]) -> dict[str, NDArray[Any]]:
    return {
        f"{name}.weight": np.stack([probe.weight for probe in probes]).astype(np.float32),
        f"{name}.bias": np.array([probe.bias for probe in probes], np.float64),
    }


def _probes(name: str, arrays: Mapping[str, NDArray[Any]]) -> list[LinearProbe]:
    if f"{name}.weight" not in arrays:
        return []
    biases = arrays[f"{name}.bias"].tolist()
    return [LinearProbe(weight, bias) for weight, bias in zip(arrays[f"{name}.weight"], biases, strict=True)]


def _instance_arrays(instances: KeptInstances) -> dict[str, NDArray[Any]]:
    arrays = {
        "basis.mean": instances.basis.mean,
        "basis.spread": instances.basis.spread,
        "basis.directions": instances.basis.directions,
        "instances.slide_of": instances.slide_of,
        "instances.centres_px0": instances.centres_px0,
        "instances.features": instances.features,
        "instances.logits": instances.logits,
    }
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}
