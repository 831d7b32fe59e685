"""Commands that only read, on a project that cannot be written: they work, and do not even try to write into it."""

import json
from pathlib import Path

import pytest
from annotation_exchange import with_annotations
from read_only import read_only, tree
from shapely import box
from shapely.geometry import mapping

from wsplf_cli import cli

COMMANDS = {
    "export": "export PROJECT --out OUT",
    "export compressed": "export PROJECT --out OUT --compress --origin human",
    "evaluate": "evaluate PROJECT --truth TRUTH",
    "evaluate against a project": "evaluate PROJECT --truth PROJECT --origin human",
    "report": "report PROJECT --out OUT/report.html",
    "doctor": "doctor PROJECT",
    "doctor registration": "doctor PROJECT --registration --verbose",
    "labels": "labels PROJECT",
    "labels of a table, dry": "labels PROJECT --csv TABLE --dry-run",
    "import, dry": "import PROJECT TRUTH/positive.geojson --dry-run",
    "undo, list": "undo PROJECT --list",
    "relink, dry": "project relink PROJECT --search OUT --dry-run",
}


@pytest.fixture
def arguments(tiny_project: Path, tmp_path: Path) -> dict[str, str]:
    """The words of a command line that stand for paths; the project holds annotations."""
    with_annotations(tiny_project)
    (tmp_path / "out").mkdir()
    (tmp_path / "truth").mkdir()
    feature = {"type": "Feature", "geometry": mapping(box(300, 300, 400, 400)), "properties": {}}
    document = {"type": "FeatureCollection", "features": [feature]}
    (tmp_path / "truth" / "positive.geojson").write_text(json.dumps(document), encoding="utf-8")
    (tmp_path / "table.csv").write_text("slide,label\npositive,tumor\n", encoding="utf-8")
    names = {"PROJECT": tiny_project, "OUT": tmp_path / "out", "TRUTH": tmp_path / "truth"}
    return {name: str(path) for name, path in (names | {"TABLE": tmp_path / "table.csv"}).items()}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_reads_works_on_a_project_that_cannot_be_written(
    arguments: dict[str, str], tiny_project: Path, command: str
) -> None:
    words = []
    for word in COMMANDS[command].split():
        name, slash, rest = word.partition("/")
        words.append(arguments.get(name, name) + slash + rest)
    before = tree(tiny_project.parent)
    with read_only(tiny_project.parent):
        assert cli.main(words) == 0
    assert tree(tiny_project.parent) == before


@pytest.mark.parametrize("command", ["evaluate PROJECT --truth TRUTH --keep-scores", "report PROJECT"])
def test_a_result_that_is_to_be_kept_in_the_project_is_refused_in_one_line(
    arguments: dict[str, str], tiny_project: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    with read_only(tiny_project.parent):
        assert cli.main([arguments.get(word, word) for word in command.split()]) == 1
    assert "error: cannot write the r" in capsys.readouterr().err
    assert not (tiny_project.parent / "wsplf").exists()
