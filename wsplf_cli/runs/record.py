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
from wsplf_cli.runs.layout import curves_file, log_file, project_lock, run_file, run_folder
from wsplf_cli.runs.lock import hold, left_overs
from wsplf_cli.schema import EntryResult, StageReport

log = logging.getLogger(__name__)

READING = frozenset({"evaluate", "export", "train"})
"""Stages that only read the project: several may run at once. The others hold the project's lock, and can be undone."""


class _RunLog(logging.FileHandler):
    """A log file that gives up in silence: on a full disk the results' own files say what is wrong, once."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Write nothing more."""
        logging.getLogger("wsplf_cli").removeHandler(self)


@dataclass
class Run:
    """The record of one run of a stage, a folder ``PROJECT-FOLDER/wsplf/runs/ID/``.

    Use it with ``with``: run.json is there from the first moment (status "running") and says in the end "done", or
    why the run ended early. ``folder`` is None in a dry run: nothing is written.

    A stage that writes into the project holds its lock as long as it runs, and every file that it replaces is kept in
    ``journal`` for undo.
    """

    id: str
    stage: str
    folder: Path | None
    record: dict[str, Any]
    journal: Journal | None = None
    curves: dict[str, dict[str, Any]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    handler: logging.Handler | None = None
    held: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        """Take the lock, make the folder, write run.json and begin the log.

        Raises:
            ProjectError: another command writes into this project, or the folder cannot be made.
        """
        with ExitStack() as stack:
            if self.journal is not None:
                stack.enter_context(hold(project_lock(self.journal.folder), command=self.stage))
                files.clean(left_overs(self.journal.folder))
                stack.enter_context(recording(self.journal))
            self._begin()
            self.held = stack.pop_all()
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
        """Close the log and let go of the lock; when the run ended early, write why."""
        with self.held:
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
        """Write the results into run.json and return them as the stage's report."""
        entries = self._told_of_losses(entries)
        wrote = self._wrote()
        shown = dict(details or {}) | ({"wrote": wrote} if wrote else {})
        report = StageReport(self.stage, self.id, tuple(entries), time.monotonic() - self.began, shown)
        self.record |= {"status": "done", "seconds": report.seconds, "entries": entries, "details": report.details}
        if self.folder is not None:
            self._write()
        return report

    def _told_of_losses(self, entries: Sequence[EntryResult]) -> list[EntryResult]:
        """The results; an entry over which QuPath has saved what it had read before this run has failed."""
        lost = {} if self.journal is None else self.journal.written_over()
        told = []
        for entry in entries:
            if entry.id in lost:
                reason = f"{entry.name}: {lost[entry.id]} was saved by another program after wsplf had written it"
                reason += ", and what wsplf wrote is gone (close the image in QuPath, then run the command again)"
                log.warning("%s", reason)
                entry = replace(entry, status="failed", reason=reason)  # noqa: PLW2901
            told.append(entry)
        return told

    def _wrote(self) -> dict[str, int]:
        """How much was written into the project, and how large what undo needs is; empty when nothing was."""
        if self.journal is None or not self.journal.written_files:
            return {}
        journal = self.journal
        return {"entries": len(journal.entries), "files": journal.written_files, "undo_bytes": journal.kept_bytes}

    def _write(self) -> None:
        if self.folder is not None:
            files.write_json(run_file(self.folder), self.record)


class Located(Protocol):
    """A project that is somewhere: a file in a folder."""

    @property
    def path(self) -> Path:
        """The project.qpproj file."""

    @property
    def folder(self) -> Path:
        """The folder that holds it."""


def start_run(
    project: Located, stage: str, *, options: object, seed: int, device: str = "cpu", dry_run: bool = False
) -> Run:
    """A new run of ``stage``, to be used with ``with``; its id sorts by time and is unique.

    ``options`` is the options record of the command, ``device`` the one that was picked.
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
    return Run(run_id, stage, folder, record, journal)
