"""Weights of networks: read from files, put into a network, and averaged over the steps of a training."""

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from wsplf_cli.errors import ConfigError

#: Keys under which training scripts store the weights beside other things.
_WRAPPERS = ("state_dict", "model")


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights in a file by name. The file is safetensors, or a PyTorch state dict (read with ``weights_only``).

    Raises:
        ConfigError: There is no such file, or it holds no weights that can be read.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"no backbone weights at {path}", hint="name the file with --backbone-weights") from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ConfigError(f"{path} holds no weights that can be read") from error
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise ConfigError(f"{path} holds no weights by name", hint="save the network's state_dict()")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def load_state(trunk: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into the trunk. Weights that it does not have, such as a classifier's last layer, are ignored.

    Args:
        trunk: The network, changed in place.
        state: Weights by name.
        path: The file that they are from, for error messages.

    Raises:
        ConfigError: Weights are missing, or have another shape.
    """
    expected = trunk.state_dict()
    state = {key: value for key, value in state.items() if key in expected}
    missing = sorted(set(expected) - set(state))
    wrong = sorted(key for key, value in state.items() if value.shape != expected[key].shape)
    if missing or wrong:
        first = (missing + wrong)[0]
        raise ConfigError(
            f"{path} does not fit this backbone: {len(missing)} weights missing, {len(wrong)} of another shape"
            f" (first: {first})",
            hint="name the backbone that the weights were made for with --backbone",
        )
    trunk.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()})


def weights_digest(network: nn.Module) -> str:
    """SHA-256 in hexadecimal of a network's weights and buffers, with their names, dtypes and shapes."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def average_weights(network: nn.Module, *, decay: float, warm_up: int = 10) -> AveragedModel:
    """The exponential moving average of a network's weights and buffers, to be updated after each optimiser step.

    ``module`` is the averaged network, in eval mode. In the first steps the average forgets faster, so that it soon
    leaves the initial weights behind: after step n it keeps min(decay, n / (n + warm_up)) of itself.
    """

    @torch.no_grad()
    def update(averages: Sequence[Tensor], values: Sequence[Tensor], step: Tensor | int) -> None:
        keep = min(decay, int(step) / (int(step) + warm_up))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - keep)
            else:
                average.copy_(value)

    averaged = AveragedModel(network, multi_avg_fn=update, use_buffers=True)
    averaged.update_parameters(network)  # the first update copies the weights and is not a step
    return averaged.eval()
