"""SAM's mask decoder tuned on the cohort's own CAMs, and again on the masks that it makes then: the rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.cohort.class_tracker import Curves
from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.errors import SlideError
from wsplf_cli.networks.sam import Sam
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.schema import Tracker
from wsplf_cli.weak.polygons import Cams
from wsplf_cli.weak.prompts import FOREGROUND, Strategy
from wsplf_cli.weak.sam import refiners
from wsplf_cli.weak.sam.embeddings import Embedder
from wsplf_cli.weak.sam.refine import Refiner, Window, agreement, cam_of, windows_on
from wsplf_cli.weak.sam.tuning import Example, TuneSettings, overlap_loss, robust_loss, steps_of, tune

#: Windows that a decoder is tuned on, over all slides together: a few minutes on one CPU core with the tiny SAM.
MOST_WINDOWS = 240
#: A window's mask goes into the next round when it agrees with the CAM at least so much.
LEAST_AGREEMENT = 0.6
#: The paper's selection: so much of SAM's mask lies in the CAM's foreground.
LEAST_IN_CAM = 0.9
#: No pixel is trusted less than this, or nothing would be learned where it is needed, at the borders.
LEAST_WEIGHT = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """A window of a slide by where it is, so that no slide stays open for it."""

    slide: CohortSlide
    x_px0: float
    y_px0: float
    side_px: int
    downsample: float
    cell_px0: float

    def window(self) -> Window:
        """The window on the slide, which is opened where it is not."""
        return Window(self.slide.slide(), self.x_px0, self.y_px0, self.side_px, self.downsample)


@dataclass(frozen=True, slots=True)
class Tuned:
    """The SAM of the last round, and for each round how many windows it learned from."""

    sam: Sam
    windows: tuple[int, ...]


def tune_rounds(
    sam: Sam,
    slides: Sequence[CohortSlide],
    cams: Cams,
    *,
    cell_px0: Mapping[str, float],
    embed: Embedder,
    strategy: Strategy,
    options: PseudolabelOptions,
    run: Curves,
    tracker: Tracker,
) -> Tuned:
    """Tune a decoder ``options.recipe.rounds`` times, each time from that of ``sam``.

    The first round learns the CAM's foreground, or the masks of ``sam``; each next one the masks that the one before
    makes on the same windows. Only masks that pass the selection count; it ends early when none does.

    Args:
        sam: Left as it is.
        slides: The positive slides.
        cams: See ``Cams``.
        cell_px0: Level-0 pixels of a cell of a slide's CAM, by entry id.
        embed: Gives the embeddings.
        strategy: Makes the prompts.
        options: Rounds, selection and loss.
        run: Gets the curves.
        tracker: Where progress is told.
    """
    cams = _last_kept(cams)
    # of its own, so that the polygons' random numbers are the same whatever the rounds
    rng = np.random.default_rng([options.run.seed, 1])
    places = _readable(
        _places(slides, cams, sam=sam, cell_px0=cell_px0, options=options, rng=rng), embed, tracker=tracker
    )
    alone = options.recipe.refiner == "sam-only"
    settings = TuneSettings(multimask=not alone)
    loss = robust_loss if options.recipe.robust_loss else overlap_loss
    tuned, counts = sam, []
    curves: dict[str, list[float]] = {}
    local = {index: _local_cam(place, cams, size=sam.mask_px) for index, place in enumerate(places)}
    for number in range(1, options.recipe.rounds + 1):
        if number == 1 and options.recipe.first_round == "cam":
            examples = [_example(place, local[index], local[index], embed) for index, place in enumerate(places)]
        else:
            refiner = refiners.build(options.recipe.refiner, sam=tuned, embed=embed, strategy=strategy)
            tracker.start(f"masks for round {number}", len(places))
            made = [
                _own_mask(place, local[index], refiner, cams, options=options, embed=embed, rng=rng, tracker=tracker)
                for index, place in enumerate(places)
            ]
            examples = [example for example in made if example is not None]
        counts.append(len(examples))
        if not examples:
            tracker.say(f"round {number}: no mask passed the selection; the decoder of round {number - 1} is kept")
            break
        tracker.start(f"round {number}", settings.epochs * steps_of(len(examples), settings))
        tuned = sam.with_own_decoder()
        curve = tune(tuned, examples, strategy=strategy, loss=loss, settings=settings, rng=rng, track=tracker)
        curves[f"round {number}"] = curve.loss
        run.curve("SAM decoder loss", x=range(1, settings.epochs + 1), y=curves)
    return Tuned(tuned, tuple(counts))


def _last_kept(cams: Cams) -> Cams:
    """The same CAMs; that of the slide asked for last is not computed again, since windows come slide by slide."""
    last: dict[str, NDArray[np.float32]] = {}

    def cam(slide: CohortSlide) -> NDArray[np.float32]:
        if slide.entry.id not in last:
            last.clear()
            last[slide.entry.id] = cams(slide)
        return last[slide.entry.id]

    return cam


def _places(
    slides: Sequence[CohortSlide],
    cams: Cams,
    *,
    sam: Sam,
    cell_px0: Mapping[str, float],
    options: PseudolabelOptions,
    rng: np.random.Generator,
) -> list[Place]:
    """Windows over the foreground, as many of one slide as of another as far as they have them."""
    each = max(1, MOST_WINDOWS // max(1, len(slides)))
    places = []
    for slide in slides:
        cell = cell_px0[slide.entry.id]
        groups = windows_on(
            slide.slide(),
            cams(slide),
            side_px=sam.side_px,
            cell_px0=cell,
            mpp=options.mpp,
            mpp_slide=slide.mpp_slide,
        )
        windows = [window for group in groups for window in group]
        for index in np.sort(rng.permutation(len(windows))[:each]):
            one = windows[index]
            places.append(Place(slide, one.x_px0, one.y_px0, one.side_px, one.downsample, cell))
    return places


def _readable(places: Sequence[Place], embed: Embedder, *, tracker: Tracker) -> list[Place]:
    """The windows that can be read, now that each is embedded; of a damaged slide the others are used."""
    found = []
    tracker.start("embeddings", len(places))
    for place in places:
        try:
            embed(place.window())
        except SlideError as error:
            tracker.say(f"{place.slide.entry.name}: a window is left out: {error.message}")
        else:
            found.append(place)
        tracker.advance(1, message=place.slide.entry.name)
    return found


def _local_cam(place: Place, cams: Cams, *, size: int) -> NDArray[np.float32]:
    return cam_of(place.window(), cams(place.slide), cell_px0=place.cell_px0, size=size)


def _example(place: Place, cam: NDArray[np.float32], vote: NDArray[np.float32], embed: Embedder) -> Example:
    """A window whose target is where ``vote`` is foreground; the nearer a vote is to the middle, the less it counts."""
    weight = np.clip(np.abs(2 * vote - 1), LEAST_WEIGHT, 1.0).astype(np.float32)
    return Example(lambda: embed(place.window()), cam, vote >= FOREGROUND, weight)


def _own_mask(
    place: Place,
    cam: NDArray[np.float32],
    refiner: Refiner,
    cams: Cams,
    *,
    options: PseudolabelOptions,
    embed: Embedder,
    rng: np.random.Generator,
    tracker: Tracker,
) -> Example | None:
    """The window with the mask that the last round's decoder makes on it, None where it is not selected."""
    full = _local_cam(place, cams, size=place.side_px)
    votes = refiner(place.window(), full, rng)
    tracker.advance(1)
    mask = votes.vote >= FOREGROUND
    if options.recipe.selection == "ids":
        kept = refiners.share_in_cam(mask, full) >= LEAST_IN_CAM
    else:
        kept = agreement(mask, full) >= LEAST_AGREEMENT
    if not kept:
        return None
    size = len(cam)
    step = len(full) // size
    vote = votes.vote.reshape(size, step, size, step).mean(axis=(1, 3), dtype=np.float32)
    return _example(place, cam, vote, embed)
