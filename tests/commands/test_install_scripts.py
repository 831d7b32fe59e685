import json
import tomllib
from pathlib import Path

import pytest

from wsplf_cli.commands import install_scripts as scripts
from wsplf_cli.commands.install_scripts import install, shipped
from wsplf_cli.errors import ProjectError
from wsplf_cli.options import InstallOptions
from wsplf_cli.schema import Silent

ACCEPT = "wsplf_accept_selected.groovy"


def run(project, **options):
    return install(project, InstallOptions(**options), Silent())


def test_all_scripts_are_put_where_qupath_lists_them(tiny_project):
    report = run(tiny_project)
    folder = tiny_project.parent / "scripts"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == shipped()
    assert report.details == {"folder": str(folder), "written": len(shipped()), "changed": []}
    assert {entry.status for entry in report.entries} == {"done"}


def test_the_project_itself_and_other_scripts_are_not_touched(tiny_project):
    folder = tiny_project.parent / "scripts"
    folder.mkdir()
    (folder / "mine.groovy").write_text("println 1", encoding="utf-8")
    before = tiny_project.read_bytes()
    run(tiny_project)
    assert tiny_project.read_bytes() == before
    assert (folder / "mine.groovy").read_text(encoding="utf-8") == "println 1"


def test_twice_writes_nothing_the_second_time(tiny_project):
    run(tiny_project)
    path = tiny_project.parent / "scripts" / ACCEPT
    before = path.stat().st_mtime_ns
    report = run(tiny_project)
    assert report.details["written"] == 0
    assert path.stat().st_mtime_ns == before


def test_an_older_script_of_ours_is_updated(tiny_project, monkeypatch):
    monkeypatch.setattr(scripts, "shipped", lambda: {ACCEPT: b"// older\n"})
    run(tiny_project)
    path = tiny_project.parent / "scripts" / ACCEPT
    path.write_bytes(b"// older\r\n")  # as an editor on Windows saves it
    monkeypatch.undo()
    run(tiny_project)
    assert path.read_bytes() == shipped()[ACCEPT]
    assert not path.with_name(ACCEPT + ".bak").exists()


def test_a_script_that_a_person_changed_stays_and_is_named(tiny_project, recorder):
    run(tiny_project)
    path = tiny_project.parent / "scripts" / ACCEPT
    path.write_text("// my own\n", encoding="utf-8")
    report = install(tiny_project, InstallOptions(), recorder)
    assert path.read_text(encoding="utf-8") == "// my own\n"
    assert report.details["changed"] == [ACCEPT]
    assert any(ACCEPT in line and "--force" in line for line in recorder.said)
    assert run(tiny_project).details["changed"] == [ACCEPT]  # and the next time too


def test_force_replaces_it_and_keeps_it_beside(tiny_project):
    run(tiny_project)
    path = tiny_project.parent / "scripts" / ACCEPT
    path.write_text("// my own\n", encoding="utf-8")
    run(tiny_project, force=True)
    assert path.read_bytes() == shipped()[ACCEPT]
    assert path.with_name(ACCEPT + ".bak").read_text(encoding="utf-8") == "// my own\n"


def test_without_the_record_a_different_script_counts_as_changed(tiny_project):
    folder = tiny_project.parent / "scripts"
    folder.mkdir()
    (folder / ACCEPT).write_text("// from elsewhere\n", encoding="utf-8")
    (tiny_project.parent / "wsplf").mkdir()
    (tiny_project.parent / "wsplf" / "scripts.json").write_text("{not json", encoding="utf-8")
    assert run(tiny_project).details["changed"] == [ACCEPT]
    assert ACCEPT not in json.loads((tiny_project.parent / "wsplf" / "scripts.json").read_text(encoding="utf-8"))


def test_a_folder_that_cannot_be_written_is_a_clear_error(tiny_project):
    (tiny_project.parent / "scripts").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(ProjectError, match="scripts"):
        run(tiny_project)


def test_no_project_is_a_clear_error(tmp_path):
    with pytest.raises(ProjectError):
        run(tmp_path)


def test_the_wheel_takes_the_scripts_along():
    """They stand beside the package in a checkout, and inside it when it is installed."""
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    included = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {"qupath_scripts": "wsplf_cli/qupath_scripts"}
