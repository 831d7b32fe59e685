"""The Groovy scripts as text, and compiled where there is a Groovy; real QuPath is not needed."""

import csv
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from wsplf_cli.commands.install_scripts import shipped
from wsplf_cli.schema import CLASS_KEY, DISPUTED_KEY, NAME_KEY, ORIGIN_KEY, REVIEW_KEY, REVIEWED_KEY

SCRIPTS = {name: content.decode() for name, content in shipped().items()}

#: What scripts may call without an object before it, looked up in the sources of QuPath 0.4.4, 0.5.1, 0.6.0 and 0.7.0
#: (QP, and QPEx for the window): all four have them with these arguments.
QUPATH = {
    "buildFilePath",
    "exportObjectsToGeoJson",
    "getAllObjects",
    "getAnnotationObjects",
    "getCurrentHierarchy",
    "getCurrentImageData",
    "getCurrentViewer",
    "getProject",
    "getProjectEntry",
    "getQuPath",
    "getSelectedObject",
    "getSelectedObjects",
    "importObjectsFromFile",
    "mkdirs",
    "promptForFile",
    "removeObjects",
}
GROOVY = {"println", "sprintf"}

#: Scripts whose calls of QuPath's methods are all looked up, and not only those without an object before them.
LOOKED_UP = ("wsplf_apply_model.groovy", "wsplf_explain_selected.groovy")
#: Class and method, and the versions of QuPath whose sources have both, as they were found there.
METHODS = list(csv.DictReader((Path(__file__).parent / "support" / "qupath_methods.csv").read_text().splitlines()))
#: Methods of Java, of Groovy, of Gson, of JavaFX, and of QuPath's dialogs.
OTHER_METHODS = {
    *("abs", "max", "ceil", "isNaN", "intdiv", "size", "join", "resolve", "toFile", "toURI", "toString", "startsWith"),
    *("getName", "getPath", "getAbsolutePath", "getAbsoluteFile", "getParentFile", "isFile", "getText", "setRGB"),
    *("getMessage", "createTempDirectory", "redirectErrorStream", "start", "close", "getOutputStream"),
    *("getInputStream", "eachLine", "waitFor", "fromJson", "hasVariable", "isFxApplicationThread"),
    *("showInfoNotification",),
}
OTHER_CLASSES = {"Math", "Double", "Map", "Files", "Platform", "Dialogs", "BufferedImage"}
WORDS = {"if", "switch", "for", "while", "catch", "return"}


def code(text):
    """The script without comments and without the text in quotes."""
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    text = re.sub(r"(?<!:)//.*", "", text)
    return re.sub(r"'[^'\n]*'", "''", text)


@pytest.mark.parametrize("name", SCRIPTS)
def test_header_says_what_it_does_the_versions_and_the_headless_way(name):
    header = re.match(r"/\*\n(.*?)\*/\n", SCRIPTS[name], flags=re.DOTALL)
    assert header
    assert header[1].startswith(" * wsplf: ")
    assert ("QuPath 0.5 to 0.7." if name in LOOKED_UP else "QuPath 0.4 to 0.7.") in header[1]
    if name != "wsplf_menu.groovy":
        assert re.search(rf"QuPath script --project P\.qpproj --image \w+.* {name}", header[1])


@pytest.mark.parametrize("name", SCRIPTS)
def test_parameters_stand_on_top(name):
    after_header = SCRIPTS[name].split("*/\n", 1)[1]
    assert re.match(r"def \w+ = .*//", after_header), "the first line is a parameter with its comment"


@pytest.mark.parametrize("name", SCRIPTS)
def test_only_known_calls_are_made(name):
    text = code(SCRIPTS[name])
    own = set(re.findall(r"def (\w+)\(", text)) | set(re.findall(r"def (\w+) = \{", text))
    called = set(re.findall(r"(?<![.\w])(\w+)\(", text)) - own - WORDS
    called = {one for one in called if not re.search(rf"\bnew (?:\w+\.)*{one}\(", text)}
    assert called <= QUPATH | GROOVY


def in_every_version(row):
    return row["versions"].split() == ["0.5.1", "0.6.0", "0.7.0"]


