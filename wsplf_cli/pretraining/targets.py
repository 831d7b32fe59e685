"""What the tiny SAM is asked for: painted windows, targets in them, and prompts as good and as bad as real ones.

Targets are one gland or nest, all of one sort of glands (so that a second sort beside it has to be left out), those
near each other, or a piece of other tissue. Maps are a quarter of the size of the window, as the masks of the tiny SAM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, label, shift, zoom

from wsplf_cli import plugins
from wsplf_cli.schema import Prompt
from wsplf_cli.synthetic.glands import structure_map
from wsplf_cli.synthetic.kinds import EPITHELIUM
from wsplf_cli.synthetic.stain import jpeg, random_look, render
from wsplf_cli.synthetic.tissue import paint, random_plan
from wsplf_cli.weak.prompts import FOREGROUND, Strategy
from wsplf_cli.weak.prompts._points import distance

WINDOW_PX = 256
MAP_PX = 64
#: Of a map: what is smaller cannot be meant by a CAM, what is larger leaves no background to tell it from.
AREA = (0.004, 0.9)
MPP = (0.7, 1.8)

Map = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Window:
    """``rgb`` uint8 [256, 256, 3]; int16 [64, 64]: ``sort`` of tissue or of gland, ``instance`` of gland (0: none),
    and ``structure``, index into ``synthetic.kinds.STRUCTURES``.
    """

    rgb: NDArray[np.uint8]
    sort: Map
    instance: Map
    structure: Map


@dataclass(frozen=True, slots=True)
class Target:
    """``mask`` bool [64, 64]; ``parts`` int [64, 64], the glands or pieces that it is made of, 0 outside."""

    mask: NDArray[np.bool_]
    parts: NDArray[np.int_]


def paint_window(rng: np.random.Generator) -> Window:
    """A painted window at a random mpp. A gland is of one sort throughout, its lumen included."""
    mpp = float(np.exp(rng.uniform(*np.log(MPP))))
    plan = random_plan(rng, (WINDOW_PX, WINDOW_PX), mpp)
    inks = paint(rng, plan)
    look = random_look(rng)
    rgb = jpeg(render(rng, (inks.h, inks.e, inks.red), look), look.jpeg_quality)
    structure = structure_map(plan)
    sort = plan.kind.astype(np.int16)
    for number in np.unique(plan.instance[plan.instance > 0]):
        gland = plan.instance == number
        wall = plan.kind[gland & (structure == EPITHELIUM)]
        if wall.size:
            sort[gland] = np.bincount(wall).argmax()
    some = (slice(2, None, 4), slice(2, None, 4))
    return Window(rgb, sort[some], plan.instance.astype(np.int16)[some], structure.astype(np.int16)[some])


def paint_windows(count: int, *, seed: tuple[int, ...]) -> list[Window]:
    """Painted windows in which there is something to ask for."""
    rng = np.random.default_rng(seed)
    windows: list[Window] = []
    while len(windows) < count:
        window = paint_window(rng)
        if choose_target(rng, window.sort, window.instance) is not None:
            windows.append(window)
    return windows


def choose_target(rng: np.random.Generator, sort: Map, instance: Map) -> Target | None:
    """Something in the window that can be asked for, or None where there is nothing."""
    glands = instance > 0
    for _ in range(6):
        asked = rng.choice(["gland", "near", "sort", "piece"], p=[0.35, 0.2, 0.25, 0.2]) if glands.any() else "piece"
        row, column = _any_place(rng, ~glands if asked == "piece" and not glands.all() else glands | ~glands.any())
        alike = (sort == sort[row, column]) & (glands == glands[row, column])
        parts = np.where(alike, instance, 0) if glands[row, column] else label(alike)[0]
        if asked in ("gland", "piece"):
            parts = np.where(parts == parts[row, column], parts, 0)
        elif asked == "near":
            reach = rng.uniform(0.2, 0.5) * MAP_PX
            rows, columns = np.mgrid[:MAP_PX, :MAP_PX]
            close = np.hypot(rows - row, columns - column) < reach
            parts = np.where(np.isin(parts, np.unique(parts[close])), parts, 0)
        mask = parts > 0
        if AREA[0] <= mask.mean() <= AREA[1]:
            return Target(mask=mask, parts=parts)
    return None


def _any_place(rng: np.random.Generator, allowed: NDArray[np.bool_]) -> tuple[int, int]:
    place = int(rng.choice(np.flatnonzero(allowed)))
    return place // MAP_PX, place % MAP_PX


def strategies() -> dict[str, Strategy]:
    """The prompt strategies, by name."""
    return {name: plugins.load("weak.prompts", name).build() for name in plugins.names("weak.prompts")}


def ask(
    rng: np.random.Generator, targets: Sequence[Target], choices: Mapping[str, Strategy]
) -> list[tuple[Prompt, NDArray[np.bool_]]]:
    """For each target a prompt, in pixels of the map, and the mask bool [64, 64] that is the right answer to it.

    The prompts have one number of points and all have a box or none, so that the decoder takes them as one batch.
    """
    kind = str(rng.choice(["spread", "sampled", "boxes", "box", "points"], p=[0.3, 0.1, 0.15, 0.15, 0.3]))
    pointed = rng.random() < 0.5
    asked = []
    for target in targets:
        found = _ask_cam(rng, target, choices[kind]) if kind in choices else None
        if found is None and kind in ("box", "boxes"):
            found = box(rng, target.mask, pointed=pointed or kind == "boxes"), target.mask
        if found is None:
            inside, outside = int(rng.integers(1, 7)), int(rng.choice([0, 0, 1, 3, 5]))
            found = points(rng, target.mask, inside=inside, outside=outside), target.mask
        asked.append(found)
    most = max(len(prompt.points_px) for prompt, _ in asked)
    return [(_repeated(rng, prompt, count=most), mask) for prompt, mask in asked]


def _repeated(rng: np.random.Generator, prompt: Prompt, *, count: int) -> Prompt:
    """The prompt with some of its points given again, to make ``count``."""
    have = len(prompt.points_px)
    taken = np.append(np.arange(have), rng.integers(have, size=count - have) if count > have else [])
    taken = taken.astype(int)
    return Prompt(prompt.points_px[taken], prompt.point_labels[taken], prompt.box_px)


def _ask_cam(rng: np.random.Generator, target: Target, strategy: Strategy) -> tuple[Prompt, NDArray[np.bool_]] | None:
    """A prompt made of a bad CAM; the answer is the parts of the target that lie in the piece of CAM it is of."""
    cam = bad_cam(rng, target.mask)
    prompts = strategy(cam, rng)
    if not prompts:
        return None
    prompt = prompts[int(rng.integers(len(prompts)))]
    columns, rows = np.floor(prompt.points_px[prompt.point_labels == 1]).astype(int).T
    if target.mask[rows, columns].mean() < 0.5:
        return None
    pieces, _ = label(cam >= FOREGROUND, structure=np.ones((3, 3)))
    covered = np.isin(pieces, pieces[rows, columns])
    areas = np.bincount(target.parts.ravel())
    most = np.bincount(target.parts[covered], minlength=len(areas)) > 0.5 * areas
    most[np.unique(target.parts[rows, columns])] = True
    most[0] = False
    return prompt, most[target.parts]


def bad_cam(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A CAM as a tile classifier gives it: blurred, off by some pixels, of uneven strength; float32 in 0..1."""
    cam = gaussian_filter(mask.astype(np.float32), rng.uniform(0.8, 3.5))
    cam = shift(cam, rng.normal(0, 1, size=2), order=1, mode="nearest")
    uneven = zoom(rng.normal(0, 1, size=(6, 6)), MAP_PX / 6, order=1)
    cam = cam * np.exp(rng.uniform(0, 0.6) * uneven) + rng.uniform(0, 0.12) * uneven
    strongest = float(np.quantile(cam[mask], 0.95))
    scaled: NDArray[np.float32] = np.clip(cam / max(strongest, 0.2) * rng.uniform(0.75, 1.15), 0, 1).astype(np.float32)
    return scaled


