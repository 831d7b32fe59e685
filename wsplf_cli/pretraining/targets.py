"""Training data of the tiny SAM: synthetic windows, targets in them, and prompts as good and as bad as real ones.

A target is one gland or nest, all glands of one type (without those of another type beside them), glands near each
other, or a piece of other tissue. Maps have a quarter of the side of the window, as the masks of the tiny SAM.
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
from wsplf_cli.synthetic.stain import jpeg, random_appearance, render
from wsplf_cli.synthetic.tissue import random_layout, stain_densities
from wsplf_cli.weak.prompts import FOREGROUND, Strategy
from wsplf_cli.weak.prompts._points import distance

WINDOW_PX = 256
MAP_PX = 64
#: Smallest and largest share of a map for a target: a CAM does not show a smaller one, a larger one has no background.
AREA_LIMITS = (0.004, 0.9)
MPP = (0.7, 1.8)

Map = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Window:
    """A synthetic window, ``rgb`` uint8 [256, 256, 3], and its maps int16 [64, 64].

    ``tissue`` numbers the kinds of tissue and of glands, ``instance`` the glands (0: none); ``structure`` is an index
    into ``synthetic.kinds.STRUCTURES``.
    """

    rgb: NDArray[np.uint8]
    tissue: Map
    instance: Map
    structure: Map


@dataclass(frozen=True, slots=True)
class Target:
    """``mask`` bool [64, 64]; ``parts`` int [64, 64], the numbers of its glands or pieces, 0 outside."""

    mask: NDArray[np.bool_]
    parts: NDArray[np.int_]


@dataclass(frozen=True, slots=True)
class Task:
    """A prompt in pixels of the map, its true mask bool [64, 64], and the CAM float32 [64, 64] that it was made of."""

    prompt: Prompt
    mask: NDArray[np.bool_]
    cam: NDArray[np.float32] | None = None


def generate_window(rng: np.random.Generator) -> Window:
    """A synthetic window at a random mpp. A gland has one number in ``tissue``, with its lumen."""
    mpp = float(np.exp(rng.uniform(*np.log(MPP))))
    layout = random_layout(rng, (WINDOW_PX, WINDOW_PX), mpp)
    densities = stain_densities(rng, layout)
    appearance = random_appearance(rng)
    rgb = jpeg(render(rng, (densities.h, densities.e, densities.red), appearance), appearance.jpeg_quality)
    structure = structure_map(layout)
    tissue = layout.kind.astype(np.int16)
    for instance in np.unique(layout.instance[layout.instance > 0]):
        gland = layout.instance == instance
        wall = layout.kind[gland & (structure == EPITHELIUM)]
        if wall.size:
            tissue[gland] = np.bincount(wall).argmax()
    cell_centres = (slice(2, None, 4), slice(2, None, 4))
    maps = (tissue, layout.instance.astype(np.int16), structure.astype(np.int16))
    return Window(rgb, *(values[cell_centres] for values in maps))


def generate_windows(count: int, *, seed: tuple[int, ...]) -> list[Window]:
    """Synthetic windows that contain a target."""
    rng = np.random.default_rng(seed)
    windows: list[Window] = []
    while len(windows) < count:
        window = generate_window(rng)
        if choose_target(rng, window.tissue, window.instance) is not None:
            windows.append(window)
    return windows


def choose_target(rng: np.random.Generator, tissue: Map, instance: Map) -> Target | None:
    """A random target in the window, or None where there is none of a suitable size."""
    glands = instance > 0
    for _ in range(6):
        kind = rng.choice(["gland", "near", "type", "piece"], p=[0.42, 0.16, 0.2, 0.22]) if glands.any() else "piece"
        on_glands = glands | ~glands.any()
        row, column = _random_pixel(rng, ~glands if kind == "piece" and not glands.all() else on_glands)
        alike = (tissue == tissue[row, column]) & (glands == glands[row, column])
        parts = np.where(alike, instance, 0) if glands[row, column] else label(alike)[0]
        if kind in ("gland", "piece"):
            parts = np.where(parts == parts[row, column], parts, 0)
        elif kind == "near":
            reach = rng.uniform(0.2, 0.5) * MAP_PX
            rows, columns = np.mgrid[:MAP_PX, :MAP_PX]
            close = np.hypot(rows - row, columns - column) < reach
            parts = np.where(np.isin(parts, np.unique(parts[close])), parts, 0)
        mask = parts > 0
        if AREA_LIMITS[0] <= mask.mean() <= AREA_LIMITS[1]:
            return Target(mask=mask, parts=parts)
    return None


def _random_pixel(rng: np.random.Generator, allowed: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of a random allowed pixel of a map."""
    pixel = int(rng.choice(np.flatnonzero(allowed)))
    return pixel // MAP_PX, pixel % MAP_PX


