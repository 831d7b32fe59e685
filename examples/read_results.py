"""Print the annotated area of every slide of a QuPath project as a CSV table, without QuPath.

    python examples/read_results.py PROJECT.qpproj > areas.csv

One line per slide, PathClass, origin (human, pseudolabel, prediction) and review (pending, accepted, rejected).
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.errors import WsplfError
from wsplf_cli.options import ProjectOptions


def main(path: Path) -> None:
    """Write the table of one project to stdout; an entry that cannot be read is named on stderr."""
    project = open_project(path, ProjectOptions())
    table = csv.writer(sys.stdout)
    table.writerow(["slide", "class", "origin", "review", "annotations", "area_mm2"])
    for entry in project.entries():
        areas_px0: dict[tuple[str, str, str], list[float]] = defaultdict(list)
        try:
            annotations = project.annotations(entry.id)
        except WsplfError as error:
            print(error, file=sys.stderr)
            continue
        for annotation in annotations:
            key: tuple[str, str, str] = (annotation.path_class or "", annotation.origin, annotation.review)
            areas_px0[key].append(annotation.shape.area)
        for key, areas in sorted(areas_px0.items()):
            area_mm2 = f"{sum(areas) * entry.mpp**2 / 1e6:.4f}" if entry.mpp else ""
            table.writerow([entry.name, *key, len(areas), area_mm2])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
