"""The options of every command: one frozen record each, the defaults written once, here.

Order of strength: command line, then wsplf.toml, then the default below. Lengths are in micrometres so that they mean
the same on every scanner. Each field is an option of the command line (``label_key`` is ``--label-key``) and a key of
wsplf.toml (``label-key``): the records that several commands share at the top level, the rest in the command's table.
"""

import dataclasses
import difflib
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from wsplf_cli.errors import ConfigError

T = TypeVar("T")

SETTINGS = "wsplf.toml"


def _option(default: T, help: str, **limits: Any) -> T:
    """A field with its help text; ``limits`` are above, least, most, choices (of values) or plugins (a folder)."""
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, slots=True)
class ProjectOptions:
    """How to reach the project, its slides and its labels."""

    backend: str = _option("embedded", "How the project is read and written.", plugins="backends")
    slides: Path | None = _option(None, "Folder searched for slides (by name and size) that have moved.")
    images: str | None = _option(None, "Work only on the entries whose name this regular expression finds.")
    mpp_override: float | None = _option(None, "Micrometres per pixel at level 0, for slides that lack it.", above=0)
    label_key: str = _option("label", "Key of the entry metadata that holds the slide label.")
    positive: tuple[str, ...] = _option(("tumor",), "Label of a positive slide; repeat for several.")
    negative: tuple[str, ...] = _option(("normal",), "Label of a negative slide; repeat for several.")
    path_class: str = _option("Tumor", "QuPath class of the polygons.")


@dataclass(frozen=True, slots=True)
class TileOptions:
    """How tiles are read."""

    mpp: float = _option(1.0, "Micrometres per pixel at which tiles are read.", above=0)
    tile_px: int = _option(192, "Side of a tile in pixels.", least=32)
    min_tissue: float = _option(0.25, "Least share of tissue in a tile.", least=0, most=1)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What every long command takes."""

    device: str = _option("auto", "Where networks run.", choices=("auto", "cpu", "cuda", "mps"))
    seed: int = _option(0, "Seed of all random numbers.", least=0)
    dry_run: bool = _option(False, "Do the work, write nothing.")


@dataclass(frozen=True, slots=True)
class DoctorOptions:
    """``wsplf doctor``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    sam_checkpoint: Path | None = _option(None, "SAM checkpoint file to check.")
    registration: bool = _option(
        False, "Prove for every entry that annotations land on their pixels, on a copy of the project."
    )


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``wsplf demo``."""

    out: Path = _option(
        Path("wsplf-demo"), "Folder to make; an earlier demo in it is made anew, anything else is left alone."
    )
    device: str = _option("auto", "Where networks run.", choices=("auto", "cpu", "cuda", "mps"))
    seed: int = _option(0, "Seed of all random numbers.", least=0)


@dataclass(frozen=True, slots=True)
class LabelsOptions:
    """``wsplf labels``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    csv: Path | None = _option(None, "Table with the columns slide and label (patient, split): written to the entries.")
    dry_run: bool = _option(False, "Show what --csv would write, write nothing.")


