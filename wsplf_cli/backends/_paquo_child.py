"""The child process that holds QuPath: reads requests from its standard input, answers on its standard output.

It works on a copy of the project that the parent made, so that nothing that QuPath or paquo do on their own (paquo
saves on leaving a project, QuPath makes folders on opening one) reaches the user's files.
"""

import base64
import math
import os
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any

from wsplf_cli.backends._paquo_link import receive, send
from wsplf_cli.class_names import class_parts
from wsplf_cli.qupath.records import FALLBACK_ID_KEY

NEWEST_KNOWN = (0, 7)
"""The newest QuPath that this file was run with; paquo 0.9 itself names 0.6."""

KINDS = (
    ("PathRootObject", "root"),
    ("PathAnnotationObject", "annotation"),
    ("TMACoreObject", "tma_core"),
    ("PathCellObject", "cell"),
    ("PathTileObject", "tile"),
    ("PathDetectionObject", "detection"),
)
SEARCH = "set PAQUO_QUPATH_DIR to the folder of QuPath (on macOS QuPath.app), or use --backend embedded"


class Refused(Exception):  # noqa: N818 - an answer, not a fault
    """An error for the parent to raise: kind ("missing", "project", "slide"), message and hint."""

    def __init__(self, kind: str, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.answer = {"error": kind, "message": message, "hint": hint}


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    requests, answers = _pipes()
    try:
        qupath = QuPath()
    except Refused as refused:
        send(answers, refused.answer)
        return
    send(answers, {"qupath": qupath.version})
    handlers: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
        "read": qupath.read,
        "load": qupath.load,
        "save": qupath.save,
    }
    while (request := receive(requests)) is not None:
        try:
            answer = handlers[request["do"]](request)
        except Refused as refused:
            answer = refused.answer
        except qupath.java_error as error:
            text = f"QuPath {qupath.version} cannot {request['do']} this entry: {_short(error)}"
            answer = Refused("slide", text, hint="open it in QuPath to check it").answer
        send(answers, answer)
    sys.stderr.flush()
    os._exit(0)  # threads of QuPath may never end


