"""The device, seeds, mixed precision and peak memory of a command."""

import io
import pickle
import random
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsplf_cli.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda`` or ``mps``; ``auto`` is CUDA where there is one, else the CPU.

    Apple's MPS is used only when asked for: in some versions it gave wrong SAM masks without an error.

    Raises:
        ConfigError: The name is unknown, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name not in available:
        raise ConfigError(f"unknown device {name!r}", hint="--device auto, cpu, cuda or mps")
    if not available[name]:
        raise ConfigError(f"--device {name}: torch {torch.__version__} finds none here", hint="--device auto")
    return torch.device(name)


def describe_torch() -> str:
    """The version of torch, the device that it finds and the number of threads, in words."""
    device = "CPU only"
    if torch.cuda.is_available():
        device = f"CUDA: {torch.cuda.get_device_name()}"
    elif torch.backends.mps.is_available():
        device = "Apple MPS (used only with --device mps)"
    return f"{torch.__version__}, {device}, {torch.get_num_threads()} threads"


def cuda_devices() -> int:
    """The number of CUDA devices that torch finds."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def set_threads(threads: int) -> None:
    """Let torch compute with so many threads in this process."""
    torch.set_num_threads(threads)


def pickled(record: object) -> bytes:
    """A record that may hold networks, pickled."""
    stream = io.BytesIO()
    torch.save(record, stream, pickle_protocol=pickle.HIGHEST_PROTOCOL)
    return stream.getvalue()


def unpickled(content: bytes) -> Any:
    """What ``pickled`` was given. What was on a GPU is on this process's first GPU, or on the CPU where there is none.

    Only for what this program pickled itself: unpickling runs code.
    """
    return torch.load(io.BytesIO(content), map_location=_located, weights_only=False)


def _located(storage: Any, location: str) -> Any:
    """A storage that was at a location, here; None for torch's own way."""
    if not location.startswith("cuda"):
        return None
    return storage.cuda(0) if torch.cuda.is_available() else storage


def seed_everything(seed: int) -> np.random.Generator:
    """A NumPy generator for the command, after seeding Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries that we call use the global generator
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision on CUDA devices that have bfloat16, which needs no loss scaling; full precision elsewhere."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


def compute_alone() -> None:
    """Let the networks that this thread runs use one core: the threads beside it use the others."""
    torch.set_num_threads(1)


@dataclass(frozen=True, slots=True)
class PeakMemory:
    """The peak memory since ``start_peak_memory``, in bytes; None where the system does not report it."""

    host_bytes: int | None
    gpu_bytes: int | None


_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def start_peak_memory(device: torch.device) -> None:
    """Begin to measure the peak memory (on Linux, and on CUDA devices)."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:  # not Linux, or not allowed
        _host_measured[0] = False
    else:
        _host_measured[0] = True
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


_host_measured = [False]


def peak_memory(device: torch.device) -> PeakMemory:
    """The peak memory since ``start_peak_memory``."""
    host = None
    if _host_measured[0]:
        match = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
        host = int(match.group(1)) * 1024 if match else None
    return PeakMemory(host, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None)
