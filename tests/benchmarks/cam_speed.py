"""The speed of CAMs and of tuning epochs, compared with the paper's procedure on the same machine and weights.

    python tests/benchmarks/cam_speed.py [--backbone small] [--sam tiny vit_b] [--threads 1]

In the paper a CAM takes four passes of one tile each, one for each quarter turn, each turned back and scaled as an
image; an epoch of tuning reads every window and embeds it again. Here the CAM of a slide is computed in blocks, and the
embeddings are stored. Both cover all tissue of the same synthetic slide with the same networks. ``vit_b`` has random
weights, which are as fast as any others. On a CPU the time is that of the process, so that other work does not count.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from segment_anything import sam_model_registry

from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.device import pick_device
from wsplf_cli.networks.inference import as_batch, on_arrays
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.networks.sam import Sam, load_sam
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.schema import Silent
from wsplf_cli.slides.grid import make_grid
from wsplf_cli.slides.open import Slide, open_slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.slides.window import DenseInference, infer_map
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.synthetic.slide import generate_slide
from wsplf_cli.weak.cam import window_side
from wsplf_cli.weak.heads.gated_attention import build as build_head
from wsplf_cli.weak.prompts import sampled
from wsplf_cli.weak.sam.tuning import Example, TuneSettings, tune

SIDE_PX = 1536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="small")
    parser.add_argument("--sam", nargs="+", default=["tiny", "vit_b"], choices=["tiny", "vit_b"])
    parser.add_argument("--windows", type=int, nargs="+", default=[24, 2], help="windows of an epoch, for each SAM")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = pick_device(options.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        synthetic = generate_slide(np.random.default_rng(0), size_px=SIDE_PX, mpp=1.0, tumour_share=0.2, pen=False)
        write_pyramid(path, synthetic.rgb, mpp=1.0)
        with open_slide(path) as slide:
            report_cams(slide, options.backbone, device=device)
            for name, count in zip(options.sam, options.windows, strict=False):
                report_epochs(slide, name, windows=count, device=device)


def report_cams(slide: Slide, backbone: str, *, device: torch.device) -> None:
    """Print the tiles per second of both procedures over the tissue of the slide."""
    tile_px = PseudolabelOptions().recipe.tile_px
    trunk = build_backbone(backbone)
    network = MilNetwork(trunk, build_head(trunk.channels, 1)).to(device).eval()
    tissue = tissue_mask(slide, mpp_slide=1.0)
    grid = make_grid("1", tissue, tile_px=tile_px, mpp=1.0, mpp_slide=1.0, min_tissue=0.001)
    corners = [(int(x), int(y)) for x, y in grid.xy_px0]
    inference = DenseInference(mpp=1.0, mpp_slide=1.0, window_px=window_side(tile_px), stride=trunk.stride)

    def ours() -> None:
        infer_map(slide, tissue, on_arrays(network.cam, device=device), inference, channels=1)

    def paper() -> None:
        for corner in corners:
            paper_cam(slide.read(*corner, size_px=(tile_px, tile_px), downsample=1.0), network, device=device)

    paper_s, ours_s = seconds(paper, device=device), seconds(ours, device=device)
    print(
        f"CAM, {backbone}, {len(corners)} tiles of {tile_px} px on {device}: paper {len(corners) / paper_s:.1f}, ours "
        f"{len(corners) / ours_s:.1f} tiles per second; ratio {paper_s / ours_s:.2f}",
        flush=True,
    )


@torch.no_grad()
def paper_cam(rgb: NDArray[np.uint8], network: MilNetwork, *, device: torch.device) -> NDArray[np.float32]:
    """The CAM of one tile as in the paper: the mean of four turned passes, each turned back and scaled as an image."""
    side = len(rgb)
    total = np.zeros((side, side), np.float32)
    for turns in range(4):
        turned = np.ascontiguousarray(np.rot90(rgb, turns))
        cam = network.cam(as_batch(turned[None]).to(device))[0, 0].float().cpu().numpy()
        low, high = float(cam.min()), float(cam.max())
        scaled = Image.fromarray(((cam - low) / max(high - low, 1e-6) * 255).astype(np.uint8))
        image = scaled.resize((side, side), Image.Resampling.BILINEAR)
        total += np.rot90(np.asarray(image, np.float32) / 255, -turns)
    return total / 4


def report_epochs(slide: Slide, name: str, *, windows: int, device: torch.device) -> None:
    """Print the seconds of a tuning epoch with stored embeddings and with embeddings that are computed again."""
    sam = load_sam(name, checkpoint=None, device=device) if name == "tiny" else vit_b(device)
    paper_s, ours_s = tuning_epochs(slide, sam, windows=windows, device=device)
    print(
        f"tuning epoch, SAM {name}, {windows} windows on {device}: paper {paper_s:.2f} s, ours {ours_s:.3f} s; "
        f"ratio {paper_s / ours_s:.1f}",
        flush=True,
    )


def tuning_epochs(slide: Slide, sam: Sam, *, windows: int, device: torch.device) -> tuple[float, float]:
    """Seconds of an epoch in which each window is embedded again, and of one with stored embeddings."""
    rng = np.random.default_rng(0)
    corners = rng.integers(0, min(slide.width_px0, slide.height_px0) - 255, (windows, 2)).tolist()

    def embedded(corner: list[int]) -> NDArray[np.float16]:
        side = sam.side_px
        rgb = slide.read(*corner, size_px=(side, side), downsample=256 / side)
        return sam.embed(rgb)[0].cpu().numpy().astype(np.float16)

    size = sam.mask_px
    rows, columns = np.mgrid[:size, :size]
    target = (rows - size / 2) ** 2 + (columns - size / 2) ** 2 < (size / 4) ** 2
    cam = np.where(target, np.float32(0.9), np.float32(0.1))
    weight = np.ones((size, size), np.float32)

    def epoch(examples: list[Example]) -> Callable[[], None]:
        def run() -> None:
            settings = TuneSettings(epochs=1, multimask=False, robust=False)
            tune(
                sam.with_own_decoder(),
                examples,
                strategy=sampled.build(),
                settings=settings,
                rng=np.random.default_rng(0),
                track=Silent(),
            )

        return run

    recomputed = [Example(lambda corner=corner: embedded(corner), cam, target, weight) for corner in corners]
    embeddings = [embedded(corner) for corner in corners]
    stored = [Example(lambda embedding=embedding: embedding, cam, target, weight) for embedding in embeddings]
    return seconds(epoch(recomputed), device=device), seconds(epoch(stored), device=device)


def vit_b(device: torch.device) -> Sam:
    """SAM ViT-B with random weights."""
    return Sam(sam_model_registry["vit_b"](), name="vit_b", device=device)


def seconds(work: Callable[[], None], *, device: torch.device) -> float:
    """The shorter time of two runs after a warm-up run. Work of more than 30 seconds runs once."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter

    def once() -> float:
        began = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return clock() - began

    first = once()
    return first if first > 30 else min(once(), once())


if __name__ == "__main__":
    main()