@dataclass(frozen=True, slots=True)
class PseudolabelOptions:
    """``wsplf pseudolabel``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    tiles: TileOptions = field(default_factory=TileOptions)
    run: RunOptions = field(default_factory=RunOptions)
    backbone: str = _option("small", "Network that reads the tiles: small (shipped), or a name timm knows.")
    backbone_weights: Path | None = _option(None, "Weights file of the backbone (safetensors or PyTorch).")
    head: str = _option("gated-attention", "MIL head.", plugins="heads")
    prompts: str = _option("spread", "How CAMs become prompts for SAM.", plugins="prompts")
    sam: str = _option(
        "tiny", "SAM model; all but tiny need --sam-checkpoint.", choices=("tiny", "vit_b", "vit_l", "vit_h")
    )
    sam_checkpoint: Path | None = _option(None, "Checkpoint file of the SAM model.")
    epochs: int = _option(10, "Epochs of the MIL training.", least=1)
    folds: int = _option(
        3, "Slides are in so many parts, each judged by a classifier that did not see it; 1: by one for all.", least=1
    )
    min_area_um2: float = _option(
        2000.0, "Smaller pieces are dropped (the default: about twenty tumour nuclei).", least=0
    )


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """``wsplf train``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    tiles: TileOptions = field(default_factory=TileOptions)
    run: RunOptions = field(default_factory=RunOptions)
    segmenter: str = _option("unet", "Segmentation model.", plugins="segmenters")
    backbone: str = _option("small", "Encoder of the U-Net: small (shipped), or a name timm knows.")
    backbone_weights: Path | None = _option(None, "Weights file of the backbone (safetensors or PyTorch).")
    sam: str = _option(
        "tiny",
        "SAM model of the sam segmenter; all but tiny need --sam-checkpoint.",
        choices=("tiny", "vit_b", "vit_l", "vit_h"),
    )
    sam_checkpoint: Path | None = _option(None, "Checkpoint file of the SAM model.")
    name: str = _option("default", "Name of the model, a folder under wsplf/models/ of the project.")
    epochs: int = _option(20, "Epochs of the training.", least=1)


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """``wsplf segment``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    run: RunOptions = field(default_factory=RunOptions)
    model: str = _option("default", "Name of a model of this project, or a model folder.")
    threshold: float | None = _option(
        None, "Probability from which a pixel belongs to the class; the model's own by default.", least=0, most=1
    )
    min_area_um2: float = _option(
        2000.0, "Smaller pieces are dropped (the default: about twenty tumour nuclei).", least=0
    )


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """``wsplf evaluate``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    truth: Path = _option(Path("truth"), "Folder of SLIDE-STEM.geojson files, or another project.qpproj.")
    origin: str = _option(
        "pseudolabel", "Which annotations are measured.", choices=("pseudolabel", "prediction", "human")
    )
    tolerance_um: float = _option(5.0, "Distance within which two boundaries count as the same.", least=0)


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """``wsplf report``."""

    project: ProjectOptions = field(default_factory=ProjectOptions)
    out: Path | None = _option(None, "HTML file to write; wsplf/report.html beside the project by default.")
    scores: Path | None = _option(None, "Scores to show: what wsplf evaluate --json printed.")


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """``wsplf project create``."""

    labels: Path | None = _option(
        None, "Table with the columns slide and label (patient, split): written to the entries."
    )
    label_key: str = _option("label", "Key of the entry metadata that holds the slide label.")


@dataclass(frozen=True, slots=True)
class RelinkOptions:
    """``wsplf project relink``."""

    map: tuple[str, ...] = _option(
        (), "OLD=NEW: the start of an address and what stands there now; repeat for several."
    )
    search: Path | None = _option(None, "Folder searched for the slides, by name and size.")
    dry_run: bool = _option(False, "Show what would change, write nothing.")


@dataclass(frozen=True, slots=True)
class UndoOptions:
    """``wsplf undo``."""

    list: bool = _option(False, "List the runs that can be undone, newest first, and stop.")
    dry_run: bool = _option(False, "Show what would be put back, write nothing.")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """``wsplf export``."""

    backend: str = _option("embedded", "How the project is read and written.", plugins="backends")
    images: str | None = _option(None, "Work only on the entries whose name this regular expression finds.")
    out: Path = _option(Path("geojson"), "Folder for one IMAGE-NAME.geojson per entry; made when it is not there.")
    origin: tuple[str, ...] = _option(
        (), "Only annotations of this origin: human, pseudolabel or prediction; repeat for several; all by default."
    )
    compress: bool = _option(False, "Write .geojson.gz, which QuPath 0.7 reads.")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """``wsplf import``."""

    backend: str = _option("embedded", "How the project is read and written.", plugins="backends")
    image: str | None = _option(
        None, "Name of the entry that gets the annotations; by default the one whose name is the file's."
    )
    asap_class: tuple[str, ...] = _option(
        (), "GROUP=CLASS: QuPath class of an ASAP annotation group; repeat for several; GROUP= leaves it out."
    )
    dry_run: bool = _option(False, "Show what would be added, write nothing.")


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """``wsplf scripts install``."""

    force: bool = _option(False, "Replace scripts of the same name that were changed.")


#: The options record of each command that reads wsplf.toml.
COMMANDS: Mapping[str, type] = {
    "doctor": DoctorOptions,
    "labels": LabelsOptions,
    "pseudolabel": PseudolabelOptions,
    "train": TrainOptions,
    "segment": SegmentOptions,
    "evaluate": EvaluateOptions,
    "report": ReportOptions,
    "export": ExportOptions,
    "import": ImportOptions,
}

#: The options record of every command, by all of its words.
ALL: Mapping[str, type] = {
    **COMMANDS,
    "demo": DemoOptions,
    "project create": CreateOptions,
    "project relink": RelinkOptions,
    "undo": UndoOptions,
    "scripts install": InstallOptions,
}


@dataclass(frozen=True, slots=True)
class Option:
    """One option: ``name`` of the field, its type without None, default, and the metadata given above."""

    name: str
    kind: Any
    default: Any
    metadata: Mapping[str, Any]

    @property
    def flag(self) -> str:
        """As on the command line: ``--label-key``."""
        return "--" + self.key

    @property
    def key(self) -> str:
        """As in wsplf.toml: ``label-key``."""
        return self.name.replace("_", "-")


