"""An ONNX file of ``wsplf model export``: what it says of itself, and the network that ONNX Runtime runs."""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wsplf_cli.errors import ConfigError, MissingDependency
from wsplf_cli.segmentation.checkpoint import Checkpoint, from_content
from wsplf_cli.segmentation.export.portable import Contract

#: Names of the network's input and output.
INPUT, OUTPUT = "image", "probability"
#: The keys of the metadata in the file begin with this; their values are JSON.
PREFIX = "wsplf."
SUFFIX = ".onnx"


def properties(checkpoint: Checkpoint, contract: Contract) -> dict[str, Any]:
    """What the file says of itself: the fields of config.json, and the images that the network takes."""
    fields = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    return fields | {"multiple_px": contract.multiple_px, "only_px": contract.only_px}


class OnnxNetwork:
    """A network in an ONNX file, run by ONNX Runtime: RGB float32 [B, 3, H, W] in 0..255 to probabilities.

    Args:
        source: The file, or its content.
        name: What to call it in an error; the path of the file.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: It is not an ONNX file, or not one that wsplf wrote.
        MissingDependency: ONNX Runtime is not installed, or it has no CUDA.
    """

    def __init__(self, source: Path | bytes, *, name: str, device: str = "cpu") -> None:
        runtime = load_library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        providers = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
        try:
            self._session = runtime.InferenceSession(
                str(source) if isinstance(source, Path) else source, options, providers=[providers[device]]
            )
        except Exception as error:  # ONNX Runtime has no common class of its errors
            first = str(error).splitlines()[0]
            raise ConfigError(f"{name} cannot be read as ONNX: {first}", hint=_EXPORT) from error
        self.checkpoint, self.contract = _described(self._session.get_modelmeta().custom_metadata_map, name)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities float32 [B, C, H, W] of images float32 [B, 3, H, W] that the contract allows."""
        step = 1 if self.contract.only_px is not None else max(1, len(images))
        parts = [
            self._session.run([OUTPUT], {INPUT: images[first : first + step]})[0]
            for first in range(0, len(images), step)
        ]
        return np.concatenate(parts)

    def infer(self, windows: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities float32 [B, C, S, S] of windows uint8 [B, S, S, 3], RGB, of any side.

        The last row and column are repeated up to the multiple that the network takes.
        """
        height, width = windows.shape[1:3]
        images = np.ascontiguousarray(windows.transpose(0, 3, 1, 2), dtype=np.float32)
        multiple = self.contract.multiple_px
        padding = ((0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple))
        return self.run(np.pad(images, padding, mode="edge"))[..., :height, :width]


def pick_provider(device: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``: ``auto`` is CUDA where this ONNX Runtime has it.

    Raises:
        ConfigError: ONNX Runtime cannot use the device.
        MissingDependency: ONNX Runtime is not installed.
    """
    available = "CUDAExecutionProvider" in load_library("onnxruntime").get_available_providers()
    if device == "auto":
        return "cuda" if available else "cpu"
    if device == "cpu" or (device == "cuda" and available):
        return device
    raise ConfigError(f"--device {device}: ONNX Runtime finds none here", hint="--device auto")


def load_library(name: str) -> Any:
    """The module of the extra ``onnx``.

    Raises:
        MissingDependency: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependency(f"ONNX files need {name}", hint='pip install "wsplf[onnx]"') from error


_EXPORT = "make one with: wsplf model export PROJECT NAME --out DIR --format onnx"


def _described(values: Mapping[str, str], name: str) -> tuple[Checkpoint, Contract]:
    """What the metadata of a file say of the model, and of the images that it takes."""
    described = {key.removeprefix(PREFIX): value for key, value in values.items() if key.startswith(PREFIX)}
    if not described:
        raise ConfigError(
            f"{name} does not say its classes, pixel size, tile and threshold: wsplf did not write it", hint=_EXPORT
        )
    try:
        content = {key: json.loads(value) for key, value in described.items()}
        contract = Contract(content.pop("multiple_px"), content.pop("only_px"))
    except (ValueError, KeyError) as error:
        raise ConfigError(f"the metadata of {name} are damaged: {error}", hint=_EXPORT) from error
    return from_content(content, name, hint=_EXPORT), contract