@pytest.mark.parametrize("name", LOOKED_UP)
def test_every_class_and_method_of_qupath_is_in_its_sources(name):
    text = code(SCRIPTS[name])
    imports = {
        path.rpartition(".")[2]: path for path in re.findall(r"^import (qupath[\w.]+)$", text, flags=re.MULTILINE)
    }
    known = {(row["class"], row["method"]) for row in METHODS if in_every_version(row)}
    of_classes = re.findall(r"\b((?:[A-Z]\w*\.)+)(\w+)\b(?![.\w])", re.sub(r"^import .*", "", text, flags=re.MULTILINE))
    looked_up = set()
    for classes, member in of_classes:
        outer, _, nested = classes.rstrip(".").partition(".")
        if outer in OTHER_CLASSES:
            continue
        found = f"{imports[outer]}.{nested}".rstrip(".")
        assert (found, member) in known or (f"{found}.{member}", member) in known, f"{found}.{member}"
        looked_up.add(outer)
    assert looked_up == set(imports), "an import that is not used"
    methods = {method for _, method in known}
    assert set(re.findall(r"\.(\w+)\(", text)) <= methods | OTHER_METHODS
    own = set(re.findall(r"def (\w+)\(", text)) | set(re.findall(r"def (\w+) = \{", text))
    bare = set(re.findall(r"(?<![.\w])([a-z]\w+)\(", text)) - own - WORDS
    assert bare <= methods


def test_the_list_of_methods_is_of_these_scripts_only():
    text = "".join(code(SCRIPTS[name]) for name in LOOKED_UP)
    assert all(in_every_version(row) for row in METHODS)
    assert [row for row in METHODS if not re.search(rf"\b{row['method']}\b", text)] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_window_is_used_only_where_there_is_one(name):
    for line in SCRIPTS[name].splitlines():
        if re.match(r"\s*import .*(gui|javafx|fx\.dialogs)", line):
            pytest.fail(f"{line}: such a class is not there headless")
        if "Dialogs." in line and name not in {"wsplf_menu.groovy", "wsplf_run.groovy"}:
            before = SCRIPTS[name][: SCRIPTS[name].index(line) + len(line)]
            assert "getQuPath() != null" in before[-400:], line


def test_metadata_keys_are_those_that_wsplf_reads():
    used = {key for text in SCRIPTS.values() for key in re.findall(r"'(wsplf\.\w+)'", text)}
    assert used == {ORIGIN_KEY, REVIEW_KEY, REVIEWED_KEY, CLASS_KEY, NAME_KEY, DISPUTED_KEY}


def test_lines_are_no_longer_than_in_the_rest_of_the_project():
    assert [line for text in SCRIPTS.values() for line in text.splitlines() if len(line) > 120] == []


def test_every_script_of_the_menu_is_shipped():
    named = re.findall(r"^    (wsplf_\w+)\s*:", SCRIPTS["wsplf_menu.groovy"], flags=re.MULTILINE)
    assert named
    assert {f"{name}.groovy" for name in named} <= set(SCRIPTS)


def compiler():
    """The command of a Groovy compiler: groovyc, or Java with the jar named by WSPLF_GROOVY; None where neither is."""
    jar = os.environ.get("WSPLF_GROOVY")
    if jar and Path(jar).is_file() and shutil.which("java"):
        return ["java", "-cp", jar, "org.codehaus.groovy.tools.FileSystemCompiler"]
    found = shutil.which("groovyc")
    return [found] if found else None


def write_stubs(folder):
    """Empty classes of the names that scripts import from QuPath, so that they compile without it."""
    text = "".join(SCRIPTS.values())
    for path in set(re.findall(r"^import (qupath[\w.]+)$", text, flags=re.MULTILINE)):
        package, _, name = path.rpartition(".")
        nested = " ".join(f"static class {inner} {{}}" for inner in set(re.findall(rf"new {name}\.(\w+)\(", text)))
        (folder / f"{name}.groovy").write_text(f"package {package}\nclass {name} {{ {nested} }}\n")


def test_they_compile(tmp_path):
    command = compiler()
    if command is None:
        pytest.skip("no groovyc on the PATH and no Java with the jar of Groovy 4 or 5 that WSPLF_GROOVY names")
    for name, text in SCRIPTS.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    write_stubs(tmp_path)
    paths = [str(path) for path in tmp_path.glob("*.groovy")]
    done = subprocess.run([*command, "-d", str(tmp_path / "out"), *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.stem for path in (tmp_path / "out").glob("wsplf_*.class")} >= {Path(name).stem for name in SCRIPTS}


def test_the_compiler_would_notice_a_mistake(tmp_path):
    command = compiler()
    if command is None:
        pytest.skip("no groovyc on the PATH and no Java with the jar of Groovy 4 or 5 that WSPLF_GROOVY names")
    broken = tmp_path / "broken.groovy"
    broken.write_text(SCRIPTS["wsplf_run.groovy"].replace("}", "", 1), encoding="utf-8")
    done = subprocess.run([*command, "-d", str(tmp_path), str(broken)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
