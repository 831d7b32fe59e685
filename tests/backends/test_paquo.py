"""What --backend paquo says when paquo, QuPath or Java are not as they should be: with a paquo made of a few lines."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from qupath_objects import Workbench
from shapely import box

from wsplf_cli import plugins
from wsplf_cli.backends import _paquo_link, embedded, paquo
from wsplf_cli.backends._paquo_link import Link, receive, send
from wsplf_cli.errors import MissingDependency, ProjectError, SlideError
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.shapes import ellipse
from wsplf_cli.schema import Annotation

JPYPE = """
class JException(Exception):
    pass
class JVMNotFoundException(ValueError):
    pass
def JClass(name):
    raise TypeError("Class " + name + " is not found")
"""

Fake = Callable[[str], paquo.PaquoProject]


@pytest.fixture
def fake(tmp_path: Path, tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    """Opens the tiny project, its first entry with data, through a paquo whose import does what it is told."""
    home = tmp_path / "fake"
    (home / "paquo").mkdir(parents=True)
    (home / "jpype.py").write_text(JPYPE, encoding="utf-8")
    (home / "paquo" / "__init__.py").write_text("__version__ = '0.9.0'\n", encoding="utf-8")
    (home / "paquo" / "projects.py").write_text("", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(home))
    monkeypatch.syspath_prepend(str(home))
    monkeypatch.delenv("PAQUO_QUPATH_DIR", raising=False)
    files = embedded.open_project(tiny_project, ProjectOptions())
    files.replace("1", origin="pseudolabel", annotations=[Annotation(uuid4(), box(1, 1, 50, 50), "Tumor")])

    def opened(java: str) -> paquo.PaquoProject:
        (home / "paquo" / "java.py").write_text(java, encoding="utf-8")
        return paquo.open_project(tiny_project, ProjectOptions())

    return opened


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the child process be one that starts and then does what it is told with each request."""

    def use(answering: str) -> None:
        script = tmp_path / "child.py"
        lines = [
            "import os, sys, time",
            "from wsplf_cli.backends._paquo_link import receive, send",
            "send(sys.stdout.buffer, {'qupath': '0.6.0'})",
            "while (request := receive(sys.stdin.buffer)) is not None:",
            *(f"    {line}" for line in answering.splitlines()),
        ]
        script.write_text("\n".join(lines), encoding="utf-8")
        monkeypatch.setattr(paquo, "Link", lambda: Link(command=[sys.executable, str(script)]))

    return use


def _object(kind: str = "annotation") -> str:
    fields = {"kind": kind, "parent": -1, "name": "", "class": None, "color": None, "id": None, "locked": False}
    return repr(fields | {"probability": None, "metadata": {}, "measurements": {}, "missing": False, "grid": None})


def test_without_paquo_the_line_to_type_is_told(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="needs paquo, which is not installed") as caught:
        paquo.open_project(tiny_project, ProjectOptions())
    assert caught.value.hint == "pip install paquo"


def test_the_child_is_no_backend_of_its_own() -> None:
    assert plugins.names("backends") == ["embedded", "paquo"]


def test_opening_and_listing_start_no_java(fake: Fake) -> None:
    project = fake("raise SystemExit('started')")
    assert [entry.id for entry in project.entries()] == ["1", "2", "3"]
    assert project.annotations("2") == project.objects("2") == []
    assert project.path_classes()[0].name == "Tumor"
    assert project._link is None


@pytest.mark.parametrize(
    ("java", "error", "message", "hint"),
    [
        ("raise ValueError('no valid qupath installation found')", ProjectError, "finds no QuPath", "PAQUO_QUPATH_DIR"),
        ("raise FileNotFoundError('incompatible')", ProjectError, "no QuPath at .*incompatible", "PAQUO_QUPATH_DIR"),
        ("raise OSError('wrong ELF class')", ProjectError, "cannot be loaded into this Python .*ELF", "architecture"),
        ("import jpype; raise jpype.JVMNotFoundException('no JVM')", ProjectError, "no JVM", "PAQUO_QUPATH_DIR"),
        ("raise RuntimeError('JAVA_OPTS')", ProjectError, "does not start: JAVA_OPTS", "--backend embedded"),
        ("raise TypeError('Class X is not found')", ProjectError, "paquo 0.9.0 does not know QuPath", "embedded"),
        ("import jpype; raise jpype.JException('gone')", ProjectError, "does not know QuPath.*gone", "embedded"),
        ("import missing_part", ProjectError, "does not know QuPath.*missing_part", "embedded"),
        ("import os; os._exit(3)", ProjectError, "process ended: exit code 3", "--backend embedded"),
        (
            "import os, sys; sys.stderr.write('#  SIGSEGV (0xb) at pc=1\\nend\\n'); sys.stderr.flush(); os._exit(134)",
            ProjectError,
            r"exit code 134, .*SIGSEGV \(0xb\)",
            "--backend embedded",
        ),
    ],
)
def test_what_keeps_qupath_from_starting_is_one_line(
    fake: Fake, java: str, error: type[Exception], message: str, hint: str
) -> None:
    project = fake(java)
    with pytest.raises(error, match=message) as caught:
        project.annotations("1")
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint


