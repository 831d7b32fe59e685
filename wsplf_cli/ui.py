"""What the user sees: results on stdout, all else on stderr. Text that is not ours is escaped.

Long work shows a bar with the time left on a terminal, and elsewhere a plain line now and then.
"""

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from wsplf_cli import files
from wsplf_cli.schema import titles, without_name

if TYPE_CHECKING:
    from wsplf_cli.schema import Check, StageReport

#: Without a terminal, a line of progress comes at most this often, in seconds, and when a task ends.
LINE_SECONDS = 10.0

#: Names of at most so many characters are not wrapped in a table, so that they can be copied.
UNBROKEN = 40

#: Lines of the list of disagreements on the screen; --json prints all.
SHOWN_DISAGREEMENTS = 20

STATUS_STYLES = {
    "PASS": "green",
    "WARN": "yellow",
    "FAIL": "bold red",
    "done": "green",
    "skipped": "yellow",
    "failed": "bold red",
}


class Screen:
    """A Tracker that shows progress on stderr and results on stdout, as tables or as one JSON document.

    Use it with ``with``, so that the bar is removed whatever happens.
    """

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bars: Progress | None = None
        self._task: TaskID | None = None
        self._name = self._message = ""
        self._total = self._steps = 0
        self._began = self._shown = 0.0
        self._log = _WarningLines(self)

    def __enter__(self) -> Self:
        """Show the warnings of our modules until the end of the block."""
        logging.getLogger("wsplf_cli").addHandler(self._log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._stop()
        logging.getLogger("wsplf_cli").removeHandler(self._log)

    def start(self, name: str, total: int) -> None:
        """Begin a task of ``total`` steps; it replaces the task before it."""
        self._stop()
        self._name, self._message, self._total, self._steps = name, "", total, 0
        self._began = self._shown = time.monotonic()
        if self.err.is_terminal:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[message]}", style="dim"),
                console=self.err,
                transient=True,
            )
            self._bars.start()
            self._task = self._bars.add_task(escape(name), total=total, message="")
        else:
            self.say(f"{name}: 0/{total}")

    def advance(self, steps: int = 1, message: str = "") -> None:
        """Count ``steps`` as done; ``message`` replaces the short text beside the bar."""
        self._steps += steps
        if self._bars is not None and self._task is not None:
            self._message = escape(message[:40]) or self._message
            self._bars.update(self._task, advance=steps, message=self._message)
            if self._steps >= self._total:
                self._stop()
            return
        now = time.monotonic()
        if self._steps >= self._total or now - self._shown >= LINE_SECONDS:
            self._shown = now
            self.say(f"{self._name}: {self._steps}/{self._total} {self._times(now)}{message}".rstrip())

    def say(self, message: str) -> None:
        """Show one line on stderr."""
        self.err.print(escape(message))

    @property
    def where(self) -> str:
        """How far the task is, as `` (MIL: 12/40)``; empty before the first task."""
        return f" ({self._name}: {self._steps}/{self._total})" if self._name else ""

    def _times(self, now: float) -> str:
        """``(12 s, 30 s left) ``."""
        seconds = now - self._began
        if self._steps >= self._total:
            return f"({seconds:.0f} s) "
        left = seconds / max(self._steps, 1) * (self._total - self._steps)
        return f"({seconds:.0f} s, {left:.0f} s left) "

    def _stop(self) -> None:
        """End the task; on a terminal one line remains of it."""
        if self._bars is None:
            return
        self._bars.stop()
        self._bars = None
        self.say(f"{self._name}: {self._steps}/{self._total} {self._times(time.monotonic())}".rstrip())

    def document(self, value: object) -> None:
        """Print the one JSON document."""
        sys.stdout.write(files.json_text(value) + "\n")

    def line(self, message: str) -> None:
        """Print one line of the result."""
        self.out.print(escape(message))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> None:
        """Print a table; columns with an index in ``right`` hold numbers. Neither these nor short names are wrapped."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(columns):
            justify: Literal["left", "right"] = "right" if index in right else "left"
            longest = max((len(_text_of(row[index])) for row in rows), default=0)
            table.add_column(
                escape(column.replace("_", " ")),
                justify=justify,
                overflow="fold",
                no_wrap=index == 0 and longest <= UNBROKEN,
                min_width=longest if index in right else None,
            )
        for row in rows:
            table.add_row(*(_cell(value) for value in row))
        self.out.print(table, soft_wrap=False)

    def report(self, report: "StageReport") -> None:
        """Show what a command did: a row per entry, the reasons below, where there is room for them, and the totals."""
        if self.json:
            self.document(report)
            return
        keys = list(dict.fromkeys(key for entry in report.entries for key in entry.counts))
        # the first one says what was done; another one that is 0 everywhere says nothing
        keys = [key for key in keys if key == keys[0] or any(entry.counts.get(key) for entry in report.entries)]
        rows, reasons = [], []
        for title, entry in zip(titles(report.entries), report.entries, strict=True):
            counts = (entry.counts.get(key) for key in keys)
            rows.append([title, entry.status, *counts, f"{entry.seconds:.1f}"])
            reason = without_name(without_name(entry.reason, title), entry.name)
            if reason:
                reasons.append(f"{title}: {reason}")
        self.table(["entry", "status", *keys, "s"], rows, right=range(2, len(keys) + 3))
        for reason in reasons:
            self.line(reason)
        run = f"; run {report.run_id}" if report.run_id else ""
        self.line(f"{report.stage}: {_counted(report)} in {report.seconds:.0f} s{run}")

    def checks(self, checks: "Sequence[Check]") -> None:
        """Show the checks of ``doctor``, and for those that did not pass what to do."""
        if self.json:
            self.document({"checks": checks, "failed": sum(check.status == "FAIL" for check in checks)})
            return
        for check in checks:
            style = STATUS_STYLES[check.status]
            self.out.print(f"[{style}]{check.status}[/]  {escape(check.name)}: {escape(check.message)}")
            if check.fix and check.status != "PASS":
                self.out.print(f"      {escape(check.fix)}")

    def plan(self, document: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Show what a command will take: a row per entry, then the lines."""
        if self.json:
            self.document(document)
            return
        keys = ("tissue_mm2", "tiles", "seconds")
        rows = [
            [entry["name"], *(entry.get(key) for key in keys), without_name(entry["reason"], entry["name"])]
            for entry in document["entries"]
        ]
        self.table(["entry", "tissue mm2", "tiles", "s", ""], rows, right=range(1, 4))
        for line in lines:
            self.line(line)

    def scores(self, scores: Mapping[str, Any]) -> None:
        """Show the scores of ``evaluate``: a row per entry, then the figures over all entries."""
        if self.json:
            self.document(scores)
            return
        columns = ["name", "label", "dice", "iou", "boundary_f1", "fp_share", "truth_um2", "predicted_um2"]
        for path_class, of_class in scores.get("classes", {"": scores}).items():
            if path_class:
                self.line(f"class {path_class}")
            rows = [[entry.get(key) for key in columns] for entry in of_class["entries"]]
            self.table(columns, rows, right=range(2, 8))
            for key in ("mean_dice", "pooled_dice", "pooled_iou", "negative_fp_share"):
                self.line(f"{key}: {_text_of(of_class.get(key))}")

    def demo(self, results: Mapping[str, Any]) -> None:
        """Show what the demo measured: a row per kind of annotation."""
        if self.json:
            self.document(results)
            return
        keys = ("mean_dice", "pooled_dice", "pooled_iou", "negative_fp_share")
        kinds = ("pseudolabel", "prediction", "threshold")
        rows = [[kind, *(results[kind].get(key) for key in keys)] for kind in kinds]
        self.table(["", *keys], rows, right=range(1, 5))
        self.line(f"{results['seconds']:.0f} s in all")
        for name in ("project", "report"):
            if name in results:
                self.line(f"{name}: {results[name]}")

    def benchmark(self, document: Mapping[str, Any]) -> None:
        """Show the table of ``benchmark``, and the jobs that are still to run."""
        if self.json:
            self.document(document)
            return
        if document["rows"]:
            self.table(document["columns"], document["cells"], right=range(2, len(document["columns"])))
        for job in document["runs"]:
            if job["status"] != "done":
                self.line(f"{job['recipe']}, seed {job['seed']}: {job['status']}")
        for line in (*document["notes"], *document["failed"]):
            self.line(line)
        self.line(f"results: {document['out']}")

    def labels(self, document: Mapping[str, Any]) -> None:
        """Show the label of every entry, the counts, and what prevents learning from the labels."""
        if self.json:
            self.document(document)
        else:
            class_counts = document["classes"] if len(document["classes"]) > 1 else {}
            rows = [row | {"classes": ", ".join(row["classes"]) if class_counts else ""} for row in document["entries"]]
            columns = [key for key in rows[0] if any(row[key] for row in rows)] if rows else ["name", "label"]
            self.table(columns, [[row[key] for key in columns] for row in rows])
            for counts in (document["counts"], class_counts):
                if counts:
                    self.line(", ".join(f"{count} {meaning}" for meaning, count in counts.items()))
        for warning in document["warnings"]:
            self.say(f"warning: {warning}")
        for problem in document["problems"]:
            show_error(problem["error"], hint=problem["hint"])

    def models(self, models: Sequence[Mapping[str, Any]]) -> None:
        """Show the models of a project: a row for each."""
        if self.json:
            self.document({"models": models})
            return
        columns = ["name", "classes", "um/px", "tile", "threshold", "Dice", "segmenter", "made", ""]
        rows = [
            [
                model["name"],
                ", ".join(model.get("classes", ())),
                *(model.get(key) for key in ("mpp", "tile_px", "threshold")),
                model.get("scores", {}).get("validation_dice"),
                *(model.get(key) for key in ("segmenter", "made", "problem")),
            ]
            for model in models
        ]
        self.table(columns, rows, right=range(2, 6))
        self.line(f"{len(models)} models; Dice is that of the validation, against the polygons learned from")

    def record(self, record: Mapping[str, Any]) -> None:
        """Show a record: a line for each field."""
        if self.json:
            self.document(record)
            return
        for key, value in record.items():
            parts = value.items() if isinstance(value, Mapping) else None
            text = ", ".join(f"{name} {part}" for name, part in parts) if parts is not None else value
            self.line(f"{key}: {', '.join(map(str, text)) if isinstance(text, (list, tuple)) else text}")

    def agreement(self, document: Mapping[str, Any]) -> None:
        """Show what the readers agree on: a row per slide, the pooled figures, and the largest disagreements."""
        if self.json:
            self.document(document)
            return
        for path_class, of_class in document.get("classes", {"": document}).items():
            if path_class:
                self.line(f"class {path_class}")
            self._agreement_of_class(of_class)
        if merged := document.get("merge"):
            counts = ", ".join(f"{count} {outcome}" for outcome, count in merged["polygons"].items())
            self.line(f"merged: {merged['project']}: {counts or 'no polygons'}")

    def _agreement_of_class(self, of_class: Mapping[str, Any]) -> None:
        pooled = of_class["pooled"]
        several = len(pooled["pairs"]) > 1
        rows = []
        for slide in of_class["slides"]:
            dice = min((pair["dice"] for pair in slide["pairs"]), default=None)
            kappa = slide["fleiss_kappa"] if several else next((pair["kappa"] for pair in slide["pairs"]), None)
            rows.append([slide["name"], dice, kappa, slide["disputed"], slide["note"]])
        names = ["lowest Dice", "Fleiss' kappa"] if several else ["Dice", "Cohen's kappa"]
        self.table(["slide", *names, "disputed", ""], rows, right=range(1, 4))
        self.line(f"pooled over {pooled['slides']} slides:")
        rows = [[" - ".join(pair["readers"]), pair["dice"], pair["kappa"]] for pair in pooled["pairs"]]
        rows += [[f"{of_reader['reader']} - majority", of_reader["dice"], None] for of_reader in pooled["majority"]]
        rows += [["all readers", None, pooled["fleiss_kappa"]]] if several else []
        self.table(["", "Dice", "kappa"], rows, right=range(1, 3))
        shown = of_class["disagreements"][:SHOWN_DISAGREEMENTS]
        if shown:
            self.line(f"{len(of_class['disagreements'])} disagreements, the largest first:")
            cells = [
                [line["slide"], line["disputed_um2"], "; ".join(map(": ".join, line["decisions"].items())), line["id"]]
                for line in shown
            ]
            self.table(["slide", "um2", "who decided what", "id"], cells, right=[1])

    def explanation(self, document: Mapping[str, Any]) -> None:
        """Show why polygons were drawn, in sentences, and where the page is."""
        if self.json:
            self.document(document)
            return
        for facts in document["polygons"]:
            value = facts["confidence"]
            figure = "" if value is None else f", confidence {value:.2f}"
            self.line(f"{facts['id']}: {facts['kind']} of class {facts['class'] or 'none'} on {facts['image']}{figure}")
            for sentence in (*facts["why"], *facts["decisions"]):
                self.line(f"  {sentence}")
        if document["not_explained"]:
            self.line(f"and {len(document['not_explained'])} more that are more certain, listed on the page")
        self.line(f"page: {document['page']}")

    def path(self, name: str, path: Path) -> None:
        """Show where a file was written."""
        if self.json:
            self.document({name: path})
        else:
            self.line(f"{name}: {path}")


class _WarningLines(logging.Handler):
    """Shows our modules' warnings as lines on stderr."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self.screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Show one warning."""
        self.screen.say(f"{record.levelname.lower()}: {record.getMessage()}")


def show_error(message: str, *, hint: str = "", json: bool = False) -> None:
    """Show what is wrong and what to type next on stderr; with ``json``, also a document on stdout."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]error:[/] {escape(message)}")
    if hint:
        console.print(f"  try: {escape(hint)}")
    if json:
        sys.stdout.write(files.json_text({"error": message, "hint": hint}) + "\n")


def _cell(value: object) -> str:
    if isinstance(value, str) and value in STATUS_STYLES:
        return f"[{STATUS_STYLES[value]}]{value}[/]"
    return escape(_text_of(value))


def _text_of(value: object) -> str:
    """A value as a table shows it: nothing for None, areas and counts whole, shares with four digits."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4f}"
    return str(value)


def _counted(report: "StageReport") -> str:
    """``10 done, 1 skipped, 1 failed``."""
    counts = {status: sum(e.status == status for e in report.entries) for status in ("done", "skipped", "failed")}
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count or status == "done")
