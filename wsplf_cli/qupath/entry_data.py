"""The files of an entry that has no data yet: data.qpdata without objects, and summary.json."""

from collections.abc import Mapping
from pathlib import Path

from wsplf_cli.qupath import gson, qpdata, servers
from wsplf_cli.qupath.images import uri_path
from wsplf_cli.qupath.project_file import now_ms
from wsplf_cli.qupath.qpdata import QpData


def new_data(
    image: Mapping[str, object], entry_id: str, *, project: Path, version: str, image_type: str = "UNSET"
) -> QpData:
    """The data of an entry that has none yet.

    Args:
        image: the entry's record in the project file.
        entry_id: its id.
        project: the project file, absolute.
        version: the version of QuPath whose form the file gets.
        image_type: QuPath's image type, if a person chose one.
    """
    chain = servers.builders(image)
    uri = str(chain[-1].get("uri") or "") if chain else ""
    return qpdata.create(
        version=version,
        server=gson.dumps(image["serverBuilder"], indent=False) if chain else None,
        path=uri_path(uri) or uri,
        properties={"PROJECT_ENTRY_ID": f"{project}::{entry_id}"},
        image_type=image_type,
    )


def summary_file(image: Mapping[str, object], data: QpData) -> bytes:
    """summary.json of an entry, from its record in the project file and its data."""
    chain = servers.builders(image)
    server = next((builder["metadata"] for builder in chain if isinstance(builder.get("metadata"), dict)), None)
    document: dict[str, object] = {"timestamp": now_ms(), "imageType": data.image_type}
    if server is not None:
        document["server"] = {
            "width": server.get("width"),
            "height": server.get("height"),
            "sizeC": len(server.get("channels") or []),
            "sizeZ": server.get("sizeZ", 1),
            "sizeT": server.get("sizeT", 1),
        }
    document["hierarchy"] = data.counts()
    return gson.dumps(document, indent=False).encode("utf-8")
