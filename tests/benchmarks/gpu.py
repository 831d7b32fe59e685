"""What a GPU makes of wsplf, in one table: ``python tests/benchmarks/gpu.py``. It ends within four minutes on one GPU.

Windows per second over a synthetic slide are compared with the same network on random tensors on the device:
the ratio is the share of the time in which the GPU works (aim: 80 %). SAM ViT-B with random weights in half precision
is compared with a large matrix product (aim: 40 %), an epoch of tuning its decoder with the flow of the paper, and
outputs with those of the CPU. Peak memory is that of the paper's setting (limit: 12 GB). ``--device cpu --quick`` shows
that the script works. Rows that would begin after the time limit are not measured, and the table says so.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from cam_speed import tuning_epochs, vit_b
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.device import autocast, pick_device
from wsplf_cli.networks.inference import on_arrays
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.networks.sam import Sam, load_sam
from wsplf_cli.schema import TissueMask
from wsplf_cli.segmentation.models.unet import UNet
from wsplf_cli.slides.open import Slide, open_slide
from wsplf_cli.slides.tissue import tissue_mask
from wsplf_cli.slides.window import DenseInference, StripInference, WindowCounter, infer_map, infer_strips
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.synthetic.slide import generate_slide
from wsplf_cli.weak.heads.gated_attention import build as build_head

#: Largest difference of a probability or a CAM (as a probability) from the CPU's in float32; bfloat16 has 8 bits.
TOLERANCE = 0.03


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large the measurements are."""

    slide_px: int = 6144
    backbones: tuple[str, ...] = ("small", "resnet50")
    cam_window_px: int = 384
    segment_window_px: int = 512
    sam: str = "vit_b"
    sam_batch: int = 8
    tuned_windows: int = 16
    matmul_px: int = 8192
    paper_backbone: str = "resnet50"
    paper_tile_px: int = 512
    paper_batch: int = 16


QUICK = Sizes(512, ("small",), 256, 256, "tiny", 1, 2, 256, "resnet18", 64, 2)


@dataclass(frozen=True, slots=True)
class Bench:
    """What the rows of the table are measured on."""

    sizes: Sizes
    device: torch.device
    slide: Slide
    tissue: TissueMask


def rows(bench: Bench) -> Iterator[tuple[str, Callable[[], str]]]:
    """The rows of the table: what is measured, and a function that measures it."""
    for backbone in bench.sizes.backbones:
        yield f"CAM, {backbone}", partial(cam_row, bench, backbone)
        yield f"segmentation, U-Net with {backbone}", partial(segmentation_row, bench, backbone)
    yield f"SAM {bench.sizes.sam}, half precision", partial(sam_row, bench)
    yield f"epoch of tuning the decoder of SAM {bench.sizes.sam}", partial(tuning_row, bench)
    yield "peak memory: MIL network of the paper", partial(mil_memory_row, bench)
    yield "peak memory: decoder of SAM, batches of 4", partial(decoder_memory_row, bench)
    for backbone in bench.sizes.backbones:
        yield f"difference from the CPU, U-Net with {backbone}", partial(difference_row, bench, backbone)


def mil_network(backbone: str) -> MilNetwork:
    """A MIL network; its weights are random except those of the small backbone."""
    torch.manual_seed(0)
    trunk = build_backbone(backbone)
    return MilNetwork(trunk, build_head(trunk.channels, 1))


def unet(backbone: str) -> nn.Module:
    """A U-Net whose outputs depend on the image."""
    torch.manual_seed(0)
    network = UNet(build_backbone(backbone), classes=1)
    nn.init.normal_(network.logits.weight, std=0.5)
    return network.eval()


def cam_row(bench: Bench, backbone: str) -> str:
    """Windows per second of a CAM, beside those of random tensors."""
    network = mil_network(backbone).to(bench.device).eval()
    stride = network.backbone.stride
    inference = DenseInference(mpp=1.0, mpp_slide=1.0, window_px=bench.sizes.cam_window_px, stride=stride)
    counted = Counted(on_arrays(network.cam, device=bench.device))
    side_px = inference.cells * stride
    slide_s = seconds(lambda: infer_map(bench.slide, bench.tissue, counted, inference, channels=1), bench.device)
    return share(counted.windows, slide_s, random_rate(network.cam, inference.batch, side_px, bench.device))


def segmentation_row(bench: Bench, backbone: str) -> str:
    """Windows per second of a segmentation, beside those of random tensors."""
    network = unet(backbone).to(bench.device)
    side = bench.sizes.segment_window_px
    canvas = StripInference(bench.slide.width_px0, bench.slide.height_px0, side, 1.0)
    counted = Counted(on_arrays(network, device=bench.device, activation=torch.sigmoid))

    def segment() -> None:
        for _ in infer_strips(bench.slide, bench.tissue, counted, canvas, channels=1, counter=WindowCounter()):
            pass

    slide_s = seconds(segment, bench.device)
    return share(counted.windows, slide_s, random_rate(network, canvas.batch, side, bench.device))


def sam_row(bench: Bench) -> str:
    """Embeddings per second, and their share of the arithmetic that a matrix product reaches."""
    sam, sizes = load(bench), bench.sizes
    batch = torch.rand(sizes.sam_batch, 3, sam.side_px, sam.side_px, device=bench.device)

    @torch.inference_mode()
    def embed() -> None:
        with autocast(bench.device):
            sam.encode(batch)

    with FlopCounterMode(display=False) as counter:
        embed()
    embed_s = seconds(embed, bench.device)
    half = torch.bfloat16 if bench.device.type == "cuda" else torch.float32
    matrix = torch.rand(sizes.matmul_px, sizes.matmul_px, device=bench.device, dtype=half)
    peak = 2 * sizes.matmul_px**3 / seconds(lambda: matrix @ matrix, bench.device)
    reached = counter.get_total_flops() / embed_s
    return f"{sizes.sam_batch / embed_s:.1f}/s; {reached / peak:.0%} of {peak / 1e12:.1f} TFLOP/s of a matrix product"


