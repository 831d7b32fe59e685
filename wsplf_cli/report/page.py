"""``wsplf report``: one self-contained page about a project, its annotations and the runs that made them."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from wsplf_cli import __version__, files
from wsplf_cli.backends import Project
from wsplf_cli.class_names import is_a
from wsplf_cli.cohort.labels import cam_files, classes_of, label_word, names_of
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.geometry import union
from wsplf_cli.options import ProjectOptions
from wsplf_cli.report.charts import HEIGHT, LEFT, WIDTH, Chart, charts
from wsplf_cli.report.scores import ORIGINS, kept_scores, read_scores, title
from wsplf_cli.report.views import View, view
from wsplf_cli.schema import Annotation, Entry, Origin, Tracker, is_pending
from wsplf_cli.slides.entry import entry_slide
from wsplf_cli.slides.tissue import tissue_mask, tissue_um2

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parents[1] / "assets" / "report.html"
#: Longer side of a thumbnail, for up to so many slides; with more of them it shrinks, so that the page stays light.
THUMBNAIL_PX, FULL_SIZE_SLIDES, LEAST_THUMBNAIL_PX = 700, 50, 200
#: What ``wsplf evaluate`` prints for a whole cohort, and how the report names it.
TOTALS = {
    "mean_dice": "Mean Dice of positive slides",
    "pooled_dice": "Pooled Dice",
    "pooled_iou": "Pooled IoU",
    "negative_fp_share": "False positives, share of tissue on negative slides",
}


@dataclass(frozen=True, slots=True)
class Count:
    """The annotations of one origin on a slide, of one of several classes; areas of what is not rejected.

    ``pending``: no person has decided on them, in whatever way; none in an image that is marked as reviewed.
    ``path_class`` is empty where the project has one class, and for those of no class of the project.
    """

    origin: Origin
    path_class: str
    number: int
    pending: int
    accepted: int
    rejected: int
    area_mm2: float | None
    tissue_share: float | None

    @property
    def title(self) -> str:
        """Under which scores of it are kept."""
        return title(self.origin, self.path_class)


@dataclass(frozen=True, slots=True)
class Shown:
    """One entry as the page shows it; ``note`` says why there is no picture."""

    entry: Entry
    label: str
    mpp: float | None = None
    mpp_source: str = ""
    tissue_mm2: float | None = None
    counts: tuple[Count, ...] = ()
    scores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    view: View | None = None
    note: str = ""

    @property
    def number(self) -> dict[str, int]:
        """How many annotations there are, by origin; nothing where that is not known."""
        if not self.counts:
            return {}
        return {origin: sum(one.number for one in self.counts if one.origin == origin) for origin in ORIGINS}

    @property
    def titles(self) -> set[str]:
        """What ``counts`` has rows for."""
        return {count.title for count in self.counts}


@dataclass(frozen=True, slots=True)
class RunShown:
    """One run: its run.json, and the charts of its curves."""

    folder: Path
    record: Mapping[str, Any]
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True, slots=True)
class Doubt:
    """A slide whose label does not fit what is seen on it, and why; ``section``: its number on the page, or None."""

    name: str
    reason: str
    section: int | None


def report(
    project: Project,
    entries: Sequence[Entry],
    *,
    out: Path,
    tracker: Tracker,
    scores: Path | None = None,
    options: ProjectOptions | None = None,
) -> Path:
    """Write the page and return its path.

    An entry that cannot be shown gets a note instead of a picture; what no run has made yet is left out.

    Args:
        project: the project; it is only read.
        entries: the entries to show, labels resolved where they are known.
        out: the HTML file to write.
        tracker: where progress is shown.
        scores: what ``wsplf evaluate --json`` printed, or several of those by name in one object. By default the
            last evaluation of each origin that was kept as a run of this project.
        options: how the project was reached.

    Raises:
        ConfigError: ``scores`` cannot be read.
        ProjectError: the page cannot be written.
    """
    options = options or ProjectOptions()
    classes = classes_of(options)
    runs = read_runs(project.folder / "wsplf" / "runs")
    tables = kept_scores([run.record for run in runs]) if scores is None else read_scores(scores)
    shown: list[Shown] = []
    max_px = thumbnail_px(len(entries))
    tracker.start("report", len(entries))
    for entry in entries:
        shown.append(_show(project, entry, runs, tables, options=options, max_px=max_px, tracker=tracker))
        tracker.advance(1, message=entry.name)
    page = _template().render(
        project=project,
        name="/".join(project.folder.resolve().parts[-2:]).replace("//", "/"),
        written=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        version=__version__,
        shown=shown,
        scores=tables,
        totals=TOTALS,
        runs=runs,
        latest=latest(runs),
        doubts=doubts(runs, shown),
        classes=classes,
        origins={origin: one for origin, (one, _) in ORIGINS.items()},
        plurals={origin: many for origin, (_, many) in ORIGINS.items()},
        chart={"width": WIDTH, "height": HEIGHT, "left": LEFT},
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_bytes(out, page.encode())
    except OSError as error:
        raise ProjectError(f"cannot write the report {out}: {error.strerror}", hint="name a file with --out") from error
    return out


def thumbnail_px(slides: int) -> int:
    """Longer side of the thumbnails for so many slides."""
    shrink = math.sqrt(min(1.0, FULL_SIZE_SLIDES / max(slides, 1)))
    return max(LEAST_THUMBNAIL_PX, round(THUMBNAIL_PX * shrink))


def read_runs(folder: Path) -> list[RunShown]:
    """The runs of a project, the newest first; a folder without a readable run.json is left out and logged."""
    found = []
    for path in folder.glob("*/run.json"):
        record = _json(path)
        if isinstance(record, dict):
            curves = _json(path.parent / "curves.json")
            drawn = tuple(charts(curves)) if isinstance(curves, dict) else ()
            found.append(RunShown(path.parent, record, drawn))
    return sorted(found, key=lambda run: (str(run.record.get("started", "")), run.folder.name), reverse=True)


def latest(runs: Sequence[RunShown]) -> list[RunShown]:
    """The newest run of each stage that came to its end, in the order in which stages are run."""
    by_stage: dict[str, RunShown] = {}
    for run in runs:
        if run.record.get("status", "done") == "done":
            by_stage.setdefault(str(run.record.get("stage", "")), run)
    return list(reversed(by_stage.values()))


def doubts(runs: Sequence[RunShown], shown: Sequence[Shown]) -> list[Doubt]:
    """The labels that the last finished run of pseudolabel doubted, in the order of the page; others last."""
    run = next((one for one in latest(runs) if one.record.get("stage") == "pseudolabel"), None)
    details = None if run is None else run.record.get("details")
    suspects = details.get("suspects") if isinstance(details, dict) else None
    if not isinstance(suspects, dict):
        return []
    section = {one.entry.id: number if one.view else None for number, one in enumerate(shown, start=1)}
    order = [entry_id for entry_id in section if entry_id in suspects]
    order += [entry_id for entry_id in suspects if entry_id not in section]
    return [
        Doubt(str(one.get("name", entry_id)), str(one.get("reason", "")), section.get(entry_id))
        for entry_id, one in ((entry_id, suspects[entry_id]) for entry_id in order)
        if isinstance(one, dict)
    ]


def _show(
    project: Project,
    entry: Entry,
    runs: Sequence[RunShown],
    tables: Mapping[str, Mapping[str, Any]],
    *,
    options: ProjectOptions,
    max_px: int,
    tracker: Tracker,
) -> Shown:
    """One entry; what cannot be read of it becomes a note."""
    scores = {name: row for name, table in tables.items() for row in table["entries"] if row.get("name") == entry.name}
    label = label_word(entry, options)
    try:
        annotations = project.annotations(entry.id)
        groups = _groups(annotations, classes_of(options))
        slide, pixel_size = entry_slide(entry, mpp_override=options.mpp_override)
        mpp = pixel_size.mpp
        tissue = tissue_um2(tissue_mask(slide, mpp_slide=mpp), mpp_slide=mpp)
        kept = {key: [one for one in ours if one.review != "rejected"] for key, ours in groups.items()}
        return Shown(
            entry,
            label,
            mpp=mpp,
            mpp_source=pixel_size.source,
            tissue_mm2=tissue / 1e6,
            counts=tuple(_count(*key, ours, entry=entry, mpp=mpp, tissue_um2=tissue) for key, ours in groups.items()),
            scores=scores,
            view=view(slide, kept, cams=_cams(entry, runs), max_px=max_px),
            note=pixel_size.warning,
        )
    except SlideError as error:
        tracker.say(f"{entry.name}: shown without a picture, {error.message}")
        return Shown(entry, label, mpp=entry.mpp, mpp_source=entry.mpp_source, scores=scores, note=error.message)


def _groups(annotations: Sequence[Annotation], classes: Sequence[str]) -> dict[tuple[Origin, str], list[Annotation]]:
    """The annotations by origin and, where there are several, by class of the project; those of others last."""
    names = [*names_of(classes), ""] if len(classes) > 1 else [""]

    def name_of(one: Annotation) -> str:
        return next((name for name in names if name and is_a(one.path_class, name)), "")

    return {
        (origin, name): [one for one in annotations if one.origin == origin and name_of(one) == name]
        for origin in ORIGINS
        for name in names
    }


def _count(
    origin: Origin,
    path_class: str,
    annotations: Sequence[Annotation],
    *,
    entry: Entry,
    mpp: float,
    tissue_um2: float,
) -> Count:
    area_um2 = union(one.shape for one in annotations if one.review != "rejected").area * mpp**2
    return Count(
        origin=origin,
        path_class=path_class,
        number=len(annotations),
        pending=0 if entry.reviewed else sum(is_pending(one) for one in annotations),
        accepted=sum(one.review == "accepted" for one in annotations),
        rejected=sum(one.review == "rejected" for one in annotations),
        area_mm2=area_um2 / 1e6,
        tissue_share=area_um2 / tissue_um2 if tissue_um2 > 0 else None,
    )


def _cams(entry: Entry, runs: Sequence[RunShown]) -> dict[str, Path]:
    """The newest CAM images of an entry, by class; by nothing where the run had one class."""
    found = (cam_files(run.folder / "cams", entry.id) for run in runs)
    return next((paths for paths in found if paths), {})


def _json(path: Path) -> Any:
    """The JSON value of a file; None where there is none, and logged where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("left out of the report: %s: %s", path, error)
        return None


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "figure": _figure,
        "percent": _percent,
        "agreement": _agreement,
        "seconds": _seconds,
        "moment": _moment,
        "flat": _flat,
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _figure(value: object, digits: int = 3) -> str:
    """A number with so many decimals; a dash where there is none."""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else "–"


