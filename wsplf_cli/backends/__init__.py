"""One file here is one way to reach a project; each has ``open_project(path, options) -> Project``."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from uuid import UUID

from wsplf_cli.schema import Annotation, Entry, Origin, PathClass, PathObject, Replaced


class Project(Protocol):
    """A QuPath project, however it is reached.

    Reading never writes. A method that writes either finishes, or leaves the old files and raises ProjectError
    (SlideError where only this one entry is concerned).
    """

    path: Path
    """The project.qpproj file."""
    folder: Path
    """The folder that holds it."""
    version: str
    """QuPath's version as recorded in the project file."""

    def entries(self) -> list[Entry]:
        """The entries in project order; ``label`` is not resolved here (see stages.labels)."""

    def path_classes(self) -> list[PathClass]:
        """The classes of the project, in order."""

    def annotations(self, entry_id: str) -> list[Annotation]:
        """All annotations of an entry, in file order, at any depth; an entry without data has none.

        Raises:
            SlideError: the entry's data file cannot be read; the message names the file.
        """

    def objects(self, entry_id: str) -> list[PathObject]:
        """All objects of an entry (annotations, detections, cells, tiles, TMA cores), in file order.

        The root comes first and parents before children; an entry without data has none.

        Raises:
            SlideError: the entry's data file cannot be read; the message names the file.
        """

    def replace(self, entry_id: str, *, origin: Origin, annotations: Sequence[Annotation]) -> Replaced:
        """Replace wsplf's own pending, unedited annotations of ``origin`` in one entry by ``annotations``.

        Everything else of the entry's data is kept as it is: what a person made, accepted, rejected, locked,
        renamed, reclassified or edited, detections, TMA cores, workflow, stains and properties. The path classes
        used are added to the project's classes where they are missing. Writes nothing when nothing would change.

        Raises:
            SlideError: the data file cannot be read, or it changed on disk since this project was opened.
            ProjectError: the files cannot be written (disk full, no permission); the old ones are in place.
        """

    def remove(self, entry_id: str, ids: Collection[UUID]) -> int:
        """Remove annotations by id, their children move up; returns how many were found. For undo and tests."""

    def set_metadata(self, values: Mapping[str, Mapping[str, str]]) -> None:
        """Set entry metadata: entry id -> {key: value}. Other keys are kept."""
