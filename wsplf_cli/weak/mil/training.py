"""The MIL training loop: bags of tiles with slide labels in, a classifier of every instance of every tile out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsplf_cli.networks import distributed
from wsplf_cli.networks.augment import augment
from wsplf_cli.networks.bag import BagOutput
from wsplf_cli.networks.device import autocast
from wsplf_cli.networks.inference import as_batch
from wsplf_cli.networks.mil import MilNetwork
from wsplf_cli.schema import Tracker
from wsplf_cli.weak.mil.tile_sampling import TileScores, sample_hard, sample_stalest

#: Shares of a positive bag's instances that are taken as positive and as negative.
_TOP_SHARE = 0.02
_BOTTOM_SHARE = 0.3
#: A step with more pixels is split into passes. A step of the default size with tiles of up to 256 pixels is not.
_PIXELS_PER_PASS = 24 * 256 * 256
#: Weight of the running mean of the weights.
_EMA_DECAY = 0.98


class TileSource(Protocol):
    """The tiles of one slide, however they are kept."""

    def __len__(self) -> int:
        """Number of tiles."""

    def read(self, indices: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Tiles uint8 [len(indices), H, W, 3], RGB."""


@dataclass(frozen=True, slots=True)
class Bag:
    """The tiles of one slide and its label, ``target`` float32 [C] of 0 and 1.

    ``known`` gives what a person decided about tiles, float32 [n, 2, s, s]: positive for sure, and negative for sure
    (see ``review.regions.known_cells``); None where nobody has decided anything.
    """

    entry_id: str
    tiles: TileSource
    target: NDArray[np.float32]
    known: Callable[[NDArray[np.integer]], NDArray[np.float32] | None] | None = None


@dataclass(frozen=True, slots=True)
class MilSettings:
    """How ``fit`` trains.

    ``tiles_per_bag`` are read per step, half of them with the highest latest logits. ``most_tiles_per_pass`` go through
    the backbone at once; by default ``tiles_per_pass`` of their side.

    Of a slide with more than ``score_above`` tiles, training alone would see few, and its tumour perhaps never again.
    After the settle epochs, tiles of such a slide are scored without gradient before each epoch, as Campanella et al.
    (2019) do: ``score_most`` of them, those with the oldest scores, so that all have their turn. Scoring a tile costs
    about a quarter of learning from it (measured with ``small`` on a CPU).
    """

    epochs: int
    tiles_per_bag: int = 12
    most_tiles_per_pass: int | None = None
    head_rate: float = 2e-3
    backbone_rate: float = 3e-4
    weight_decay: float = 1e-2
    instance_weight: float = 1.0
    contrast_weight: float = 0.15
    settle_epochs: int = 3
    score_above: int = 400
    score_most: int = 256
    least_steps: int = 12


@dataclass(slots=True)
class Curve:
    """Mean loss of each epoch, and the share of bags on the right side of 0 in it."""

    loss: list[float] = field(default_factory=list)
    accuracy: list[float] = field(default_factory=list)