def strategies() -> dict[str, Strategy]:
    """The prompt strategies, by name."""
    return {name: plugins.load("weak.prompts", name).build() for name in plugins.names("weak.prompts")}


def make_prompts(
    rng: np.random.Generator, targets: Sequence[Target], strategy_of: Mapping[str, Strategy]
) -> list[Task]:
    """For each target a prompt and the true mask of this prompt.

    All prompts have the same number of points, and all have a box or none has, so that they form one batch; and all or
    none have a CAM.
    """
    kind = str(rng.choice(["spread", "sampled", "boxes", "box", "points"], p=[0.3, 0.05, 0.1, 0.2, 0.35]))
    pointed = rng.random() < 0.35
    tasks = []
    for target in targets:
        strategy = strategy_of.get(kind)
        task = None if strategy is None else _task_from_cam(rng, target, strategy)
        if task is None and kind in ("box", "boxes"):
            task = Task(box(rng, target.mask, pointed=pointed or kind == "boxes"), target.mask)
        if task is None:
            inside, outside = int(rng.integers(1, 7)), int(rng.choice([0, 0, 1, 3, 5]))
            task = Task(*points_on_parts(rng, target, inside=inside, outside=outside))
        tasks.append(task)
    if any(task.cam is None for task in tasks):
        tasks = [Task(task.prompt, task.mask) for task in tasks]
    count = max(len(task.prompt.points_px) for task in tasks)
    return [Task(_with_points_repeated(rng, task.prompt, count=count), task.mask, task.cam) for task in tasks]


def points_on_parts(
    rng: np.random.Generator, target: Target, *, inside: int, outside: int
) -> tuple[Prompt, NDArray[np.bool_]]:
    """A prompt of points and what it asks for: the whole target if the points are on two parts of it, else one part.

    Points that are all in one gland ask for this gland, so that a prompt has one right answer.
    """
    numbers = np.unique(target.parts[target.mask])
    if len(numbers) > 1 and inside == 1:
        part = target.parts == rng.choice(numbers)
        return points(rng, part, inside=1, outside=outside), part
    prompt = points(rng, target.mask, inside=inside, outside=outside)
    if len(numbers) > 1:
        columns, rows = np.floor(prompt.points_px[:inside]).astype(int).T
        pointed = np.unique(target.parts[rows, columns])
        if len(pointed) == 1:  # one point moves to another part
            row, column = _random_pixel(rng, target.mask & (target.parts != pointed[0]))
            prompt.points_px[0] = (column + 0.5, row + 0.5)
    return prompt, target.mask


def _with_points_repeated(rng: np.random.Generator, prompt: Prompt, *, count: int) -> Prompt:
    """The prompt with some of its points repeated, so that it has ``count``."""
    present = len(prompt.points_px)
    repeated = rng.integers(present, size=count - present) if count > present else np.zeros(0, int)
    indices = np.append(np.arange(present), repeated).astype(int)
    return Prompt(prompt.points_px[indices], prompt.point_labels[indices], prompt.box_px)


