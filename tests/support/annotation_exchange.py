"""What the tests of export and import share: a person's annotations, projects that hold some, and files of features."""

import json
import math
from pathlib import Path
from typing import Any
from uuid import uuid4

from shapely import LineString, MultiLineString, MultiPoint, MultiPolygon, Point, Polygon, box

from wsplf_cli.backends import Project
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.export import export
from wsplf_cli.commands.import_ import import_files
from wsplf_cli.options import ExportOptions, ImportOptions, ProjectOptions
from wsplf_cli.schema import Annotation, PathClass, Plane, Silent, StageReport

HOLED = Polygon([(100, 100), (300, 100), (300, 300), (100, 300)], [[(150, 150), (150, 200), (200, 200), (200, 150)]])
DATA = "data/{}/data.qpdata"


def opened(path: Path) -> Project:
    return open_project(path, ProjectOptions())


def export_project(path: Path, out: Path, **options: Any) -> StageReport:
    project = opened(path)
    return export(project, project.entries(), ExportOptions(out=out, **options), Silent())


def import_into(path: Path, *files: Path, tracker: Any = None, **options: Any) -> StageReport:
    project = opened(path)
    return import_files(project, project.entries(), files, ImportOptions(**options), tracker or Silent())


def persons_annotations() -> list[Annotation]:
    """A person's annotations of every kind of shape."""
    values = {"a": 1.5, "nan": math.nan, "inf": math.inf}
    return [
        Annotation(uuid4(), HOLED, "Tumor: Positive", name="größe", measurements=values, locked=True),
        Annotation(uuid4(), MultiPolygon([box(0, 0, 5, 5), box(9, 9, 12, 12)]), "Mine", metadata={"k": "v"}),
        Annotation(uuid4(), box(10.123, 10, 20.5, 20), None, rgb=(1, 2, 3), plane=Plane(0, 2, 1)),
        Annotation(uuid4(), Point(1.5, 2.25), "Stroma"),
        Annotation(uuid4(), MultiPoint([(1, 2), (3, 4)]), None),
        Annotation(uuid4(), LineString([(0, 0), (10, 10)]), None),
        Annotation(uuid4(), LineString([(0, 0), (10, 10), (20, 0)]), None, plane=Plane(-1, 1, 0)),
        Annotation(uuid4(), MultiLineString([[(0, 0), (1, 1)], [(2, 2), (3, 3)]]), None),
    ]


def with_annotations(path: Path, *, entry_id: str = "1") -> list[Annotation]:
    """What an entry holds after a person's annotations and three of wsplf's were written into it."""
    set_image(path, sizeZ=3, sizeT=2)
    project = opened(path)
    project.add(entry_id, persons_annotations(), path_classes=[PathClass("Mine", (9, 8, 7))])
    run = {"run_id": "r1", "measurements": {"wsplf: confidence": 0.5}}
    own = [Annotation(uuid4(), box(n, n, n + 30.25, n + 30), "Tumor", **run) for n in (100, 200)]
    project.replace(entry_id, origin="pseudolabel", annotations=own)
    project.replace(entry_id, origin="prediction", annotations=[Annotation(uuid4(), HOLED, "Tumor", run_id="r2")])
    return opened(path).annotations(entry_id)


def set_image(path: Path, **sizes: int) -> None:
    """Make a project say other sizes of its images: width, height, sizeZ, sizeT."""
    project = json.loads(path.read_text(encoding="utf-8"))
    for image in project["images"]:
        image["serverBuilder"]["metadata"] |= sizes
    path.write_text(json.dumps(project), encoding="utf-8")


def comparable(annotations: list[Annotation]) -> list[tuple[object, ...]]:
    """All of each annotation but its shape, in a form that equals itself with NaN in it."""
    return [
        (
            *(one.id, one.path_class, one.origin, one.review, one.run_id, one.name, one.locked, one.edited),
            *(one.plane, one.rgb, repr(dict(one.measurements)), dict(one.metadata), one.shape.geom_type),
        )
        for one in annotations
    ]


def feature(shape: Any, **properties: Any) -> dict[str, Any]:
    geometry = json.loads(json.dumps(shape.__geo_interface__))
    return {"type": "Feature", "id": properties.pop("id", str(uuid4())), "geometry": geometry, "properties": properties}


def feature_collection(path: Path, *features: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}), encoding="utf-8")
    return path
