"""Weights of networks: read from files, put into a network, and averaged over the steps of a training."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from wsplf_cli.errors import ConfigError

#: Keys under which training scripts keep the weights beside other things.
_WRAPPERS = ("state_dict", "model")


def read_state(path: Path) -> dict[str, Tensor]:
    """The weights in a file by name: safetensors, or a PyTorch state dict (read with ``weights_only``).

    Raises:
        ConfigError: no such file, or no weights in it that can be read.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise ConfigError(f"no backbone weights at {path}", hint="give the file with --backbone-weights") from error
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        raise ConfigError(f"{path} holds no weights that can be read") from error
    for key in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise ConfigError(f"{path} holds no weights by name", hint="save the network's state_dict()")
    return {str(key): value for key, value in state.items() if isinstance(value, Tensor)}


def put_state(trunk: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into the trunk; others, such as a classifier's last layer, are left aside. ``path`` is for errors.

    Raises:
        ConfigError: weights are missing or have another shape.
    """
    own = trunk.state_dict()
    state = {key: value for key, value in state.items() if key in own}
    missing = sorted(set(own) - set(state))
    wrong = sorted(key for key, value in state.items() if value.shape != own[key].shape)
    if missing or wrong:
        first = (missing + wrong)[0]
        raise ConfigError(
            f"{path} does not fit this backbone: {len(missing)} weights missing, {len(wrong)} of another shape"
            f" (first: {first})",
            hint="name the backbone that the weights were made for with --backbone",
        )
    trunk.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})


def average_weights(network: nn.Module, *, decay: float) -> AveragedModel:
    """The exponential moving average of a network's weights and buffers, to be updated after each optimiser step.

    ``module`` is the averaged network, in eval mode. In the first steps the average forgets faster, so that it soon
    leaves the initial weights behind: after step n it keeps min(decay, n / (n + 10)) of itself.
    """

    def update(averages: list[Tensor], values: list[Tensor], step: Tensor) -> None:
        keep = min(decay, step.item() / (step.item() + 10))
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - keep)
            else:
                average.copy_(value)

    averaged = AveragedModel(network, multi_avg_fn=torch.no_grad()(update), use_buffers=True)  # type: ignore[no-untyped-call]
    averaged.update_parameters(network)  # the first update copies the weights and is not a step
    return averaged.eval()
