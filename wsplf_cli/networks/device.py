"""The device, the random numbers and mixed precision: made once per command and passed down."""

import random
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from wsplf_cli.errors import ConfigError


def pick_device(name: str) -> torch.device:
    """The torch device for ``auto``, ``cpu``, ``cuda`` or ``mps``; auto takes CUDA where there is one, else the CPU.

    Apple's MPS is used only when asked for: it gave wrong SAM masks without an error in some versions.

    Raises:
        ConfigError: the device asked for is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name not in there:
        raise ConfigError(f"unknown device {name!r}", hint="--device auto, cpu, cuda or mps")
    if not there[name]:
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


def seed_everything(seed: int) -> np.random.Generator:
    """Seed Python, NumPy and torch (all devices); returns the generator that the command passes down."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  libraries that we call use the old global generator
    torch.manual_seed(seed)
    return np.random.default_rng(seed)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision (bfloat16, which needs no loss scaling) on CUDA devices that have it; else nothing changes."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Peak:
    """The most memory in use since ``start_peak``, in bytes; None where the system does not tell, or has no GPU."""

    host_bytes: int | None
    gpu_bytes: int | None


_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def start_peak(device: torch.device) -> None:
    """Begin to watch how much memory is used at most (on Linux, and on CUDA devices)."""
    try:
        _RESET.write_text("5", encoding="ascii")
    except OSError:  # not Linux, or not allowed
        _watched[0] = False
    else:
        _watched[0] = True
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


_watched = [False]


def peak(device: torch.device) -> Peak:
    """The most memory used since ``start_peak``."""
    host = None
    if _watched[0]:
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"))
        host = int(found.group(1)) * 1024 if found else None
    return Peak(host, torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None)