def box(rng: np.random.Generator, mask: NDArray[np.bool_], *, pointed: bool) -> Prompt:
    """A prompt of the box of a mask, drawn carelessly; ``pointed``: with one point inside."""
    rows, columns = np.nonzero(mask)
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)
    size = np.array([edges[2] - edges[0], edges[3] - edges[1]] * 2)
    corners = np.clip(edges + rng.normal(0, 0.06, size=4) * size, 0, MAP_PX)
    inner = points(rng, mask, inside=int(pointed), outside=0)
    return Prompt(inner.points_px, inner.point_labels, corners.astype(np.float32))


def points(rng: np.random.Generator, mask: NDArray[np.bool_], *, inside: int, outside: int) -> Prompt:
    """A prompt of points: most of those inside lie deep, half of those outside lie near the border of the mask."""
    depth = distance(mask)
    deep = np.flatnonzero(depth >= rng.choice([1.0, 0.4 * min(depth.max(), MAP_PX)], p=[0.3, 0.7]))
    chosen = [rng.choice(deep, size=inside)]
    beyond = distance(~mask)
    near, far = np.flatnonzero((beyond > 1) & (beyond < 9)), np.flatnonzero(beyond > 1)
    if outside and near.size:
        chosen += [rng.choice(near, size=(outside + 1) // 2), rng.choice(far, size=outside // 2)]
    places = np.concatenate(chosen)
    labels = np.zeros(len(places), np.int8)
    labels[:inside] = 1
    within = rng.uniform(0, 1, size=(len(places), 2))
    return Prompt((np.stack([places % MAP_PX, places // MAP_PX], axis=1) + within).astype(np.float32), labels)


def correct(rng: np.random.Generator, prompt: Prompt, *, found: NDArray[np.bool_], wanted: NDArray[np.bool_]) -> Prompt:
    """The prompt with one more point, where the mask ``found`` (bool [64, 64]) is wrong; the same if it is right."""
    wrong = np.flatnonzero(found != wanted)
    if wrong.size == 0:
        return prompt
    place = int(rng.choice(wrong))
    point = np.array([[place % MAP_PX + 0.5, place // MAP_PX + 0.5]], np.float32)
    inside = np.array([wanted.flat[place]], np.int8)
    return Prompt(
        np.concatenate([prompt.points_px, point]), np.concatenate([prompt.point_labels, inside]), prompt.box_px
    )
