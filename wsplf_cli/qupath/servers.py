"""Reads the server builders of an entry: its file, the steps from the file to its image, its size and mpp."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsplf_cli.qupath import gson
from wsplf_cli.qupath.images import uri_path
from wsplf_cli.schema import Step
from wsplf_cli.slides.properties import mean_mpp
from wsplf_cli.slides.transforms import view_of

_MICROMETRE = {"µm", "μm", "um"}  # QuPath writes the first (U+00B5)
_ROTATIONS = {"ROTATE_NONE": 0, "ROTATE_90": 1, "ROTATE_180": 2, "ROTATE_270": 3}
_FLIPS = {"NONE": (0, 0), "HORIZONTAL": (1, 0), "VERTICAL": (0, 1), "BOTH": (1, 1)}
_AFFINE = ("m00", "m10", "m01", "m11", "m02", "m12")
_MOST_BUILDERS = 100
_HUGE = 2**31  # sizes are Java ints


@dataclass(frozen=True, slots=True)
class Server:
    """An entry's image as its builders describe it; sizes are (width, height), (0, 0) where they are not given.

    ``size_px0`` and ``mpp`` are of the image that QuPath shows, ``file_size_px0`` is of the file at ``uri``; ``steps``
    lead from the file to the image. ``mpp`` is the mean of ``mpp_xy``. ``trouble`` says why the pixels cannot be read;
    it is empty when they can.
    """

    uri: str
    file_size_px0: tuple[int, int]
    crop_to_bounds: bool
    steps: tuple[Step, ...]
    size_px0: tuple[int, int]
    mpp: float | None
    name: str
    trouble: str = ""
    mpp_xy: tuple[float, float] | None = None
    channels: int = 3
    z_slices: int = 1
    time_points: int = 1


def builders(image: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The chain of an entry's server builders, from the outermost to the one that names the file."""
    chain: list[dict[str, Any]] = []
    builder = image.get("serverBuilder")
    while isinstance(builder, dict) and len(chain) < _MOST_BUILDERS:
        chain.append(builder)
        builder = builder.get("builder")
    return chain


def describe(chain: Sequence[Mapping[str, Any]]) -> Server:
    """The image that a chain of builders describes, outermost builder first."""
    source = chain[-1] if chain else {}
    steps, trouble = _steps(chain)
    trouble = trouble or _file_trouble(source)
    # the outermost builder with metadata has the size that QuPath shows, before the steps of the builders around it
    outermost = next((outermost for outermost, builder in enumerate(chain) if builder.get("metadata")), len(chain))
    metadata = gson.as_object(chain[outermost].get("metadata")) if outermost < len(chain) else {}
    size, mpp_xy = _size(metadata), _mpp_xy(metadata)
    mpp = None if mpp_xy is None else mean_mpp(mpp_xy)
    around = _steps(chain[:outermost])[0]
    if around and min(size) > 0:
        view = view_of(around, size)
        size, mpp = (view.width_px0, view.height_px0), None if mpp is None else mpp * view.scale
        mpp_xy = None if mpp_xy is None else view.mpp_xy(mpp_xy)
    return Server(
        uri=str(source.get("uri") or ""),
        file_size_px0=_size(gson.as_object(source.get("metadata"))),
        crop_to_bounds=_crops(source),
        steps=() if trouble else steps,
        size_px0=size,
        mpp=mpp,
        name=str(metadata.get("name") or ""),
        trouble=trouble,
        mpp_xy=mpp_xy,
        channels=len(gson.as_list(metadata.get("channels"))) or 3,
        z_slices=_count(metadata, "sizeZ"),
        time_points=_count(metadata, "sizeT"),
    )


def files(builder: Any) -> Iterator[dict[str, Any]]:
    """The builders that name a file, at any depth of a server builder, also those of channels and regions."""
    stack = [builder]
    while stack:
        value = stack.pop()
        if isinstance(value, list):
            stack += reversed(value)
        elif isinstance(value, dict):
            if isinstance(value.get("uri"), str):
                yield value
            stack += reversed([value for key, value in value.items() if key != "metadata"])