def tuning_row(bench: Bench) -> str:
    """Seconds of an epoch in the paper's flow and in ours."""
    paper_s, ours_s = tuning_epochs(bench.slide, load(bench), windows=bench.sizes.tuned_windows, device=bench.device)
    return f"paper {paper_s:.2f} s, ours {ours_s:.2f} s: {paper_s / ours_s:.1f} times as fast"


def mil_memory_row(bench: Bench) -> str:
    """Peak memory of a training step of a fine-tuned network."""
    sizes = bench.sizes
    network = mil_network(sizes.paper_backbone).to(bench.device).train()
    optimiser = torch.optim.AdamW(network.parameters())
    tiles = torch.rand(sizes.paper_batch, 3, sizes.paper_tile_px, sizes.paper_tile_px, device=bench.device)

    def step() -> None:
        with autocast(bench.device):
            loss = network.cam(tiles).float().mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()

    peak = f"{sizes.paper_backbone}, {sizes.paper_batch} tiles of {sizes.paper_tile_px} px"
    return f"{peak}: {peak_gb(step, bench.device)}"


def decoder_memory_row(bench: Bench) -> str:
    """Peak memory of an epoch of tuning."""
    sam = load(bench)
    return peak_gb(lambda: tuning_epochs(bench.slide, sam, windows=4, device=bench.device), bench.device)


def difference_row(bench: Bench, backbone: str) -> str:
    """The largest difference of a probability from the CPU's, in one batch of tissue."""
    side = bench.sizes.segment_window_px
    tiles = np.stack([bench.slide.read(x, 0, size_px=(side, side), downsample=1.0) for x in range(0, 4 * side, side)])
    network = unet(backbone)
    probability = [
        on_arrays(network.to(device), device=device, activation=torch.sigmoid)(tiles)
        for device in (torch.device("cpu"), bench.device)
    ]
    difference = float(np.abs(probability[0] - probability[1]).max())
    return f"{difference:.1e}, {'within' if difference <= TOLERANCE else 'ABOVE'} the tolerance of {TOLERANCE:g}"


class Counted:
    """A function of windows that counts them."""

    def __init__(self, infer: Callable[[np.ndarray], np.ndarray]) -> None:
        self.infer = infer
        self.windows = 0

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        self.windows += len(windows)
        return self.infer(windows)


def load(bench: Bench) -> Sam:
    """The SAM of the measurements; the large one has random weights, which are as fast as any."""
    if bench.sizes.sam == "tiny":
        return load_sam("tiny", checkpoint=None, device=bench.device)
    return vit_b(bench.device)


def share(windows: int, slide_s: float, per_second: float) -> str:
    """Windows per second over a slide (measured in ``RUNS`` passes), and their share of ``per_second``."""
    rate = windows / RUNS / slide_s
    return (
        f"{rate:.1f} windows/s, alone {per_second:.1f}: the network works {min(1.0, rate / per_second):.0%} of the time"
    )


@torch.inference_mode()
def random_rate(network: Callable[[Tensor], Tensor], batch: int, side_px: int, device: torch.device) -> float:
    """Windows per second of a network on random tensors that lie on the device."""
    tiles = torch.rand(batch, 3, side_px, side_px, device=device)

    def run() -> None:
        with autocast(device):
            for _ in range(REPEATS):
                network(tiles)

    return REPEATS * batch / seconds(run, device)


#: Passes of a measurement: one to warm up and one that is timed. Batches of random tensors in a pass.
RUNS, REPEATS = 2, 4


def _synchronised(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the last of ``RUNS`` passes."""
    taken = 0.0
    for _ in range(RUNS):
        began = _synchronised(device)
        work()
        taken = _synchronised(device) - began
    return taken


def peak_gb(work: Callable[[], object], device: torch.device) -> str:
    """Peak GPU memory of some work, in words."""
    if device.type != "cuda":
        work()
        return "works; memory is measured on CUDA devices"
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    work()
    peak = torch.cuda.max_memory_allocated(device) / 1e9
    return f"{peak:.1f} GB, {'under' if peak < 12 else 'NOT UNDER'} 12 GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, which say nothing about speed")
    parser.add_argument("--limit-s", type=float, default=200.0, help="no row begins later than this")
    options = parser.parse_args()
    device, sizes, began = pick_device(options.device), QUICK if options.quick else Sizes(), time.perf_counter()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"| torch {torch.__version__}, {name} | |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "slide.tif"
        image_px = min(2048, sizes.slide_px)
        image = generate_slide(np.random.default_rng(10), size_px=image_px, mpp=1.0, tumour_share=0.3, pen=False)
        write_pyramid(path, np.tile(image.rgb, (sizes.slide_px // image_px,) * 2 + (1,)), mpp=1.0)
        with open_slide(path) as slide:
            bench = Bench(sizes, device, slide, tissue_mask(slide, mpp_slide=1.0))
            for what, measure in rows(bench):
                late = time.perf_counter() - began > options.limit_s
                print(f"| {what} | {'not measured: out of time' if late else measure()} |", flush=True)


if __name__ == "__main__":
    main()
