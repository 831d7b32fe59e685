"""``wsplf project relink``: tell a QuPath project where its slides are now."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsplf_cli.errors import ConfigError
from wsplf_cli.options import RelinkOptions
from wsplf_cli.qupath import project_file, servers
from wsplf_cli.qupath.addresses import Move, moves_of
from wsplf_cli.qupath.images import uri_path
from wsplf_cli.qupath.relink import Link, Search, changed, links
from wsplf_cli.runs.record import start_run
from wsplf_cli.schema import EntryResult, StageReport, Tracker
from wsplf_cli.slides.open import measure


@dataclass(frozen=True, slots=True)
class _EntryLinks:
    """The addresses of one entry, each with its new one or the reason why there is none."""

    id: str
    name: str
    links: Sequence[Link]

    @property
    def result(self) -> EntryResult:
        """The entry's line of the report."""
        changes = [f"{uri_path(link.old)} -> {uri_path(link.new)}" for link in self.links if link.new is not None]
        missing = [link.note for link in self.links if link.missing]
        unchanged = [link.note for link in self.links if link.new is None and not link.missing]
        reason = "; ".join(dict.fromkeys([*missing, *changes]))
        if missing:
            return EntryResult(self.id, self.name, "failed", reason=f"{self.name}: {reason}")
        if changes:
            return EntryResult(self.id, self.name, "done", reason=reason)
        if not self.links:
            return EntryResult(self.id, self.name, "failed", reason=f"{self.name}: the project names no image file")
        return EntryResult(self.id, self.name, "skipped", reason="; ".join(dict.fromkeys(unchanged)))


def relink(project_path: Path, options: RelinkOptions, tracker: Tracker) -> StageReport:
    """Change the addresses of slides that moved; entries whose slide is where the project says are left alone.

    Args:
        project_path: A project.qpproj file, or the folder that holds it.
        options: The options of the command.
        tracker: Where progress is shown.

    Returns:
        One result per entry; ``details`` counts the changed entries and those whose slide is missing, and lists the
        changes.

    Raises:
        ConfigError: neither --map nor --search is given, or one of them cannot be understood.
        ProjectError: the project cannot be read or written.
    """
    began = time.monotonic()
    moves, search = _parse_moves(options.map), None
    if options.search is not None:
        if not options.search.is_dir():
            raise ConfigError(f"--search {options.search}: no such folder")
        search = Search(options.search, measure)
    if not moves and search is None:
        raise ConfigError("nothing to relink by", hint="give --map OLD=NEW, --search DIR, or both")
    project = project_file.read(project_path)
    entries: list[_EntryLinks] = []
    tracker.start("relink", len(project.images))
    for image in project.images:
        entries.append(_EntryLinks(project_file.entry_id(image), _display_name(image), links(image, moves, search)))
        tracker.advance(1, message=entries[-1].name)
    new_addresses: dict[str, dict[str, str]] = {}
    changes = []
    for entry in entries:
        moved = {link.old: link.new for link in entry.links if link.new is not None}
        new_addresses.setdefault(entry.id, {}).update(moved)
        changes += [{"id": entry.id, "old": link.old, "new": link.new} for link in entry.links if link.new is not None]
    results = tuple(entry.result for entry in entries)
    to_change = len({change["id"] for change in changes})
    written = 0 if options.dry_run else to_change
    details = {
        "changed": written,
        "missing": sum(result.status == "failed" for result in results),
        "changes": changes,
    }
    with start_run(project, "relink", options=options, seed=0, dry_run=not written) as run:
        run.began = began
        if written:
            project_file.write(project, beside=changed(project, new_addresses))
        dry_run = f"; a dry run, {to_change} would be" if options.dry_run else ""
        tracker.say(f"{project.path}: {written} of {len(entries)} entries changed{dry_run}")
        return run.finish(results, details=details)


def _parse_moves(pairs: Sequence[str]) -> list[Move]:
    moves = []
    for pair in pairs:
        parsed = moves_of(pair)
        if not parsed:
            raise ConfigError(
                f"--map {pair!r}: not OLD=NEW with an absolute path or address as OLD",
                hint=r"such as --map 'D:\slides=/data/slides'",
            )
        moves += parsed
    return moves


def _display_name(image: Mapping[str, object]) -> str:
    """The name of an entry, or the name of its file where it has none."""
    if image.get("imageName"):
        return str(image["imageName"])
    uri = next((str(builder["uri"]) for builder in servers.files(image.get("serverBuilder"))), "")
    return (uri_path(uri) or uri).rpartition("/")[2] or "unnamed"
