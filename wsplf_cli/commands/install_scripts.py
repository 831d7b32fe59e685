"""``wsplf scripts install``: put the Groovy scripts where QuPath shows them, but none over a person's changes."""

import hashlib
import json
import logging
import time
from collections.abc import Mapping
from importlib.resources import files as resources
from importlib.resources.abc import Traversable
from pathlib import Path

from wsplf_cli import files
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import InstallOptions
from wsplf_cli.qupath import project_file
from wsplf_cli.runs.layout import scripts_file
from wsplf_cli.schema import EntryResult, StageReport, Tracker

log = logging.getLogger(__name__)


def shipped() -> dict[str, bytes]:
    """The scripts that come with wsplf, by file name.

    Raises:
        ProjectError: this installation lacks them.
    """
    scripts = {path.name: path.read_bytes() for path in _folder().iterdir() if path.name.endswith(".groovy")}
    if not scripts:
        raise ProjectError(
            "wsplf's scripts are missing from this installation", hint="pip install --force-reinstall wsplf"
        )
    return dict(sorted(scripts.items()))


def install(project: Path, options: InstallOptions, tracker: Tracker) -> StageReport:
    """Write the scripts to ``PROJECT-FOLDER/scripts/``.

    An existing script is replaced when it is as an earlier wsplf installed it. One that a person changed stays. With
    ``force`` it is replaced too, and kept beside as NAME.groovy.bak.

    Args:
        project: A project.qpproj file, or the folder that holds it.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result for each script; ``details`` has the folder and how many were written, left and kept as they were.

    Raises:
        ProjectError: there is no such project, or its folder cannot be written.
    """
    began = time.monotonic()
    folder = project_file.locate(project).absolute().parent
    target, record = folder / "scripts", scripts_file(folder)
    installed = _read_record(record)
    results: list[EntryResult] = []
    try:
        target.mkdir(exist_ok=True)
        for name, content in shipped().items():
            status, reason = _install(target / name, content, installed=installed.get(name, ""), force=options.force)
            results.append(EntryResult(name, name, "done" if status == "written" else "skipped", reason=reason))
            if status != "changed":
                installed[name] = _digest(content)
        record.parent.mkdir(exist_ok=True)
        files.write_json(record, dict(sorted(installed.items())))
    except OSError as error:
        raise ProjectError(f"cannot write {error.filename or target}: {error.strerror}") from error
    written = sum(result.status == "done" for result in results)
    changed = [result.name for result in results if result.reason.startswith("changed")]
    tracker.say(f"{written} scripts written to {target}; in QuPath: Automate > Project scripts")
    if changed:
        tracker.say(f"left as they are, because a person changed them: {', '.join(changed)} (--force replaces them)")
    details = {"folder": str(target), "written": written, "changed": changed}
    return StageReport("scripts install", "", tuple(results), time.monotonic() - began, details)


def _install(path: Path, content: bytes, *, installed: str, force: bool) -> tuple[str, str]:
    """Write one script; returns "written", "same" or "changed", and the reason for the user.

    ``installed`` is the digest of the script that an earlier wsplf installed, empty for none.
    """
    if not path.exists():
        files.write_bytes(path, content)
        return "written", ""
    existing = path.read_bytes()
    if _digest(existing) == _digest(content):
        return "same", "is installed already"
    if _digest(existing) == installed:
        files.write_bytes(path, content)
        return "written", "replaces an earlier one"
    if not force:
        return "changed", "changed by a person; --force replaces it"
    backup = path.with_name(path.name + ".bak")
    files.write_bytes(backup, existing)
    files.write_bytes(path, content)
    return "written", f"the changed one is kept as {backup.name}"


def _digest(content: bytes) -> str:
    """The SHA-256 of a script whose line ends are LF, since editors change them unasked."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def _read_record(path: Path) -> dict[str, str]:
    """The digest of each installed script; empty without a readable record."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return {}
    return {str(key): str(value) for key, value in record.items()} if isinstance(record, Mapping) else {}


def _folder() -> Traversable:
    """The folder of the scripts: in the package when wsplf is installed, beside it in a checkout."""
    packaged = resources("wsplf_cli") / "qupath_scripts"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "qupath_scripts"
