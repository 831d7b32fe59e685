"""The linear layer that tells epithelium, with its lumens, by the dense features of a backbone.

An instance of a synthetic image lies in a gland, a nest or a sheet of epithelium, or it does not. One linear layer,
fitted by ridge logistic regression, tells which. Its input are the features of the instance as their means over three
neighbourhoods, those that classifiers of slides use. No slide, label or outside weight is used.

The layer of ``small`` ships. For other backbones it is trained when it is first needed, without a network connection,
and kept in the user's cache folder.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from wsplf_cli.cache import user_folder
from wsplf_cli.errors import ConfigError
from wsplf_cli.files import write_bytes
from wsplf_cli.metrics import auroc
from wsplf_cli.networks.backbone import DenseBackbone, build_backbone
from wsplf_cli.networks.inference import on_arrays
from wsplf_cli.networks.state import read_state, weights_digest
from wsplf_cli.networks.weights import ASSETS
from wsplf_cli.schema import Tracker
from wsplf_cli.synthetic.kinds import BACKGROUND, EPITHELIUM
from wsplf_cli.synthetic.tissue import SyntheticImage, random_layout, render_layout
from wsplf_cli.weak.linear_probe import LinearProbe, unscaled
from wsplf_cli.weak.pooling import CONTEXT_SIGMAS_PX, pool_context

log = logging.getLogger(__name__)

SHIPPED = "epithelium_small.safetensors"
#: Synthetic images for a layer that is trained when it is first needed. The layer that ships saw more.
CANVASES = 240
CANVAS_PX = 512
#: The images are rendered at the mpp of the tiles times a random factor in this range.
MPP_RANGE = (0.8, 1.3)
#: Instances drawn from a canvas. More instances of one canvas are alike.
INSTANCES_PER_CANVAS = 250
RIDGE = 1e-3
STEPS = 100
#: One canvas in so many is held out for the evaluation.
_HELD_OUT_EVERY = 6
#: To be raised when a layer is trained in another way, so that kept layers are trained again.
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class LabelledInstances:
    """Instances of synthetic images: ``features`` float16 [N, D], and whether they are ``epithelium``, bool [N]."""

    features: NDArray[np.float16]
    epithelium: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class TrainedLayer:
    """A layer, and its ``accuracy`` and ``auroc`` on images that were held out."""

    layer: LinearProbe
    accuracy: float
    auroc: float


def epithelium_layer(backbone: DenseBackbone, *, mpp: float, tracker: Tracker) -> LinearProbe:
    """The layer for a backbone: the shipped one where the backbone holds ``small``, else a kept or a new one.

    Args:
        backbone: In eval mode, on its device.
        mpp: Micrometres per pixel of the tiles.
        tracker: Is told of the training.
    """
    first = 0
    shipped = weights_digest(build_backbone())
    for part in backbone.parts:
        if weights_digest(part) == shipped:
            return _among(_read(ASSETS / SHIPPED), range(first, first + part.channels), backbone.channels)
        first += part.channels
    path = user_folder() / "epithelium" / f"{_key(backbone, mpp)}.safetensors"
    try:
        if path.is_file():
            return _read(path)
    except (ConfigError, KeyError) as error:
        log.info("trained again: %s: %s", path, error)
    tracker.say(f"the layer that tells epithelium with this backbone is trained once, and kept as {path}")
    trained = train(backbone, seed=0, canvases=CANVASES, mpp=mpp, tracker=tracker)
    tracker.say(f"it classifies {trained.accuracy:.1%} of held-out synthetic tissue correctly")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, trained.layer)
    except OSError as error:
        tracker.say(f"warning: {path} cannot be written ({error.strerror}): the next run trains the layer again")
    return trained.layer


def train(backbone: DenseBackbone, *, seed: int, canvases: int, mpp: float = 1.0, tracker: Tracker) -> TrainedLayer:
    """Train a layer on synthetic tissue.

    Args:
        backbone: In eval mode, on its device.
        seed: Seed of the tissue and of the instances.
        canvases: Number of synthetic images; one in six is held out for the evaluation.
        mpp: Micrometres per pixel of the tiles.
        tracker: Is told of each image.
    """
    tracker.start("synthetic tissue", canvases)
    samples = []
    infer = on_arrays(backbone, device=backbone.device)
    for index, image in enumerate(_generate_all(seed, canvases, mpp)):
        rng = np.random.default_rng([seed, 1, index])
        samples.append(_sample_instances(infer, backbone.stride, image, rng))
        tracker.advance(1)
    held_out_count = max(1, canvases // _HELD_OUT_EVERY)
    held_out, training = _concatenate(samples[:held_out_count]), _concatenate(samples[held_out_count:])
    layer = fit(training)
    logits = layer(held_out.features)
    return TrainedLayer(
        layer,
        float(((logits > 0) == held_out.epithelium).mean()),
        auroc(logits.tolist(), held_out.epithelium.tolist()) or 0.0,
    )


def fit(instances: LabelledInstances) -> LinearProbe:
    """The layer, fitted by ridge logistic regression on standardised features.

    L-BFGS stops after STEPS steps, which may be before it converges. The layer that ships was fitted in the same way.
    """
    features = instances.features.astype(np.float32)
    mean, deviation = features.mean(axis=0), features.std(axis=0) + np.float32(1e-3)
    inputs = torch.from_numpy((features - mean) / deviation)
    target = torch.from_numpy(instances.epithelium).float()
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=STEPS, history_size=STEPS)

    def loss() -> Tensor:
        optimiser.zero_grad()
        entropy = functional.binary_cross_entropy_with_logits(inputs @ weight + bias, target)
        value = entropy + 0.5 * RIDGE * weight.square().sum()
        torch.autograd.backward(value)
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    probe = LinearProbe(weight.detach().numpy(), float(bias.detach()))
    return unscaled(probe, mean, deviation)


def write(path: Path, layer: LinearProbe) -> None:
    """Write a layer as safetensors, whole or not at all: ``weight`` float32 [D] and ``bias`` float32 [1].

    Raises:
        OSError: The file cannot be written.
    """
    write_bytes(path, save({"weight": torch.from_numpy(layer.weight), "bias": torch.tensor([layer.bias])}))


def _read(path: Path) -> LinearProbe:
    state = read_state(path)
    return LinearProbe(state["weight"].numpy(), float(state["bias"]))


def _among(layer: LinearProbe, channels: range, total: int) -> LinearProbe:
    """A layer of some channels of a backbone as one of ``total`` channels; the others have no weight."""
    weight = np.zeros((len(CONTEXT_SIGMAS_PX), total), np.float32)
    weight[:, channels.start : channels.stop] = layer.weight.reshape(len(CONTEXT_SIGMAS_PX), -1)
    return LinearProbe(weight.reshape(-1), layer.bias)


def _key(backbone: DenseBackbone, mpp: float) -> str:
    """What a kept layer depends on, as 32 hexadecimal digits."""
    normalisation = [(part.mean.tolist(), part.std.tolist()) for part in backbone.parts]
    training = (_FORMAT, CANVASES, round(mpp, 3))
    return hashlib.sha256(f"{weights_digest(backbone)} {normalisation} {training}".encode()).hexdigest()[:32]


def _concatenate(samples: Sequence[LabelledInstances]) -> LabelledInstances:
    """The instances of several images together."""
    return LabelledInstances(
        np.concatenate([sample.features for sample in samples]),
        np.concatenate([sample.epithelium for sample in samples]),
    )


def _generate_all(seed: int, canvases: int, mpp: float) -> Iterator[SyntheticImage]:
    """The synthetic images. The next one is generated in a thread while the backbone computes features."""
    with ThreadPoolExecutor(1, thread_name_prefix="wsplf-tissue") as generator:
        generate = partial(_generate, seed, mpp)
        following = generator.submit(generate, 0)
        for index in range(canvases):
            image = following.result()
            if index + 1 < canvases:
                following = generator.submit(generate, index + 1)
            yield image


def _generate(seed: int, mpp: float, index: int) -> SyntheticImage:
    """One synthetic image at a random mpp."""
    rng = np.random.default_rng([seed, 0, index])
    factor = float(np.exp(rng.uniform(*np.log(MPP_RANGE))))
    return render_layout(rng, random_layout(rng, (CANVAS_PX, CANVAS_PX), mpp * factor))


def _sample_instances(
    infer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    stride: int,
    image: SyntheticImage,
    rng: np.random.Generator,
) -> LabelledInstances:
    """Random instances on the tissue of an image."""
    maps = infer(image.rgb[None])[0]
    cell_centres = (slice(stride // 2, None, stride),) * 2
    structure = image.structure[cell_centres]
    epithelium = (image.instance[cell_centres] > 0) | (structure == EPITHELIUM)
    rows, columns = np.nonzero(structure != BACKGROUND)
    drawn = rng.permutation(len(rows))[:INSTANCES_PER_CANVAS]
    rows, columns = rows[drawn], columns[drawn]
    features = pool_context(maps, rows, columns, sigmas=[sigma / stride for sigma in CONTEXT_SIGMAS_PX])
    return LabelledInstances(features, epithelium[rows, columns])