def _crops(source: Mapping[str, Any]) -> bool:
    """Whether the reader crops a slide to its scanned part: QuPath's OpenSlide does, unless it has --no-crop."""
    return "--no-crop" not in gson.as_list(source.get("args")) and "bioformats" not in str(
        source.get("providerClassName")
    )


def _steps(chain: Sequence[Mapping[str, Any]]) -> tuple[tuple[Step, ...], str]:
    """The steps of a chain from the slide outward, or why its pixels cannot be read."""
    steps: list[Step] = []
    for builder in reversed(chain):
        kind = str(builder.get("builderType"))
        if kind in {"uri", "pyramidize"} or (kind == "None" and "uri" in builder):
            continue
        step = _step(kind, builder)
        if step is None:
            return (), f"the pixels of a {kind} image are not supported (its annotations can be read and written)"
        steps.append(step)
    return tuple(steps), ""


def _step(kind: str, builder: Mapping[str, Any]) -> Step | None:
    """The step of one builder; None for a builder that changes pixels in another way."""
    rotation, flip = str(builder.get("rotation")), str(builder.get("flip"))
    if kind == "rotated" and rotation in _ROTATIONS:
        return Step("rotated", (_ROTATIONS[rotation],))
    if kind == "flipped" and flip in _FLIPS:
        return Step("flipped", _FLIPS[flip])
    if kind == "cropped":
        region = gson.as_object(builder.get("region"))
        values = _numbers(region, ("x", "y", "width", "height"))
        one_plane = not region.get("z") and not region.get("t")
        return Step("cropped", values) if values and min(values[2:]) >= 1 and one_plane else None
    if kind == "affine":
        values = _numbers(gson.as_object(builder.get("transform")), _AFFINE)
        size = _size(gson.as_object(builder.get("metadata")))
        if values and abs(values[0] * values[3] - values[1] * values[2]) > 1e-9:
            return Step("affine", values, size_px0=size if min(size) > 0 else None)
    order = str(builder.get("order", ""))
    if kind == "swapRedBlue" and sorted(order) == ["B", "G", "R"]:
        return Step("reordered", tuple(float("RGB".index(letter)) for letter in order))
    return None


def _file_trouble(source: Mapping[str, Any]) -> str:
    uri, args = str(source.get("uri") or ""), gson.as_list(source.get("args"))
    if not uri:
        return "the project does not say where its image is"
    if uri_path(uri) is None:
        return f"its image is not a file but {uri}"
    series = args[args.index("--series") + 1 :][:1] if "--series" in args else []
    if series not in ([], ["0"]):
        return f"it is image {series[0]} of its file; only the first one of a file is supported"
    return ""


def _mpp_xy(metadata: Mapping[str, Any]) -> tuple[float, float] | None:
    """Micrometres per pixel along x and y of QuPath's calibration, or None when it has none."""
    calibration = gson.as_object(metadata.get("pixelCalibration"))
    sides = [gson.as_object(calibration.get(key)) for key in ("pixelWidth", "pixelHeight")]
    if any(str(side.get("unit")) not in _MICROMETRE for side in sides):
        return None
    lengths = [_numbers(side, ("value",)) for side in sides]
    mpp_xy = [length[0] for length in lengths if length is not None and length[0] > 0]
    return (mpp_xy[0], mpp_xy[1]) if len(mpp_xy) == 2 else None


def _size(metadata: Mapping[str, Any]) -> tuple[int, int]:
    width, height = (_numbers(metadata, (key,)) for key in ("width", "height"))
    return (int(width[0]) if width else 0, int(height[0]) if height else 0)


def _count(metadata: Mapping[str, Any], key: str) -> int:
    """How many planes there are along an axis; 1 where it is not given."""
    value = _numbers(metadata, (key,))
    return max(1, int(value[0])) if value else 1


def _numbers(record: Mapping[str, Any], keys: Sequence[str]) -> tuple[float, ...] | None:
    """The values of ``keys``; None unless all are numbers in the range of Java's int."""
    values = [record.get(key) for key in keys]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    converted = tuple(float(value) for value in numbers if abs(value) < _HUGE)  # false for NaN too
    return converted if len(converted) == len(keys) else None
