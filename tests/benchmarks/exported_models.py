"""The probabilities of an exported model against the model's: ``python tests/benchmarks/exported_models.py PROJECT``.

Exports a model of the project as ONNX and TorchScript, and reads windows of tissue of its slides at three sizes. Prints
for each size and each way to run the export (ONNX Runtime, OpenCV, TorchScript) the largest difference of a probability
from that of the network. ``--opencv FOLDER`` takes the OpenCV in that folder (``pip install --target``), so that an
older one can be measured. ``--slides FOLDER`` says where the slides are. Takes about a minute on one core.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.options import ProjectOptions
from wsplf_cli.runs.layout import model_folder
from wsplf_cli.segmentation import checkpoint as checkpoints
from wsplf_cli.segmentation.export.formats import onnx, torchscript
from wsplf_cli.segmentation.export.onnx_model import OnnxNetwork
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.tissue import tissue_mask

SIDES_PX = (128, 192, 320)

#: Runs in a process of its own, because an older OpenCV needs an older NumPy.
OPENCV = """
import sys
import cv2
import numpy
network = cv2.dnn.readNetFromONNX(sys.argv[1])
for path in sys.argv[2:]:
    outputs = []
    for image in numpy.load(path):
        network.setInput(image[None])
        outputs.append(network.forward())
    numpy.save(path + ".out.npy", numpy.concatenate(outputs))
print(cv2.__version__)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--slides", type=Path)
    parser.add_argument("--opencv", type=Path)
    arguments = parser.parse_args()
    project = open_project(arguments.project, ProjectOptions(slides=arguments.slides))
    checkpoint, network = checkpoints.load(model_folder(project.folder, arguments.model), device=torch.device("cpu"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.write(network, checkpoint, folder / onnx.FILE)
        torchscript.write(network, checkpoint, folder / torchscript.FILE)
        exported = OnnxNetwork(folder / onnx.FILE, name="the export")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
            scripted = torch.jit.load(str(folder / torchscript.FILE))
        images = {side: read_windows(project, checkpoint.mpp, side, arguments.windows) for side in SIDES_PX}
        version, opencv = run_opencv(folder, images, arguments.opencv)
        print(f"{arguments.windows} windows each; largest difference of a probability")
        print(f"side_px | ONNX Runtime | OpenCV {version} | TorchScript | highest probability | pixels above threshold")
        for side, windows in images.items():
            with torch.inference_mode():
                expected = torch.sigmoid(network(torch.from_numpy(windows) / 255)).numpy()
                from_script = scripted(torch.from_numpy(windows)).numpy()
            outputs = (exported.run(windows), opencv[side], from_script)
            differences = [np.abs(output - expected).max() for output in outputs]
            share = (expected >= checkpoint.threshold).mean()
            print(side, *(f"{value:.1e}" for value in differences), f"{expected.max():.3f}", f"{share:.3f}", sep=" | ")


def read_windows(project: object, mpp: float, side_px: int, count: int) -> NDArray[np.float32]:
    """Windows at random places of the tissue, float32 [count, 3, side, side] in 0..255; the slides take turns."""
    rng = np.random.default_rng(side_px)
    entries = project.entries()  # type: ignore[attr-defined]
    windows = []
    for index in range(count):
        entry = entries[index % len(entries)]
        slide, pixel_size = entry_slide(entry)
        tissue = tissue_mask(slide, mpp_slide=pixel_size.mpp)
        row, column = rng.choice(np.argwhere(tissue.mask))
        reach = side_px * mpp / pixel_size.mpp / 2
        x, y = (column + 0.5) * tissue.downsample - reach, (row + 0.5) * tissue.downsample - reach
        windows.append(slide.read(x, y, size_px=(side_px, side_px), downsample=mpp / pixel_size.mpp))
    return np.ascontiguousarray(np.stack(windows).transpose(0, 3, 1, 2), dtype=np.float32)


def run_opencv(
    folder: Path, images: dict[int, NDArray[np.float32]], opencv: Path | None
) -> tuple[str, dict[int, NDArray[np.float32]]]:
    """The version of OpenCV, and its probabilities by size."""
    paths = {side: folder / f"{side}.npy" for side in images}
    for side, windows in images.items():
        np.save(paths[side], windows)
    environment = dict(os.environ) | ({} if opencv is None else {"PYTHONPATH": str(opencv)})
    command = [sys.executable, "-c", OPENCV, str(folder / onnx.FILE), *map(str, paths.values())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip(), {side: np.load(f"{path}.out.npy") for side, path in paths.items()}


if __name__ == "__main__":
    main()
