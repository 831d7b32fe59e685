"""The ways to read and write a QuPath project; each has ``open_project(path, options) -> Project``.

The class ``Project`` below says what every backend promises. In the order in which one reads the package:

- ``embedded``: reads and writes QuPath's files itself, through ``qupath``. The default.
- ``_plan``: what replacing wsplf's annotations of an entry removes and adds, for every backend.
- ``paquo``: annotations go through a real QuPath, other files through ``embedded``. ``_paquo_child`` is the process
  that runs QuPath, the only module that imports paquo and JPype; ``_paquo_link`` is the pipe to it.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from wsplf_cli.schema import Annotation, Entry, Origin, PathClass, PathObject, Replaced


class Project(Protocol):
    """A QuPath project.

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
        """The entries in project order; ``label`` is not resolved here (see cohort.labels)."""

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

        All other data of the entry stays as it is: what a person made, accepted, rejected, locked, renamed,
        reclassified or edited, detections, TMA cores, workflow, stains and properties. Path classes that the project
        lacks are added to it. Writes nothing when nothing would change.

        Raises:
            SlideError: the data file cannot be read, or it changed on disk since this project was opened.
            ProjectError: the files cannot be written (disk full, no permission); the old ones are in place.
        """

    def add(self, entry_id: str, annotations: Sequence[Annotation], *, path_classes: Collection[PathClass] = ()) -> int:
        """Add annotations of any shape as they are, at the top of the hierarchy; returns how many.

        Existing objects stay as they are; the caller makes sure that no id comes twice. Classes that the project lacks
        are added to it, in the colour that ``path_classes`` gives them, else in QuPath's.

        Raises:
            SlideError, ProjectError: as ``replace``.
        """

    def set_metadata(self, values: Mapping[str, Mapping[str, str]]) -> None:
        """Set entry metadata: entry id -> {key: value}. Other keys are kept."""