def test_paquo_that_cannot_be_imported_names_the_line_to_type(fake: Fake) -> None:
    project = fake("")
    package = Path(os.environ["PYTHONPATH"]) / "paquo" / "__init__.py"
    package.write_text("import no_such_library", encoding="utf-8")
    with pytest.raises(MissingDependency, match="no_such_library") as caught:
        project.annotations("1")
    assert caught.value.hint == "pip install paquo"


@pytest.mark.parametrize("version", ["'0.1.3'", "'0.9.0'", "None"])
def test_qupath_that_nobody_tried_is_refused(fake: Fake, version: str) -> None:
    with pytest.raises(ProjectError, match="is not one that paquo knows"):
        fake(f"qupath_version = {version}").annotations("1")


def test_qupath_that_does_not_start_in_time_is_ended(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_paquo_link, "START_S", 1.0)
    monkeypatch.setattr(_paquo_link, "STOP_S", 0.2)
    project = fake("import time; time.sleep(60)")
    begun = time.monotonic()
    with pytest.raises(ProjectError, match="did not start within 1 s and was ended"):
        project.annotations("1")
    assert time.monotonic() - begun < 30


def test_hanging_qupath_is_ended_and_the_next_request_starts_another(
    fake: Fake, child: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_paquo_link, "ANSWER_S", 0.5)
    monkeypatch.setattr(_paquo_link, "STOP_S", 0.2)
    project = fake("")
    child("time.sleep(60)")
    before = (project.folder / "data" / "1" / "data.qpdata").read_bytes()
    with pytest.raises(ProjectError, match=r"gave no answer within 0\.5 s"):
        project.replace("1", origin="pseudolabel", annotations=[])
    first = project._link
    assert first is not None
    assert first._child.poll() is not None
    child(f"send(sys.stdout.buffer, {{'objects': [{_object('root')}, {_object()}]}})")
    monkeypatch.setattr(_paquo_link, "ANSWER_S", 30.0)
    assert len(project.annotations("1")) == 1
    assert (project.folder / "data" / "1" / "data.qpdata").read_bytes() == before
    project.close()


def test_qupath_that_crashes_at_work_leaves_the_files(fake: Fake, child: Callable[[str], None]) -> None:
    project = fake("")
    child("print('out of memory', file=sys.stderr, flush=True); os._exit(1)")
    path = project.folder / "data" / "1" / "data.qpdata"
    before = path.read_bytes()
    with pytest.raises(ProjectError, match="exit code 1, out of memory; nothing was written"):
        project.replace("1", origin="pseudolabel", annotations=[])
    assert path.read_bytes() == before


def test_image_that_qupath_reads_only_in_part_is_not_saved(fake: Fake, child: Callable[[str], None]) -> None:
    project = fake("")
    child(f"send(sys.stdout.buffer, {{'objects': [{_object('root')}]}})")
    for work in (
        lambda: project.annotations("1"),
        lambda: project.replace("1", origin="pseudolabel", annotations=[]),
    ):
        with pytest.raises(SlideError, match="reads 1 of its 2 objects"):
            work()
    project.close()


def test_what_qupath_saved_wrongly_is_not_put_in_place(fake: Fake, child: Callable[[str], None]) -> None:
    project = fake("")
    path = project.folder / "data" / "1" / "data.qpdata"
    before = path.read_bytes()
    own = embedded.open_project(project.path, ProjectOptions()).annotations("1")[0]
    marks = repr(dict(own.metadata))
    objects = f"[{_object('root')}, {{**{_object()}, 'class': 'Tumor', 'metadata': {marks}, 'wkb': '{_wkb(own)}'}}]"
    # it says that it saved, but the data in the copy are the old ones
    child(
        "if request['do'] == 'load':\n"
        "    folder = os.path.join(os.path.dirname(request['project']), 'data', '1')\n"
        "    open(os.path.join(folder, 'summary.json'), 'w').write('{}')\n"
        f"send(sys.stdout.buffer, {{'objects': {objects}, 'count': 1}})"
    )
    with pytest.raises(SlideError, match="QuPath saved 2 objects where 1 were expected"):
        project.replace("1", origin="pseudolabel", annotations=[])
    assert path.read_bytes() == before
    project.close()


def _wkb(annotation: Annotation) -> str:
    return str(paquo._annotation_record(annotation)["wkb"])


