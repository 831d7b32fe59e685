"""Annotations that wsplf made, as its own code writes them into a new data.qpdata."""

from uuid import uuid4

import shapely

from wsplf_cli.qupath import qpdata
from wsplf_cli.qupath.qpdata import QpData, mark
from wsplf_cli.schema import Annotation


def made(shape: shapely.Geometry, *, name: str = "", path_class: str | None = "Tumor") -> Annotation:
    return Annotation(uuid4(), shape, path_class, run_id="run-1", name=name, measurements={"wsplf: confidence": 0.5})


def new_qpdata(version: str = "0.6.0") -> QpData:
    return qpdata.create(version=version, server="{}", path="/slide.tif", properties={})


def stored(*annotations: Annotation, version: str = "0.6.0") -> list[Annotation]:
    """Annotations as they are read from a new file that they were written to with wsplf's marks."""
    data = new_qpdata(version)
    data.add(
        [part for annotation in annotations for part in mark([annotation], origin="pseudolabel")],
        colours={"Tumor": -3670016},
    )
    return [node.annotation for node in qpdata.loads(data.dumps()).annotation_nodes()]
