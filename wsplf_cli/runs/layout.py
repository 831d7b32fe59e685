"""Every path under ``PROJECT-FOLDER/wsplf``, the folder that wsplf keeps beside QuPath's files.

``folder`` is the folder of the project.
"""

from pathlib import Path

from wsplf_cli.schema import Origin

NAME = "wsplf"
UNDO = "undo"
JOURNAL = "journal.jsonl"
WRITTEN = "written"


def wsplf_folder(folder: Path) -> Path:
    """All that wsplf keeps."""
    return folder / NAME


def lock_file(folder: Path) -> Path:
    """The lock of the project. Projects that share a folder share its data, and so the lock."""
    return wsplf_folder(folder) / "lock"


def runs_folder(folder: Path) -> Path:
    """The folders of all runs, by their ids."""
    return wsplf_folder(folder) / "runs"


def run_folder(folder: Path, run_id: str) -> Path:
    """The record of one run."""
    return runs_folder(folder) / run_id


def journals(folder: Path) -> list[Path]:
    """The journals of all runs that have one, sorted by run."""
    return sorted(runs_folder(folder).glob(f"*/{UNDO}/{JOURNAL}"))


def undo_folders(folder: Path) -> list[Path]:
    """The folders of the journals and the old files."""
    return list(runs_folder(folder).glob(f"*/{UNDO}"))


def written_file(run_folder: Path, entry_id: str, origin: Origin) -> Path:
    """What one run wrote into an entry."""
    return run_folder / WRITTEN / f"{entry_id}-{origin}.json.gz"


def written_files(folder: Path, entry_id: str, origin: Origin) -> list[Path]:
    """What each run wrote into an entry."""
    return list(runs_folder(folder).glob(f"*/{WRITTEN}/{entry_id}-{origin}.json.gz"))
