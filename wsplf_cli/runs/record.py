"""The record of one run of a command: a folder ``wsplf/runs/ID/`` with its options, results, curves and log."""

import logging
import secrets
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from wsplf_cli import __version__, files
from wsplf_cli.errors import ProjectError
from wsplf_cli.runs.journal import Journal, recording
from wsplf_cli.runs.layout import curves_file, log_file, project_lock, resume_folder, run_file, run_folder
from wsplf_cli.runs.lock import hold, leftover_folders
from wsplf_cli.runs.resume import ResumeStore
from wsplf_cli.schema import EntryResult, StageReport

log = logging.getLogger(__name__)

READING = frozenset({"evaluate", "train"})
"""Commands that only read the project: several may run at once. The others hold its lock, and can be undone."""


class _RunLog(logging.FileHandler):
    """A log file that fails silently: on a full disk, the files of the results report the error once."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Write nothing more."""
        logging.getLogger("wsplf_cli").removeHandler(self)


@dataclass
class Run:
    """The record of one run of a command, a folder ``PROJECT-FOLDER/wsplf/runs/ID/``.

    Use it with ``with``: run.json is there from the start (status "running"); its last status is "done", or says why
    the run ended early. ``folder`` is None in a dry run: nothing is written.

    A command that writes into the project holds its lock while it runs, and every file that it replaces is kept in
    ``journal`` for undo. What it has finished of its slides is kept in ``resume`` until a run of the command ends.
    """

    id: str
    stage: str
    folder: Path | None
    record: dict[str, Any]
    journal: Journal | None = None
    resume: ResumeStore = field(default_factory=ResumeStore)
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    handler: logging.Handler | None = None
    resources: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        """Take the lock, make the folder, write run.json and begin the log.

        Raises:
            ProjectError: another command writes into this project, or the folder cannot be made.
        """
        with ExitStack() as stack:
            if self.journal is not None:
                stack.enter_context(hold(project_lock(self.journal.folder), command=self.stage))
                files.clean(leftover_folders(self.journal.folder))
                stack.enter_context(recording(self.journal))
            self._begin()
            self.resources = stack.pop_all()
        return self

    def _begin(self) -> None:
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True)
                self._write()
                self.handler = _RunLog(log_file(self.folder), encoding="utf-8")
            except OSError as error:
                raise ProjectError(f"cannot write the run folder {self.folder}: {error.strerror}") from error
            self.handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
            package_log = logging.getLogger("wsplf_cli")
            package_log.setLevel(logging.INFO)
            package_log.addHandler(self.handler)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the log and release the lock; when the run ended early, write why."""
        with self.resources:
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if error is not None:
            self.record["wrote"] = self._wrote()
            self.record["status"] = "stopped" if isinstance(error, KeyboardInterrupt) else "failed"
            self.record["error"] = f"{type(error).__name__}: {error}"
            log.info("%s: %s", self.record["status"], self.record["error"])
            self.record["seconds"] = time.monotonic() - self.began
            try:
                self._write()
            except OSError as second:
                log.info("run.json could not be updated: %s", second)
        if self.handler is not None:
            logging.getLogger("wsplf_cli").removeHandler(self.handler)
            self.handler.close()

    def curve(self, name: str, *, x: Sequence[float], y: Mapping[str, Sequence[float]]) -> None:
        """Keep a curve for the report: series over x, such as losses over epochs. Written at once."""
        self.curves[name] = {"x": list(x), "y": {series: list(values) for series, values in y.items()}}
        if self.folder is not None:
            files.write_json(curves_file(self.folder), self.curves)

    def finish(self, entries: Sequence[EntryResult], *, details: Mapping[str, Any] | None = None) -> StageReport:
        """Write the results into run.json and return them as the command's report."""
        entries = self._with_losses(entries)
        wrote = self._wrote()
        all_details = dict(details or {}) | ({"wrote": wrote} if wrote else {})
        report = StageReport(self.stage, self.id, tuple(entries), time.monotonic() - self.began, all_details)
        self.record |= {"status": "done", "seconds": report.seconds, "entries": entries, "details": report.details}
        if self.folder is not None:
            self._write()
        self.resume.clear()
        return report

    def _with_losses(self, entries: Sequence[EntryResult]) -> list[EntryResult]:
        """The results; an entry fails where QuPath saved over it what it had read before this run."""
        lost = {} if self.journal is None else self.journal.written_over()
        results = []
        for entry in entries:
            if entry.id in lost:
                reason = f"{entry.name}: {lost[entry.id]} was saved by another program after wsplf had written it"
                reason += ", and what wsplf wrote is gone (close the image in QuPath, then run the command again)"
                log.warning("%s", reason)
                entry = replace(entry, status="failed", reason=reason)  # noqa: PLW2901
            results.append(entry)
        return results

    def _wrote(self) -> dict[str, int]:
        """What was written into the project: entries, files, and bytes kept for undo; empty when nothing was."""
        if self.journal is None or not self.journal.written_files:
            return {}
        journal = self.journal
        return {"entries": len(journal.entries), "files": journal.written_files, "undo_bytes": journal.kept_bytes}

    def _write(self) -> None:
        if self.folder is not None:
            files.write_json(run_file(self.folder), self.record)


class Located(Protocol):
    """Anything with the path and folder of a project."""

    @property
    def path(self) -> Path:
        """The project.qpproj file."""

    @property
    def folder(self) -> Path:
        """The folder that holds it."""


def start_run(
    project: Located, stage: str, *, options: object, seed: int, device: str = "cpu", dry_run: bool = False
) -> Run:
    """A new run of the command ``stage``, to be used with ``with``; its id sorts by time and is unique.

    ``options`` is the options record of the command, ``device`` the torch device that was picked.
    """
    now = datetime.now(UTC)
    run_id = f"{now:%Y%m%dT%H%M%SZ}-{stage}-{secrets.token_hex(3)}"
    record = {
        "run_id": run_id,
        "stage": stage,
        "status": "running",
        "version": __version__,
        "started": now.isoformat(timespec="seconds"),
        "seconds": 0.0,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "project": project.path,
        "folder": Path.cwd(),
        "options": options,
        "seed": seed,
        "device": device,
        "entries": [],
        "details": {},
    }
    folder = None if dry_run else run_folder(project.folder, run_id)
    journal = None if folder is None or stage in READING else Journal(project.folder, folder)
    resume = ResumeStore(None if journal is None else resume_folder(project.folder, stage))
    return Run(run_id, stage, folder, record, journal, resume)
