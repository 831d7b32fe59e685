"""Trains the linear layer that finds epithelium, with its lumens, in the feature map of the ``small`` backbone.

    python -m wsplf_cli.pretraining epithelium --seed 0

with the defaults below made the layer that ships, in four minutes on a busy machine. On synthetic tissue that was held
out, 93.4 % of the instances are classified correctly (AUROC 0.982). The layer belongs to the backbone, and is trained
after it. How it is trained, and how layers of other backbones come about, stands in ``weak/epithelium/layer.py``.
"""

import time
from pathlib import Path

from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.schema import Tracker
from wsplf_cli.weak.epithelium import layer

CANVASES = 600


def pretrain(out: Path, *, seed: int, canvases: int, tracker: Tracker) -> dict[str, float]:
    """Train the layer, write it to ``out``, and return its scores.

    Args:
        out: The safetensors file to write: ``weight`` float32 [D] and ``bias`` float32 [1].
        seed: Seed of the tissue and of the instances.
        canvases: Number of synthetic images; one in six is held out for the evaluation.
        tracker: Is told of each image.

    Returns:
        "accuracy" and "AUROC" on the held-out images, and "seconds".
    """
    start = time.monotonic()
    trained = layer.train(build_backbone().eval(), seed=seed, canvases=canvases, tracker=tracker)
    layer.write(out, trained.layer)
    return {"accuracy": trained.accuracy, "AUROC": trained.auroc, "seconds": time.monotonic() - start}