def _agreement(score: Mapping[str, Any], key: str) -> str:
    """A score of one slide; a dash where its truth is empty: there is nothing to agree with."""
    return _figure(score.get(key) if score.get("truth_um2") else None)


def _percent(value: object) -> str:
    """A share as per cent, with a second decimal below 1 %."""
    if not isinstance(value, (int, float)):
        return "–"
    return f"{value:.1%}" if value == 0 or abs(value) >= 0.01 else f"{value:.2%}"


def _seconds(value: object) -> str:
    """A duration as a person says it."""
    if not isinstance(value, (int, float)):
        return "–"
    if value < 100:
        return f"{value:.0f} s"
    return f"{value / 60:.0f} min" if value < 6000 else f"{value / 3600:.1f} h"


def _moment(text: object) -> str:
    """A time of run.json in the time zone of this machine, to the minute; what is no time stays as it is."""
    try:
        return datetime.fromisoformat(str(text)).astimezone().strftime("%Y-%m-%d %H:%M")
    except ValueError:
        return str(text)


def _flat(values: object, prefix: str = "") -> list[tuple[str, str]]:
    """The values of nested JSON objects as (dotted name, text), long lists shortened."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{prefix}{key}.")
        elif value not in (None, "", []):
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            if isinstance(value, list):
                text = ", ".join(map(str, value)) if len(value) <= 6 else f"{len(value)} values"
            rows.append((f"{prefix}{key}", text))
    return rows
