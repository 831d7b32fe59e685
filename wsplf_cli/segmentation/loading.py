"""A trained model, found by its name or path and made ready to use: one of the project, or one from elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from wsplf_cli.class_names import is_a
from wsplf_cli.cohort.labels import classes_of
from wsplf_cli.errors import ConfigError, SlideError
from wsplf_cli.networks.device import pick_device
from wsplf_cli.networks.inference import ArrayFunction, on_arrays
from wsplf_cli.options import ProjectOptions
from wsplf_cli.runs import layout
from wsplf_cli.schema import Entry
from wsplf_cli.segmentation import checkpoint as checkpoints
from wsplf_cli.segmentation import likeness
from wsplf_cli.segmentation.checkpoint import Checkpoint
from wsplf_cli.segmentation.export import onnx_model
from wsplf_cli.segmentation.export.onnx_model import OnnxNetwork
from wsplf_cli.segmentation.likeness import TrainingAppearance

#: A model from elsewhere is not applied to slides that are coarser than its tiles by more than this. Scanners of the
#: same nominal magnification differ by less.
MAX_ENLARGEMENT = 1.25


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A trained model, ready to use: the network as a function, its description, and the threshold in use.

    Another process gets its ``path``, and loads it again on the device that was ``asked`` for.
    ``appearance`` is what the slides that it learned from look like, where the model says so.
    """

    infer: ArrayFunction
    checkpoint: Checkpoint
    threshold: float
    device: str = "cpu"
    from_elsewhere: bool = False
    path: Path = Path()
    asked: str = "auto"
    appearance: TrainingAppearance | None = None

    def __reduce__(self) -> tuple[Callable[..., "LoadedModel"], tuple[object, ...]]:
        """How another process makes it."""
        return _load_again, (self.path, self.threshold, self.asked, self.from_elsewhere)

    @property
    def confidences(self) -> tuple[float, ...]:
        """For each class the mean probability that a polygon must have; 0 in a model of an earlier version."""
        return self.checkpoint.confidences or (0.0,) * len(self.checkpoint.classes)

    @property
    def slide_confidences(self) -> tuple[float, ...]:
        """For each class the confidence that a slide must have; 0 in a model of an earlier version."""
        return self.checkpoint.slide_confidences or (0.0,) * len(self.checkpoint.classes)

    @property
    def bounded(self) -> bool:
        """Whether its bounds on false positives are known and hold, which they do at its own threshold only."""
        return bool(self.checkpoint.bounds) and self.threshold == self.checkpoint.threshold


def find_model(project_folder: Path, name: str) -> Path:
    """The project's model of this name, else the model folder or the .onnx file at this path."""
    in_project = layout.model_folder(project_folder, name)
    elsewhere = Path(name)
    is_elsewhere = elsewhere.is_dir() or elsewhere.suffix == onnx_model.SUFFIX
    return in_project if in_project.is_dir() or not is_elsewhere else elsewhere


def is_from_elsewhere(project_folder: Path, model: Path) -> bool:
    """Whether a model is not one that this project trained."""
    return model.absolute().parent != layout.models_folder(project_folder).absolute()


def describe_model(path: Path) -> Checkpoint:
    """What a model is, without its weights.

    Raises:
        ConfigError: There is no model, or it cannot be used.
        MissingDependency: It is an .onnx file, and ONNX Runtime is not installed.
    """
    if path.suffix == onnx_model.SUFFIX and not path.is_dir():
        return OnnxNetwork(path, name=str(path)).checkpoint
    return checkpoints.read(path)


def load_model(path: Path, *, threshold: float | None, device: str, from_elsewhere: bool = False) -> LoadedModel:
    """A model on a device, in float32 on a CPU.

    Args:
        path: A model folder or an .onnx file.
        threshold: Replaces the model's own.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        from_elsewhere: The model is not one of the project.

    Raises:
        ConfigError: There is no model, it cannot be used, or there is no such device.
        MissingDependency: It is an .onnx file, and ONNX Runtime is not installed.
    """
    asked = device
    if path.suffix == onnx_model.SUFFIX and not path.is_dir():
        device = onnx_model.pick_provider(device)
        exported = OnnxNetwork(path, name=str(path), device=device)
        infer: ArrayFunction = exported.infer
        checkpoint = exported.checkpoint
    else:
        picked = pick_device(device)
        checkpoint, network = checkpoints.load(path, device=picked)
        infer, device = on_arrays(network, device=picked, activation=torch.sigmoid), str(picked)
    threshold = checkpoint.threshold if threshold is None else threshold
    appearance = likeness.read(_appearance_file(path))
    return LoadedModel(infer, checkpoint, threshold, device, from_elsewhere, path.absolute(), asked, appearance)


def _load_again(path: Path, threshold: float, asked: str, from_elsewhere: bool) -> LoadedModel:
    return load_model(path, threshold=threshold, device=asked, from_elsewhere=from_elsewhere)


def _appearance_file(model: Path) -> Path:
    """Where it says what the training slides of a model look like: in its folder, or beside an .onnx file."""
    return (model if model.is_dir() else model.parent) / likeness.FILE


def unnamed_classes(classes: Sequence[str], options: ProjectOptions) -> list[str]:
    """The classes of a model that no word of the labels means."""
    named = classes_of(options)
    return [name for name in classes if not any(is_a(path_class, name) for path_class in named)]


def require_classes(checkpoint: Checkpoint, options: ProjectOptions) -> None:
    """Refuse a model from elsewhere whose classes are not those that the user named.

    Raises:
        ConfigError: The words of the labels or the class were set, and a class of the model is not among them.
    """
    defaults = ProjectOptions()
    named = (options.positive, options.path_class) != (defaults.positive, defaults.path_class)
    missing = unnamed_classes(checkpoint.classes, options)
    if named and missing:
        raise ConfigError(
            f"the model outlines {', '.join(checkpoint.classes)}; --positive and --path-class name only"
            f" {', '.join(classes_of(options))}",
            hint=f"--positive WORD={missing[0]}",
        )


def require_pixel_size(entry: Entry, checkpoint: Checkpoint, mpp_slide: float) -> None:
    """Refuse a slide that is clearly coarser than the tiles of a model from elsewhere.

    Raises:
        SlideError: The slide would have to be enlarged.
    """
    if mpp_slide > MAX_ENLARGEMENT * checkpoint.mpp:
        raise SlideError(
            f"{entry.name}: the slide has {mpp_slide:.3g} um per pixel, the model needs {checkpoint.mpp:g}",
            hint="use a model that was trained on such slides",
        )