def fit(
    network: MilNetwork,
    bags: Sequence[Bag],
    *,
    settings: MilSettings,
    rng: np.random.Generator,
    track: Tracker,
) -> Curve:
    """Train the network on slide labels. It ends in eval mode with the running mean of its weights.

    Each step takes one positive and one negative bag, so that the labels weigh the same. A bag's loss is that of its
    label. Besides, no tile of a negative bag may be positive, and within a positive bag the likeliest instances are set
    against the least likely ones (see ``contrast_loss``).

    Args:
        network: Backbone and head, changed in place.
        bags: At least one bag with a target of 1 and one without.
        settings: Epochs, rates and sizes.
        rng: Chooses bags, tiles and augmentation.
        track: Is told each step.

    Returns:
        The curve of the training loss.
    """
    positive = [bag for bag in bags if bag.target.any()]
    negative = [bag for bag in bags if not bag.target.any()]
    steps = max(len(positive), len(negative), settings.least_steps)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    scores = {bag.entry_id: TileScores.unscored(len(bag.tiles)) for bag in bags}
    large = [(bag, scores[bag.entry_id]) for bag in bags if len(bag.tiles) > settings.score_above]
    device = network.backbone.device
    learning: nn.Module = network.head if network.backbone.frozen else network  # frozen weights need no running mean
    groups = [{"params": network.head.parameters(), "lr": settings.head_rate}]
    if not network.backbone.frozen:
        groups.insert(0, {"params": network.backbone.parameters(), "lr": settings.backbone_rate})
    optimiser = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        max_lr=[group["lr"] for group in optimiser.param_groups],
        total_steps=settings.epochs * steps,
        pct_start=0.1,
    )
    mean = AveragedModel(learning, multi_avg_fn=get_ema_multi_avg_fn(_EMA_DECAY))  # type: ignore[no-untyped-call]
    trained = distributed.parallel(network, tell=track.say)
    curve = Curve()
    network.train()
    for epoch in range(settings.epochs):
        losses, correct = [], []
        if epoch >= settings.settle_epochs:
            _score_large_bags(network, large, settings=settings, epoch=epoch, rng=rng, track=track)
        for pair in zip(_draw(positive, steps, rng), _draw(negative, steps, rng), strict=True):
            chosen = [sample_hard(scores[bag.entry_id].logits, settings.tiles_per_bag, rng=rng) for bag in pair]
            tiles = np.concatenate([bag.tiles.read(indices) for bag, indices in zip(pair, chosen, strict=True)])
            batch, masks = augment(as_batch(tiles), known_layers(pair, chosen), generator)
            known: Sequence[Tensor | None] = [None] * len(pair)
            if masks is not None:
                known = torch.split(masks, [len(indices) for indices in chosen])
            with autocast(device):
                most = settings.most_tiles_per_pass or tiles_per_pass(batch.shape[-1])
                outputs = trained(batch.to(device), [len(indices) for indices in chosen], max_tiles=most)
            contrast = settings.contrast_weight if epoch >= settings.settle_epochs else 0.0
            loss = torch.stack(
                [
                    bag_loss(output, bag, weight=settings.instance_weight)
                    + contrast * contrast_loss(cam, bag, layers)
                    + settings.instance_weight * known_loss(cam, layers)
                    for (output, cam), bag, layers in zip(outputs, pair, known, strict=True)
                ]
            ).sum()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(learning.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            mean.update_parameters(learning)
            losses.append(loss.item())
            for (output, _), bag, indices in zip(outputs, pair, chosen, strict=True):
                logits = output.instance_logits.detach().amax(dim=1).cpu().numpy()
                scores[bag.entry_id].update(indices, logits, epoch=epoch)
                sides = (output.bag_logits.detach().cpu().numpy() > 0) == (bag.target > 0)
                correct.append(float(sides.mean()))
            track.advance(1, message=f"epoch {epoch + 1}/{settings.epochs}, loss {np.mean(losses):.3f}")
        curve.loss.append(float(np.mean(losses)))
        curve.accuracy.append(float(np.mean(correct)))
    learning.load_state_dict(mean.module.state_dict())
    network.eval()
    return curve


def _score_large_bags(
    network: MilNetwork,
    large: Sequence[tuple[Bag, TileScores]],
    *,
    settings: MilSettings,
    epoch: int,
    rng: np.random.Generator,
    track: Tracker,
) -> None:
    """Score tiles of large bags without gradient, in eval mode, before an epoch; their scores are brought up to date.

    From then on a tile without a score no longer counts as the likeliest: it comes when its turn comes.
    """
    network.eval()
    for count, (bag, scores) in enumerate(large, 1):
        track.advance(0, message=f"epoch {epoch + 1}/{settings.epochs}, scoring slide {count}/{len(large)}")
        indices = sample_stalest(scores, settings.score_most, rng=rng)
        scores.update(indices, score(network, bag.tiles, indices, settings=settings), epoch=epoch)
        scores.logits[scores.epochs < 0] = -np.inf
    network.train()


@torch.no_grad()
def score(
    network: MilNetwork, tiles: TileSource, indices: NDArray[np.integer], *, settings: MilSettings
) -> NDArray[np.float32]:
    """The highest instance logit of each of some tiles, float32 [len(indices)]; the network is in eval mode."""
    logits, device = [], network.backbone.device
    step = 2 * settings.tiles_per_bag
    for first in range(0, len(indices), step):
        batch = as_batch(tiles.read(indices[first : first + step]))
        most = settings.most_tiles_per_pass or tiles_per_pass(batch.shape[-1])
        with autocast(device):
            ((output, _),) = network.bags(batch.to(device), [len(batch)], max_tiles=most)
        logits.append(output.instance_logits.float().amax(dim=1).cpu().numpy())
    scores: NDArray[np.float32] = np.concatenate(logits)
    return scores


def steps_of(bags: Sequence[Bag], settings: MilSettings) -> int:
    """How often ``fit`` advances its tracker."""
    positive = sum(bool(bag.target.any()) for bag in bags)
    return settings.epochs * max(positive, len(bags) - positive, settings.least_steps)


def tiles_per_pass(tile_px: int) -> int:
    """How many square tiles of that side go through the backbone at once, at least one.

    Measured with resnet50 and 24 tiles of 512 pixels, in float32 on a CPU: 6.0 GB for the whole process in the four
    passes that this gives, ADL included. A single pass takes about 0.65 GB a tile (4.9 GB with six tiles), which would
    be 16 GB.
    """
    return max(1, _PIXELS_PER_PASS // tile_px**2)


def bag_loss(output: BagOutput, bag: Bag, *, weight: float) -> Tensor:
    """Cross-entropy of the bag's label, and ``weight`` times that of its tiles for the classes that it lacks."""
    target = torch.from_numpy(bag.target).to(output.bag_logits)
    tiles = (functional.softplus(output.instance_logits).mean(dim=0) * (1.0 - target)).sum()
    return functional.binary_cross_entropy_with_logits(output.bag_logits, target, reduction="sum") + weight * tiles


def known_layers(bags: Sequence[Bag], chosen: Sequence[NDArray[np.integer]]) -> Tensor | None:
    """What is known of the chosen tiles of bags, one after another, float [N, 2, s, s]; None when nothing is."""
    layers = [None if bag.known is None else bag.known(indices) for bag, indices in zip(bags, chosen, strict=True)]
    shapes = [part.shape[1:] for part in layers if part is not None]
    if not any(part is not None and part.any() for part in layers):
        return None
    empty = [np.zeros((len(indices), *shapes[0]), np.float32) for indices in chosen]
    return torch.from_numpy(
        np.concatenate([blank if part is None else part for part, blank in zip(layers, empty, strict=True)])
    )


def known_loss(cam: Tensor, layers: Tensor | None) -> Tensor:
    """Cross-entropy of the instances that a person decided on, positive and negative weighing alike; 0 without any.

    ``cam`` float [n, C, h, w] of one bag; what is known concerns the first class.
    """
    if layers is None:
        return cam.new_zeros(())
    positive, negative = _known_instances(cam, layers)
    loss = cam.new_zeros(())
    for instances, sign in ((positive, -1.0), (negative, 1.0)):
        if instances.any():
            loss = loss + functional.softplus(sign * cam[:, 0][instances]).mean()
    return loss


def _known_instances(cam: Tensor, layers: Tensor) -> tuple[Tensor, Tensor]:
    """The cells of a CAM that lie at least half in what is known, bool [n, h, w] each."""
    share = functional.adaptive_avg_pool2d(layers.to(cam), (cam.shape[-2], cam.shape[-1]))
    return share[:, 0] >= 0.5, share[:, 1] >= 0.5


def contrast_loss(cam: Tensor, bag: Bag, layers: Tensor | None = None) -> Tensor:
    """Tumour against the other tissue of the same slide, where stain and scanner do not matter.

    Of a positive bag's instances, CAM logits float [N, C, h, w], those that look least like the class are taken as
    negative and those that look most like it as positive, as CLAM (Lu et al. 2021) does with tiles. Instances that a
    person decided on (``layers``, see ``known_loss``) are left out.
    """
    losses = [cam.new_zeros(())]
    unknown = torch.ones_like(cam[:, 0], dtype=torch.bool)
    if layers is not None:
        positive, negative = _known_instances(cam, layers)
        unknown = ~(positive | negative)
    for logits, target in zip(cam.movedim(1, 0), bag.target, strict=True):
        if target and unknown.any():
            ranked = logits[unknown].sort().values
            top, bottom = max(1, round(len(ranked) * _TOP_SHARE)), max(1, round(len(ranked) * _BOTTOM_SHARE))
            losses.append(functional.softplus(ranked[:bottom]).mean() + functional.softplus(-ranked[-top:]).mean())
    return torch.stack(losses).sum()


def _draw(bags: Sequence[Bag], count: int, rng: np.random.Generator) -> list[Bag]:
    """``count`` bags in random order, each as often as the others, give or take one."""
    orders = [rng.permutation(len(bags)) for _ in range(-(-count // len(bags)))]
    return [bags[index] for index in np.concatenate(orders)[:count]]
