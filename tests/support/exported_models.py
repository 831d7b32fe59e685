"""A small segmentation model with a folder, for the tests of exports."""

import torch
from torch import nn

from wsplf_cli.segmentation import checkpoint
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.models import sam, unet

#: Windows of three sizes, in pixels.
SIDES_PX = (48, 64, 112)


def random_unet(classes=2, *, backbone="small"):
    """A U-Net with random weights, whose probabilities differ from pixel to pixel; its batch norms have seen data."""
    torch.manual_seed(0)
    model = unet.build(classes, pretrained=False, backbone=backbone)
    with torch.no_grad():
        nn.init.normal_(model.logits.weight)
        model.train()
        for _ in range(2):
            model(torch.rand(2, 3, 96, 96))
    return model.eval()


def random_sam(classes=2):
    """A SAM segmenter with random weights."""
    torch.manual_seed(0)
    return sam.build(classes, pretrained=False).eval()


def described(**changes):
    """What the model is: two classes, tiles of 64 pixels at 1 um."""
    fields = {"plugin": "unet", "settings": {"backbone": "small"}, "classes": ("Gland", "Tumour: Ätypical")}
    return Checkpoint(**({**fields, "tile_px": 64, "mpp": 1.0, "run_id": "run 1", "threshold": 0.4} | changes))


def save_model(folder, model, **changes):
    """Write the folder of a model and return its description."""
    record = described(**changes)
    checkpoint.save(folder, record, model.state_dict())
    return record


def images(side_px, *, batch=3):
    """Random images float32 [batch, 3, side, side] in 0..255, with smooth and with fine structure."""
    generator = torch.Generator().manual_seed(side_px)
    coarse = torch.rand(batch, 3, 4, 4, generator=generator)
    smooth = nn.functional.interpolate(coarse, (side_px, side_px), mode="bilinear")
    noise = torch.rand(batch, 3, side_px, side_px, generator=generator)
    return (0.7 * smooth + 0.3 * noise) * 255


@torch.no_grad()
def probabilities(model, batch):
    """What the network says of images in 0..255."""
    return torch.sigmoid(model(batch / 255)).numpy()