def options(record: type) -> dict[str, Option]:
    """The options of a record and of the records inside it, flat, by field name."""
    found: dict[str, Option] = {}
    hints = typing.get_type_hints(record)
    for part in dataclasses.fields(record):
        kind = hints[part.name]
        if dataclasses.is_dataclass(kind):
            found |= options(cast(type, kind))
        else:
            found[part.name] = Option(part.name, _without_none(kind), part.default, part.metadata)
    return found


def build(record: type[T], values: Mapping[str, Any]) -> T:
    """Fill a record, and the records inside it, from flat values by field name; what is missing keeps its default.

    Raises:
        ConfigError: a value is outside its limits.
    """
    hints = typing.get_type_hints(record)
    arguments: dict[str, Any] = {}
    for part in dataclasses.fields(cast(Any, record)):
        if dataclasses.is_dataclass(hints[part.name]):
            arguments[part.name] = build(hints[part.name], values)
        elif part.name in values:
            option = Option(part.name, _without_none(hints[part.name]), part.default, part.metadata)
            arguments[part.name] = _checked(option, values[part.name])
    return record(**arguments)


def read_settings(path: Path, command: str) -> dict[str, Any]:
    """The values that a wsplf.toml has for a command, flat by field name. The whole file is checked, not only these.

    Paths are relative to the file's folder.

    Raises:
        ConfigError: not TOML, an unknown key, or a value of the wrong type; names the file and the key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    shared = _by_key(options(ProjectOptions) | options(TileOptions) | options(RunOptions))
    tables = {name: _by_key(options(record)) for name, record in COMMANDS.items()}
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            if key not in tables:
                raise ConfigError(f"{path}: unknown table [{key}]", hint=_closest(key, tables))
            for inner, inner_value in value.items():
                option = _known(path, inner, tables[key], table=f"[{key}] ")
                converted = _from_toml(path, option, inner_value)
                if key == command:
                    values[option.name] = converted
        else:
            owners = [f"[{name}]" for name, known in tables.items() if key in known]
            if key not in shared and owners:
                raise ConfigError(f"{path}: {key} cannot stand at the top", hint="move it into " + " or ".join(owners))
            option = _known(path, key, shared, table="")
            converted = _from_toml(path, option, value)
            if key in tables[command]:
                values.setdefault(option.name, converted)
    return values


def _by_key(found: Mapping[str, Option]) -> dict[str, Option]:
    return {option.key: option for option in found.values()}


def _known(path: Path, key: str, known: Mapping[str, Option], *, table: str) -> Option:
    if key not in known:
        raise ConfigError(f"{path}: unknown key {table}{key}", hint=_closest(key, known))
    return known[key]


def _closest(word: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(word.replace("_", "-"), known, n=1)
    return f"did you mean {near[0]}?" if near else "known: " + ", ".join(sorted(known))


def _from_toml(path: Path, option: Option, value: Any) -> Any:
    """``value`` as the option's type, or a ConfigError: TOML's types are taken at their word."""
    kind = option.kind
    if kind is Path and isinstance(value, str):
        return path.parent / Path(value).expanduser()
    if kind is float and type(value) in (int, float):
        return float(value)
    if typing.get_origin(kind) is tuple and isinstance(value, list) and all(isinstance(word, str) for word in value):
        return tuple(value)
    if type(value) is kind:
        return value
    wanted = {Path: "a path", float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    raise ConfigError(
        f"{path}: {option.key} must be {wanted.get(kind, 'a list of texts')}, not {value!r}",
        hint=f"the default is {option.default!r}",
    )


def _checked(option: Option, value: Any) -> Any:
    """``value`` within the limits of its option; a list becomes a tuple."""
    limits = option.metadata
    if value is None:
        return None
    wrong = ""
    if "above" in limits and not value > limits["above"]:
        wrong = f"above {limits['above']}"
    elif "least" in limits and not value >= limits["least"]:
        wrong = f"at least {limits['least']}"
    elif "most" in limits and not value <= limits["most"]:
        wrong = f"at most {limits['most']}"
    elif "choices" in limits and value not in limits["choices"]:
        wrong = "one of: " + ", ".join(limits["choices"])
    if wrong:
        raise ConfigError(f"{option.flag} must be {wrong}, not {value}")
    if option.name == "images":
        try:
            re.compile(value)
        except re.error as error:
            raise ConfigError(f"--images is not a regular expression: {error}") from error
    return tuple(value) if isinstance(value, list) else value


def _without_none(kind: Any) -> Any:
    """``Path`` of ``Path | None``; other types as they are."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind
