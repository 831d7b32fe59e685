"""The options of every command: one frozen record each, the defaults written once, here.

Order of strength: command line, then wsplf.toml, then the default below. Lengths are in micrometres so that they mean
the same on every scanner.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProjectOptions:
    """How to reach the project, its slides and its labels."""

    backend: str = "embedded"
    slides: Path | None = None
    """Folder in which slides are searched by name and size when the recorded path is gone."""
    images: str | None = None
    """Regular expression; only entries whose name it finds are worked on."""
    mpp_override: float | None = None
    """Micrometres per pixel at level 0 for slides that do not say."""
    label_key: str = "label"
    positive: tuple[str, ...] = ("tumor",)
    negative: tuple[str, ...] = ("normal",)
    path_class: str = "Tumor"


@dataclass(frozen=True, slots=True)
class TileOptions:
    """How tiles are read."""

    mpp: float = 1.0
    tile_px: int = 224
    min_tissue: float = 0.25


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What every long command takes."""

    device: str = "auto"
    seed: int = 0
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PseudolabelOptions:
    """``wsplf pseudolabel``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    tiles: TileOptions = field(default_factory=TileOptions)
    run: RunOptions = field(default_factory=RunOptions)
    backbone: str = "small"
    backbone_weights: Path | None = None
    head: str = "gated-attention"
    prompts: str = "spread"
    sam: str = "tiny"
    sam_checkpoint: Path | None = None
    epochs: int = 12
    min_area_um2: float = 2000.0
    """Smaller pieces are dropped: about twenty tumour nuclei."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """``wsplf train``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    tiles: TileOptions = field(default_factory=TileOptions)
    run: RunOptions = field(default_factory=RunOptions)
    segmenter: str = "unet"
    name: str = "default"
    epochs: int = 20


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """``wsplf segment``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    run: RunOptions = field(default_factory=RunOptions)
    model: str = "default"
    threshold: float = 0.5
    min_area_um2: float = 2000.0


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """``wsplf evaluate``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    truth: Path = Path("truth")
    origin: str = "pseudolabel"
    tolerance_um: float = 5.0
    """Distance within which two boundaries count as the same."""
