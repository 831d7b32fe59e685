"""``wsplf scripts install``: put the Groovy scripts where QuPath shows them, and leave alone what a person changed."""

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
from wsplf_cli.schema import EntryResult, StageReport, Tracker

log = logging.getLogger(__name__)

#: Beside the project: the hash of each script as it was installed, by its name.
RECORD = Path("wsplf") / "scripts.json"


def shipped() -> dict[str, bytes]:
    """The scripts that come with wsplf, by file name.

    Raises:
        ProjectError: they did not come along with this installation.
    """
    found = {one.name: one.read_bytes() for one in _folder().iterdir() if one.name.endswith(".groovy")}
    if not found:
        raise ProjectError(
            "wsplf's scripts are missing from this installation", hint="pip install --force-reinstall wsplf"
        )
    return dict(sorted(found.items()))


def install(project: Path, options: InstallOptions, tracker: Tracker) -> StageReport:
    """Write the scripts to ``PROJECT-FOLDER/scripts/``.

    A script that is there already is replaced when it is as an earlier wsplf put it there. One that a person changed
    stays, unless ``force``: it is then kept beside as NAME.groovy.bak.

    Args:
        project: A project.qpproj file, or the folder that holds it.
        options: The options of the command.
        tracker: Where the user is told.

    Returns:
        One result for each script; ``details`` has the folder and how many were written, left and kept as they were.

    Raises:
        ProjectError: no such project, or its folder cannot be written.
    """
    began = time.monotonic()
    folder = project_file.locate(project).absolute().parent
    target, record = folder / "scripts", folder / RECORD
    installed = _read_record(record)
    results: list[EntryResult] = []
    try:
        target.mkdir(exist_ok=True)
        for name, content in shipped().items():
            status, reason = _install(target / name, content, known=installed.get(name, ""), force=options.force)
            results.append(EntryResult(name, name, "done" if status == "written" else "skipped", reason=reason))
            if status != "changed":
                installed[name] = _digest(content)
        record.parent.mkdir(exist_ok=True)
        files.write_json(record, dict(sorted(installed.items())))
    except OSError as error:
        raise ProjectError(f"cannot write {error.filename or target}: {error.strerror}") from error
    written = sum(one.status == "done" for one in results)
    changed = [one.name for one in results if one.reason.startswith("changed")]
    tracker.say(f"{written} scripts written to {target}; in QuPath: Automate > Project scripts")
    if changed:
        tracker.say(f"left as they are, since a person changed them: {', '.join(changed)} (--force replaces them)")
    details = {"folder": str(target), "written": written, "changed": changed}
    return StageReport("scripts install", "", tuple(results), time.monotonic() - began, details)


def _install(path: Path, content: bytes, *, known: str, force: bool) -> tuple[str, str]:
    """Write one script; returns "written", "same" or "changed", and the reason for the user."""
    if not path.exists():
        files.write_bytes(path, content)
        return "written", ""
    there = path.read_bytes()
    if _digest(there) == _digest(content):
        return "same", "there already"
    if _digest(there) == known:
        files.write_bytes(path, content)
        return "written", "an earlier one was replaced"
    if not force:
        return "changed", "changed by a person; --force replaces it"
    spare = path.with_name(path.name + ".bak")
    files.write_bytes(spare, there)
    files.write_bytes(path, content)
    return "written", f"the one that was there is {spare.name}"


def _digest(content: bytes) -> str:
    """The SHA-256 of a script; a person's editor may have changed the ends of lines, which is no change."""
    return hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()


def _read_record(path: Path) -> dict[str, str]:
    """What was installed before; empty where there is no record that can be read: all is then taken as changed."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s cannot be read: %s", path, error)
        return {}
    return {str(key): str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}


def _folder() -> Traversable:
    """In the package when wsplf is installed, beside it in a checkout."""
    packaged = resources("wsplf_cli") / "qupath_scripts"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "qupath_scripts"
