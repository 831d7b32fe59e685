"""``onnx``: a network for ONNX Runtime, for OpenCV and so for QuPath.

The metadata of the file hold what ``wsplf segment`` needs; ``model.onnx.json`` repeats them for programs that cannot
read them there, and holds the probabilities of an image to check the network with.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from wsplf_cli import __version__, files
from wsplf_cli.errors import ConfigError
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.export.onnx_model import INPUT, OUTPUT, PREFIX, OnnxNetwork, load_library, properties
from wsplf_cli.segmentation.export.portable import (
    TOLERANCE,
    Contract,
    PortableSam,
    SamTile,
    largest_difference,
    portable_unet,
    unets_of,
    without_tracing_warnings,
)
from wsplf_cli.segmentation.models.sam import SamSegmenter

FILE = "model.onnx"
#: Version of the ONNX operators: the newest whose operators OpenCV 4.6, that of QuPath 0.5, reads.
OPSET = 12
#: That of networks which OpenCV does not run in any case: the first with the operators of SAM, and with layer norm.
SAM_OPSET = 17
#: Operators of networks that OpenCV 4.6 (one image at a time) and 4.9 to 4.13 ran with the right probabilities, at
#: changing heights and widths.
OPENCV_OPERATORS = frozenset(
    [
        *("Add", "AveragePool", "Concat", "Constant", "Conv", "Div", "GlobalAveragePool", "MaxPool", "Mul", "Relu"),
        *("Resize", "Sigmoid", "Sqrt", "Sub"),
    ]
)
#: Side of the image that QuPath's OpenCV is checked with, in multiples of the network's stride.
CHECK_MULTIPLES = 8
#: Most bytes of one ONNX file.
MOST_BYTES = 2**31 - 1


def write(network: nn.Module, checkpoint: Checkpoint, path: Path) -> list[str]:
    """Write the network with its classes, pixel size, tile and threshold, and compare it with the network.

    Raises:
        ConfigError: The network cannot be exported, or the export computes something else.
        MissingDependency: onnx or ONNX Runtime is not installed.
        OSError: The folder cannot be written.
    """
    onnx = load_library("onnx")
    load_library("onnxruntime")
    size = sum(tensor.nbytes for tensor in network.state_dict().values())
    if size > MOST_BYTES:
        raise ConfigError(f"the network has {size / 1e9:.1f} GB, one ONNX file holds at most 2.1", hint="--format hf")
    module, contract = _portable(network, checkpoint)
    model = _exported(onnx, module, contract)
    operators = {node.op_type for node in model.graph.node} - OPENCV_OPERATORS
    model.producer_name, model.producer_version = "wsplf", __version__
    described = properties(checkpoint, contract)
    onnx.helper.set_model_props(model, {PREFIX + key: files.json_text(value) for key, value in described.items()})
    content = model.SerializeToString()
    exported = OnnxNetwork(content, name=str(path))

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(exported.run(images.numpy()))

    sides = contract.sides_px(checkpoint.tile_px)
    difference = max(largest_difference(run, network, side_px=side, batch=2) for side in sides)
    if difference > TOLERANCE:
        raise ConfigError(f"ONNX Runtime gives other probabilities, by {difference:.2g}", hint="--format hf")
    files.write_json(path.with_name(path.name + ".json"), described | {"check": _check(exported, contract)})
    files.write_bytes(path, content)
    sizes = ", ".join(map(str, sides))
    notes = [f"ONNX Runtime gives the network's probabilities: largest difference {difference:.1g} at {sizes} px"]
    if contract.only_px is not None:
        notes.append(f"it takes one image of {contract.only_px} x {contract.only_px} pixels at a time")
        notes.append("warning: OpenCV 4, and so QuPath, cannot run a SAM segmenter")
    elif operators:
        notes.append(f"warning: OpenCV, and so QuPath, may not run it: {', '.join(sorted(operators))}")
    return notes


def _check(exported: OnnxNetwork, contract: Contract) -> dict[str, Any]:
    """An image that is easy to make again, and the network's probabilities along its diagonal.

    wsplf_apply_model.groovy compares QuPath's OpenCV with them. Pixel (x, y) of the image has red (3 x + y) mod 256,
    green (x + 2 y + 40) mod 256 and blue (2 x + 3 y + 80) mod 256.
    """
    side = contract.only_px or CHECK_MULTIPLES * contract.multiple_px
    rows, columns = np.mgrid[0:side, 0:side]
    red, green, blue = 3 * columns + rows, columns + 2 * rows + 40, 2 * columns + 3 * rows + 80
    image = np.stack([red, green, blue])[None].astype(np.float32) % 256
    diagonal = exported.run(image)[0][:, range(side), range(side)]
    return {"side_px": side, "diagonal": diagonal[:, :: max(1, side // 16)].round(6)}


def _portable(network: nn.Module, checkpoint: Checkpoint) -> tuple[nn.Module, Contract]:
    """The network of few operators, and the images that it takes."""
    if unets_of(network):
        unet = portable_unet(network, checkpoint)
        return unet, Contract(unet.stride)
    if isinstance(network, SamSegmenter):
        sam, tile_px = PortableSam(network), checkpoint.tile_px
        if tile_px > sam.side_px:
            raise ConfigError(
                f"ONNX cannot shrink tiles as SAM needs it: the tiles have {tile_px} pixels, SAM {sam.side_px}",
                hint=f"--format torchscript, or train with --tile-px {sam.side_px}",
            )
        return SamTile(sam, tile_px=tile_px), Contract(tile_px, only_px=tile_px)
    raise ConfigError(f"the segmenter {checkpoint.plugin} cannot be exported to ONNX", hint="--format hf")


@torch.no_grad()
def _exported(onnx: Any, module: nn.Module, contract: Contract) -> Any:
    """The network as an ONNX model."""
    side = contract.only_px or 2 * contract.multiple_px
    axes = {0: "batch", 2: "height", 3: "width"}
    with tempfile.TemporaryDirectory() as folder, without_tracing_warnings():
        path = Path(folder) / FILE
        try:
            torch.onnx.export(
                module.requires_grad_(False),
                (torch.zeros(1, 3, side, side),),
                str(path),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=SAM_OPSET if contract.only_px else OPSET,
                dynamo=False,
                dynamic_axes=None if contract.only_px else {INPUT: axes, OUTPUT: axes},
            )
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            first = str(error).splitlines()[0]
            raise ConfigError(f"PyTorch cannot write this network as ONNX: {first}", hint="--format hf") from error
        model = onnx.load(str(path))
    _remove_aliases(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def _remove_aliases(model: Any) -> None:
    """Let the nodes use weights by their own names: OpenCV cannot read a second name for the same weights."""
    weights = {tensor.name for tensor in model.graph.initializer}
    names = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Identity" and node.input[0] in weights
    }
    nodes = [node for node in model.graph.node if not (node.op_type == "Identity" and node.output[0] in names)]
    for node in nodes:
        for index, name in enumerate(node.input):
            node.input[index] = names.get(name, name)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