def test_ellipse_of_qupath_is_the_one_of_the_embedded_backend(fake: Fake, child: Callable[[str], None]) -> None:
    project = fake("")
    bounds = (10.25, 20, 900, 400)
    embedded.open_project(project.path, ProjectOptions()).replace("1", origin="pseudolabel", annotations=[])
    embedded.open_project(project.path, ProjectOptions()).add(
        "1", [Annotation(uuid4(), ellipse(bounds), None, roi="EllipseROI")]
    )
    (other,) = embedded.open_project(project.path, ProjectOptions()).annotations("1")
    in_qupath = Annotation(other.id, ellipse(bounds, vertices=100), None)
    fields = f"'id': '{other.id}', 'roi': 'EllipseROI', 'wkb': '{_wkb(in_qupath)}'"
    child(f"send(sys.stdout.buffer, {{'objects': [{_object('root')}, {{**{_object()}, {fields}}}]}})")
    project = paquo.open_project(project.path, ProjectOptions())
    (annotation,) = project.annotations("1")
    assert annotation.roi == other.roi == "EllipseROI"
    assert annotation.shape.equals_exact(other.shape, 1e-9)
    project.close()


def test_id_that_qupath_invents_at_reading_is_none(fake: Fake, child: Callable[[str], None]) -> None:
    path = fake("").path
    bench = Workbench()
    rectangle = bench.corners("RectangleROI", 0, 0, 9, 9)
    lasting = {"Object ID": str(uuid4())}
    (path.parent / "data" / "1" / "data.qpdata").write_bytes(
        bench.put(bench.node(rectangle), bench.node(rectangle, metadata=lasting))
    )
    reading = embedded.open_project(path, ProjectOptions()).annotations("1")
    objects = ", ".join(f"{{**{_object()}, 'id': {identity!r}}}" for identity in (str(uuid4()), lasting["Object ID"]))
    child(f"send(sys.stdout.buffer, {{'objects': [{_object('root')}, {objects}]}})")
    project = paquo.open_project(path, ProjectOptions())
    annotations = project.annotations("1")
    assert [one.has_id for one in annotations] == [one.has_id for one in reading] == [False, True]
    assert [one.id for one in annotations] == [one.id for one in reading]
    project.close()


SAVING = """
from pathlib import Path
from uuid import uuid4
from shapely import box
from wsplf_cli.qupath import qpdata
from wsplf_cli.schema import Annotation
if request["do"] == "load":
    project = Path(request["project"])
else:
    path = project.parent / "data" / "2" / "data.qpdata"
    properties = {qpdata.ENTRY_KEY: f"{project}::2", "other": "kept"}
    server = '{},"id":"%s"' % path
    data = qpdata.create(version="0.6.0", server=server, path="", properties=properties)
    data.add([Annotation(uuid4(), box(0, 0, 9, 9), None)], colours={})
    path.write_bytes(data.dumps())
    path.with_name("summary.json").write_text("{}")
"""


def test_temporary_folder_is_not_left_in_what_qupath_saved(
    fake: Fake, child: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    project = fake("")
    child(f"{SAVING}send(sys.stdout.buffer, {{'objects': [{_object('root')}]}})")
    project.add("2", [Annotation(uuid4(), box(0, 0, 9, 9), None)])
    path = project.folder / "data" / "2" / "data.qpdata"
    raw = path.read_bytes()
    assert str(temporary).encode() not in raw
    assert f"{project.path}::2".encode() in raw
    assert f'"id":"{path}"'.encode() in raw
    assert b"kept" in raw
    assert len(embedded.open_project(project.path, ProjectOptions()).annotations("2")) == 1
    project.close()


def test_qupath_never_gets_a_damaged_file(fake: Fake, child: Callable[[str], None]) -> None:
    project = fake("")
    child("os._exit(1)")
    path = project.folder / "data" / "1" / "data.qpdata"
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(SlideError, match=r"data\.qpdata: cannot be read"):
        project.annotations("1")
    assert project._link is None


def test_errors_of_one_entry_name_its_file(fake: Fake, child: Callable[[str], None]) -> None:
    project = fake("")
    child("send(sys.stdout.buffer, {'error': 'slide', 'message': 'no such image', 'hint': 'find it'})")
    with pytest.raises(SlideError, match=r"data\.qpdata: no such image") as caught:
        project.annotations("1")
    assert caught.value.hint == "find it"
    project.close()


def test_closing_ends_the_process(fake: Fake, child: Callable[[str], None]) -> None:
    project = fake("")
    child(f"send(sys.stdout.buffer, {{'objects': [{_object('root')}, {_object()}]}})")
    project.annotations("1")
    link = project._link
    assert link is not None
    project.close()
    assert link._child.poll() == 0
    assert not link.alive


def test_messages_survive_the_wire(tmp_path: Path) -> None:
    path = tmp_path / "wire"
    with path.open("wb") as stream:
        send(stream, {"ü": "漢😀", "n": [1.5]})
        send(stream, {})
    whole = path.read_bytes()
    with path.open("rb") as stream:
        assert [receive(stream), receive(stream), receive(stream)] == [{"ü": "漢😀", "n": [1.5]}, {}, None]
    path.write_bytes(whole[:12])
    with path.open("rb") as stream:
        assert receive(stream) is None


def test_importing_the_backends_loads_neither_paquo_nor_java() -> None:
    code = "import sys, wsplf_cli.backends.paquo, wsplf_cli.backends.embedded"
    check = "assert not {'paquo', 'jpype'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{code}; {check}"], check=True)