def _task_from_cam(rng: np.random.Generator, target: Target, strategy: Strategy) -> Task | None:
    """A prompt made of a bad CAM; its true mask are the parts of the target in the prompted component of the CAM.

    None where the CAM gives no prompt, or one that is beside the target.
    """
    cam = bad_cam(rng, target.mask)
    prompts = strategy(cam, rng)
    if not prompts:
        return None
    prompt = prompts[int(rng.integers(len(prompts)))]
    columns, rows = np.floor(prompt.points_px[prompt.point_labels == 1]).astype(int).T
    if target.mask[rows, columns].mean() < 0.5:
        return None
    components, _ = label(cam >= FOREGROUND, structure=np.ones((3, 3)))
    covered = np.isin(components, components[rows, columns])
    areas = np.bincount(target.parts.ravel())
    prompted = np.bincount(target.parts[covered], minlength=len(areas)) > 0.5 * areas
    prompted[np.unique(target.parts[rows, columns])] = True
    prompted[0] = False
    others = (components > 0) & ~covered
    return Task(prompt, prompted[target.parts], np.where(others, np.float32(0), cam))


def bad_cam(rng: np.random.Generator, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A CAM like that of a tile classifier, float32 in 0..1: blurred, shifted by some pixels, of uneven strength."""
    cam = gaussian_filter(mask.astype(np.float32), rng.uniform(0.8, 4.5))
    cam = shift(cam, rng.normal(0, 1, size=2), order=1, mode="nearest")
    uneven = zoom(rng.normal(0, 1, size=(6, 6)), MAP_PX / 6, order=1)
    cam = cam * np.exp(rng.uniform(0, 0.6) * uneven) + rng.uniform(0, 0.12) * uneven
    peak = float(np.quantile(cam[mask], 0.95))
    scaled: NDArray[np.float32] = np.clip(cam / max(peak, 0.2) * rng.uniform(0.75, 1.15), 0, 1).astype(np.float32)
    return scaled


def box(rng: np.random.Generator, mask: NDArray[np.bool_], *, pointed: bool) -> Prompt:
    """A prompt of an inexact box around a mask; with one point inside where ``pointed``."""
    rows, columns = np.nonzero(mask)
    edges = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)
    size = np.array([edges[2] - edges[0], edges[3] - edges[1]] * 2)
    corners = np.clip(edges + rng.normal(0, 0.06, size=4) * size, 0, MAP_PX)
    inner = points(rng, mask, inside=int(pointed), outside=0)
    return Prompt(inner.points_px, inner.point_labels, corners.astype(np.float32))


def points(rng: np.random.Generator, mask: NDArray[np.bool_], *, inside: int, outside: int) -> Prompt:
    """A prompt of points. Most of those inside lie deep, half of those outside lie near the border of the mask."""
    depth = distance(mask)
    deep = np.flatnonzero(depth >= rng.choice([1.0, 0.4 * min(depth.max(), MAP_PX)], p=[0.3, 0.7]))
    drawn = [rng.choice(deep, size=inside)]
    distance_outside = distance(~mask)
    near = np.flatnonzero((distance_outside > 1) & (distance_outside < 9))
    far = np.flatnonzero(distance_outside > 1)
    if outside and near.size:
        drawn += [rng.choice(near, size=(outside + 1) // 2), rng.choice(far, size=outside // 2)]
    pixels = np.concatenate(drawn)
    labels = np.zeros(len(pixels), np.int8)
    labels[:inside] = 1
    offset = rng.uniform(0, 1, size=(len(pixels), 2))
    return Prompt((np.stack([pixels % MAP_PX, pixels // MAP_PX], axis=1) + offset).astype(np.float32), labels)


def correct(
    rng: np.random.Generator, prompt: Prompt, *, predicted: NDArray[np.bool_], truth: NDArray[np.bool_]
) -> Prompt:
    """The prompt with one more point, where the mask ``predicted`` (bool [64, 64]) is wrong, if anywhere."""
    wrong = np.flatnonzero(predicted != truth)
    if wrong.size == 0:
        return prompt
    pixel = int(rng.choice(wrong))
    point = np.array([[pixel % MAP_PX + 0.5, pixel // MAP_PX + 0.5]], np.float32)
    inside = np.array([truth.flat[pixel]], np.int8)
    return Prompt(
        np.concatenate([prompt.points_px, point]), np.concatenate([prompt.point_labels, inside]), prompt.box_px
    )