def _pipes() -> tuple[IO[bytes], IO[bytes]]:
    """The streams of requests and answers; what other code prints goes to standard error, not between the answers."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return requests, answers


def _start() -> tuple[Any, Any, Any]:
    """The modules jpype, paquo.java and paquo.projects, with QuPath's Java machine running.

    Raises:
        Refused: it does not start; the message says why.
    """
    try:
        import jpype
        import paquo
    except ImportError as error:
        raise Refused("missing", f"paquo cannot be imported: {error}", hint="pip install paquo") from error
    embedded = "use --backend embedded, which needs no QuPath"
    try:
        import paquo.java
        import paquo.projects
    except (ImportError, AttributeError, TypeError, jpype.JException) as error:
        version = _version_of(jpype)
        raise Refused(
            "project", f"paquo {paquo.__version__} does not know QuPath {version}: {_short(error)}", hint=embedded
        ) from error
    except FileNotFoundError as error:
        named = os.environ.get("PAQUO_QUPATH_DIR", "")
        raise Refused(
            "project", f"no QuPath at {named or 'the place that paquo knows'}: {error}", hint=SEARCH
        ) from error
    except ValueError as error:  # also jpype's JVMNotFoundException
        raise Refused("project", f"paquo finds no QuPath: {_short(error)}", hint=SEARCH) from error
    except OSError as error:
        raise Refused(
            "project",
            f"the Java of QuPath cannot be loaded into this Python ({_machine()}): {_short(error)}",
            hint=f"take a QuPath and a Python of one architecture, or {embedded}",
        ) from error
    except RuntimeError as error:
        raise Refused("project", f"the Java of QuPath does not start: {_short(error)}", hint=embedded) from error
    return jpype, paquo.java, paquo.projects


class QuPath:
    """A running QuPath, through paquo."""

    def __init__(self) -> None:
        """Start it.

        Raises:
            Refused: it cannot be found or started, or is a version that paquo does not know.
        """
        jpype, java, self._projects = _start()
        self.java_error: type[Exception] = jpype.JException
        self._java = java
        self.version = str(java.qupath_version) if java.qupath_version is not None else ""
        numbers = tuple(int(part) for part in self.version.split("-")[0].split(".")[:2] if part.isdigit())
        if len(numbers) < 2 or numbers < (0, 2) or numbers > NEWEST_KNOWN:
            raise Refused(
                "project",
                f"QuPath {self.version or 'of unknown version'} is not one that paquo knows (0.2 to 0.7)",
                hint="set PAQUO_QUPATH_DIR to one of these, or use --backend embedded",
            )
        self._numbers = numbers
        self._plane = jpype.JClass("qupath.lib.regions.ImagePlane")
        self._rois = jpype.JClass("qupath.lib.roi.ROIs")
        self._uuid = jpype.JClass("java.util.UUID")
        self._core = jpype.JClass("qupath.lib.objects.TMACoreObject")
        # before 0.5 (for detections before 0.6) the methods for an object's metadata are private
        path_object = jpype.JClass("qupath.lib.objects.PathObject").class_
        self._metadata_of = path_object.getDeclaredMethod("getUnmodifiableMetadataMap")
        self._metadata_of.setAccessible(True)
        text = java.String.class_
        self._put_metadata = path_object.getDeclaredMethod("storeMetadataValue", text, text)
        self._put_metadata.setAccessible(True)
        self._open: tuple[Any, Any, Any, list[Any]] | None = None

    def read(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The objects of an entry's data file; the image itself is not needed."""
        _, entry = self._entry(request)
        hierarchy = entry.readHierarchy()
        return {"objects": [self._object_record(*visited) for visited in self._walk(hierarchy)]}

    def load(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The objects of an entry that is to be changed; QuPath before 0.6 needs the image for that."""
        project, entry = self._entry(request)
        try:
            data = entry.readImageData()
        except self.java_error as error:
            hint = "QuPath before 0.6 needs the image to change its data: give its folder with --slides DIR"
            raise Refused(
                "slide", f"QuPath {self.version} cannot open the image: {_short(error)}", hint=hint
            ) from error
        visited = self._walk(data.getHierarchy())
        self._open = (project, entry, data, [node for node, _, _ in visited])
        return {"objects": [self._object_record(*visit) for visit in visited]}

    def save(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Change the loaded entry and save it in the copy: "remove" (indices), "add" (records)."""
        assert self._open is not None
        _, entry, data, nodes = self._open
        self._open = None
        hierarchy = data.getHierarchy()
        removed = self._java.ArrayList([nodes[index] for index in request["remove"]])
        added = self._java.ArrayList([self._new_annotation(record) for record in request["add"]])
        if removed.size():
            hierarchy.removeObjects(removed, True)
        if added.size():
            (hierarchy.addObjects if self._java.compatibility.supports_addobjects else hierarchy.addPathObjects)(added)
        entry.saveImageData(data)
        return {"count": int(hierarchy.nObjects())}

    def _entry(self, request: Mapping[str, Any]) -> tuple[Any, Any]:
        project = self._projects.QuPathProject(request["project"], mode="r+")
        for image in project.images:
            if image.entry_id == request["entry"]:
                return project, image.java_object
        raise Refused("project", f"QuPath finds no entry {request['entry']} in the project")

    def _walk(self, hierarchy: Any) -> list[tuple[Any, int, tuple[int, int] | None]]:
        """All objects, each with the index of its parent (-1: none) and the cell of a TMA core; parents first."""
        grid = hierarchy.getTMAGrid()
        cells: dict[int, tuple[int, int]] = {}
        if grid is not None:
            width = int(grid.getGridWidth())
            for index, core in enumerate(grid.getTMACoreList()):
                cells[int(self._java.System.identityHashCode(core))] = divmod(index, width)
        visited: list[tuple[Any, int, tuple[int, int] | None]] = []
        stack = [(hierarchy.getRootObject(), -1)]
        while stack:
            node, parent = stack.pop()
            cell = cells.get(int(self._java.System.identityHashCode(node))) if cells else None
            visited.append((node, parent, cell))
            stack.extend((child, len(visited) - 1) for child in reversed(list(node.getChildObjects())))
        return visited

    def _object_record(self, node: Any, parent: int, cell: tuple[int, int] | None) -> dict[str, Any]:
        """One object as JSON values; ``parent`` is the index of its parent."""
        class_name = str(node.getClass().getSimpleName())
        kind = next((kind for name, kind in KINDS if name == class_name), "detection")
        path_class, name, roi = node.getPathClass(), node.getName(), node.getROI()
        colour = node.getColor() if self._numbers >= (0, 4) else node.getColorRGB()
        probability = float(node.getClassProbability())
        record: dict[str, Any] = {
            "kind": kind,
            "parent": parent,
            "name": "" if name is None else str(name),
            # the root has a class "Image" that is in no file
            "class": None if path_class is None or kind == "root" else str(path_class.toString()),
            "color": None if colour is None else int(colour.intValue()),
            "id": str(node.getID()) if self._numbers >= (0, 4) else None,
            "locked": bool(node.isLocked()) if kind != "root" else False,
            "probability": None if math.isnan(probability) else probability,
            "metadata": {
                str(entry.getKey()): str(entry.getValue()) for entry in self._metadata_of.invoke(node).entrySet()
            },
            "measurements": self._measurements(node.getMeasurementList()),
            "missing": bool(node.isMissing()) if kind == "tma_core" else False,
            "grid": cell,
        }
        if roi is not None:
            record |= {"roi": str(roi.getClass().getSimpleName()), "wkb": self._wkb(roi)}
            record["plane"] = [int(roi.getC()), int(roi.getZ()), int(roi.getT())]
        if kind == "cell" and (nucleus := node.getNucleusROI()) is not None:
            record["nucleus"] = self._wkb(nucleus)
        return record

    def _wkb(self, roi: Any) -> str:
        return base64.b64encode(bytes(self._java.WKBWriter(2).write(roi.getGeometry()))).decode("ascii")

    def _measurements(self, measurements: Any) -> dict[str, float]:
        if measurements is None or measurements.isEmpty():
            return {}
        newer = self._java.compatibility.supports_newer_measurements_interface
        names = list(measurements.getNames() if newer else measurements.getMeasurementNames())
        value: Callable[[Any], Any] = measurements.get if newer else measurements.getMeasurementValue
        return {str(name): float(value(name)) for name in names}

    def _new_annotation(self, record: Mapping[str, Any]) -> Any:
        """A new annotation of QuPath from a record."""
        geometry = self._java.WKBReader().read(base64.b64decode(record["wkb"]))
        plane = self._plane.getPlaneWithChannel(*record["plane"])
        bounds = geometry.getEnvelopeInternal()
        corner_and_size = bounds.getMinX(), bounds.getMinY(), bounds.getWidth(), bounds.getHeight()
        if record["roi"] == "EllipseROI":
            roi = self._rois.createEllipseROI(*corner_and_size, plane)
        elif record["roi"] == "RectangleROI":
            roi = self._rois.createRectangleROI(*corner_and_size, plane)
        else:
            roi = self._java.GeometryTools.geometryToROI(geometry, plane)
        annotation = self._java.PathObjects.createAnnotationObject(roi, self._class_of(record["class"]))
        metadata = dict(record["metadata"])
        if self._numbers >= (0, 4):
            annotation.setID(self._uuid.fromString(record["id"]))
        else:
            metadata[FALLBACK_ID_KEY] = record["id"]
        for key, value in metadata.items():
            self._put_metadata.invoke(annotation, self._java.String(key), self._java.String(value))
        measurements = annotation.getMeasurementList()
        newer = self._java.compatibility.supports_newer_measurements_interface
        put = measurements.put if newer else measurements.putMeasurement
        for key, value in record["measurements"].items():
            put(key, float(value))
        measurements.close()
        if record["name"]:
            annotation.setName(self._java.String(record["name"]))
        if record["color"] is not None:
            (annotation.setColor if self._numbers >= (0, 4) else annotation.setColorRGB)(
                self._java.Integer(record["color"])
            )
        annotation.setLocked(record["locked"])
        return annotation

    def _class_of(self, full_name: str | None) -> Any:
        """A path class of QuPath by its full name ("Tumor: Positive"), in the colour that QuPath gives it."""
        from paquo.classes import QuPathPathClass

        path_class = None
        for part in class_parts(full_name):
            path_class = QuPathPathClass(part, parent=path_class)
        return None if path_class is None else path_class.java_object


def _version_of(jpype: Any) -> str:
    """The version of the running QuPath, "of unknown version" where it cannot be read."""
    try:
        return str(jpype.JClass("qupath.lib.common.GeneralTools").getVersion())
    except (AttributeError, TypeError, RuntimeError, jpype.JException):
        return "of unknown version"


def _machine() -> str:
    import platform

    return f"{platform.system()} {platform.machine()}"


def _short(error: BaseException) -> str:
    """The first line of an error's text."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


if __name__ == "__main__":
    main()
