"""``hf``: the folder as on the Hugging Face Hub; its weights as safetensors. ``wsplf segment --model`` reads it."""

from pathlib import Path

from safetensors.torch import save
from torch import nn

from wsplf_cli import files
from wsplf_cli.segmentation.checkpoint import WEIGHTS, Checkpoint, plain

FILE = WEIGHTS


def write(network: nn.Module, checkpoint: Checkpoint, path: Path) -> list[str]:
    """Write the weights; the settings of the network stand in config.json.

    Raises:
        OSError: The folder cannot be written.
    """
    files.write_bytes(path, save(plain(network.state_dict()), metadata={"format": "pt"}))
    return [f"wsplf segment PROJECT --model {path.parent} uses it"]
