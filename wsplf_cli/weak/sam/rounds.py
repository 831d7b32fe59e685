"""Rounds: SAM's mask decoder is tuned on CAMs or on SAM's own masks, and again on the masks that it then makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.cohort.class_tracker import ClassTracker
from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.errors import SlideError
from wsplf_cli.networks.sam import Sam
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.schema import Tracker
from wsplf_cli.slides.map import SlideMap
from wsplf_cli.slides.window import Window
from wsplf_cli.weak.class_fit import CamsOfClass
from wsplf_cli.weak.prompts import FOREGROUND, Strategy
from wsplf_cli.weak.sam import refiners
from wsplf_cli.weak.sam.embeddings import Embedder
from wsplf_cli.weak.sam.refine import Refiner, cam_of, foreground_windows, soft_dice
from wsplf_cli.weak.sam.tuning import Example, TuneSettings, steps_of, tune

#: Windows that a decoder is tuned on, over all slides: a few minutes on one CPU core with the tiny SAM.
MOST_WINDOWS = 240
#: A window's mask is selected for the next round when its soft Dice with the CAM is at least this. It is stricter than
#: ``refine.LEAST_SOFT_DICE``, because a mask that teaches does more harm than a mask that is joined with the CAM.
SELECTED_SOFT_DICE = 0.6
#: EP-SAM's selection: at least this share of SAM's mask lies in the CAM's foreground.
SELECTED_SHARE_IN_CAM = 0.9
#: No pixel is trusted less than this, or nothing would be learned where it is needed most, at the borders.
LEAST_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class WindowSite:
    """A window of a slide by its position, so that no slide stays open for it."""

    slide: CohortSlide
    x_px0: float
    y_px0: float
    side_px: int
    downsample: float

    def window(self) -> Window:
        """The window on the slide, which is opened if needed."""
        return Window(self.slide.open(), self.x_px0, self.y_px0, self.side_px, self.downsample)


@dataclass(frozen=True, slots=True)
class TunedSam:
    """The SAM of the last round, and how many windows each round learned from."""

    sam: Sam
    windows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Rounds:
    """What all rounds share."""

    cams: CamsOfClass
    embed: Embedder
    strategy: Strategy
    options: PseudolabelOptions
    rng: np.random.Generator
    tracker: Tracker


def tune_rounds(
    sam: Sam,
    cams: CamsOfClass,
    *,
    embed: Embedder,
    strategy: Strategy,
    options: PseudolabelOptions,
    tracker: ClassTracker,
) -> TunedSam:
    """Tune a decoder as often as the recipe says, each time starting from the decoder of ``sam``.

    The first round learns the CAM's foreground, or the masks of ``sam``; each further round learns the masks that the
    decoder before makes on the same windows. Only selected masks count. The rounds end early when no mask is selected.

    Args:
        sam: Is not changed.
        cams: The CAMs of the class; its positive slides are used.
        embed: Gives the embeddings.
        strategy: Makes the prompts.
        options: The recipe: rounds, selection and loss.
        tracker: Where progress is shown and curves are kept.
    """
    recipe = options.recipe
    # Its own generator, so that the random numbers of the polygons do not depend on the rounds.
    rounds = _Rounds(cams, embed, strategy, options, np.random.default_rng([options.run.seed, 1]), tracker)
    sites = _readable(_sites(cams.class_fit.positive_slides, rounds, sam=sam), rounds)
    settings = TuneSettings(multimask=recipe.refiner != "sam-only", robust=recipe.robust_loss)
    tuned, counts = sam, []
    losses: dict[str, list[float]] = {}
    site_cams = [_site_cam(site, cams(site.slide), size=sam.mask_px) for site in sites]
    for index in range(1, recipe.rounds + 1):
        if index == 1 and recipe.first_round == "cam":
            examples = [_example(site, cam, cam, embed) for site, cam in zip(sites, site_cams, strict=True)]
        else:
            refiner = refiners.build(recipe.refiner, sam=tuned, embed=embed, strategy=strategy)
            tracker.start(f"masks for round {index}", len(sites))
            masks = [_selected(site, cam, refiner, rounds) for site, cam in zip(sites, site_cams, strict=True)]
            examples = [example for example in masks if example is not None]
        counts.append(len(examples))
        if not examples:
            tracker.say(f"round {index}: no mask was selected; the decoder of round {index - 1} is kept")
            break
        tracker.start(f"round {index}", settings.epochs * steps_of(len(examples), settings))
        tuned = sam.with_own_decoder()
        curve = tune(tuned, examples, strategy=strategy, settings=settings, rng=rounds.rng, track=tracker)
        losses[f"round {index}"] = curve.loss
        tracker.curve("SAM decoder loss", x=range(1, settings.epochs + 1), y=losses)
    return TunedSam(tuned, tuple(counts))


def _sites(slides: Sequence[CohortSlide], rounds: _Rounds, *, sam: Sam) -> list[WindowSite]:
    """Windows over the foreground, equally many of each slide as far as it has them."""
    per_slide = max(1, MOST_WINDOWS // max(1, len(slides)))
    sites = []
    for slide in slides:
        groups = foreground_windows(
            slide.open(),
            rounds.cams(slide),
            side_px=sam.side_px,
            window_downsample=rounds.options.mpp / slide.mpp,
        )
        windows = [window for group in groups for window in group]
        for index in np.sort(rounds.rng.permutation(len(windows))[:per_slide]):
            window = windows[index]
            sites.append(WindowSite(slide, window.x_px0, window.y_px0, window.side_px, window.downsample))
    return sites


def _readable(sites: Sequence[WindowSite], rounds: _Rounds) -> list[WindowSite]:
    """The windows that can be read; each is embedded. Of a damaged slide the other windows are used."""
    readable = []
    rounds.tracker.start("embeddings", len(sites))
    for site in sites:
        try:
            rounds.embed(site.window())
        except SlideError as error:
            rounds.tracker.say(f"{site.slide.entry.name}: a window is left out: {error.message}")
        else:
            readable.append(site)
        rounds.tracker.advance(1, message=site.slide.entry.name)
    return readable


def _site_cam(site: WindowSite, cam: SlideMap, *, size: int) -> NDArray[np.float32]:
    return cam_of(site.window(), cam, size=size)


def _embedding(embed: Embedder, site: WindowSite) -> NDArray[np.float16]:
    return embed(site.window())


def _example(site: WindowSite, cam: NDArray[np.float32], probability: NDArray[np.float32], embed: Embedder) -> Example:
    """A window whose target is the foreground of ``probability``; a pixel near 0.5 gets little weight."""
    weight = np.clip(np.abs(2 * probability - 1), LEAST_WEIGHT, 1.0).astype(np.float32)
    return Example(partial(_embedding, embed, site), cam, probability >= FOREGROUND, weight)


def _selected(site: WindowSite, cam: NDArray[np.float32], refiner: Refiner, rounds: _Rounds) -> Example | None:
    """The window with the mask that the last decoder makes on it; None where the mask is not selected."""
    window_cam = _site_cam(site, rounds.cams(site.slide), size=site.side_px)
    refined = refiner(site.window(), window_cam, refiner.prompts(window_cam, rounds.rng))
    rounds.tracker.advance(1)
    mask = refined.probability >= FOREGROUND
    if rounds.options.recipe.selection == "ids":
        selected = refiners.share_in_cam(mask, window_cam) >= SELECTED_SHARE_IN_CAM
    else:
        selected = soft_dice(mask, window_cam) >= SELECTED_SOFT_DICE
    if not selected:
        return None
    size = len(cam)
    step = len(window_cam) // size
    probability = refined.probability.reshape(size, step, size, step).mean(axis=(1, 3), dtype=np.float32)
    return _example(site, cam, probability, rounds.embed)
