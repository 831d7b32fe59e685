"""The command line: exit codes, what stands on stdout, and every error in one clear line."""

import errno
import json
import sys
import types

import pytest

from wsplf_cli import __version__, cli
from wsplf_cli.cli import command
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.schema import EntryResult, StageReport


@pytest.fixture
def replace_command(monkeypatch):
    """Puts a function in the place of a command's; it gets what the command line passes."""

    def put(name, function):
        monkeypatch.setitem(sys.modules, f"wsplf_cli.commands.{name}", types.SimpleNamespace(**{name: function}))

    return put


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command line."""
    code = cli.main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def report(*statuses):
    results = tuple(EntryResult(str(i), f"{i}.tif", status, "why") for i, status in enumerate(statuses))
    return StageReport("train", "run-1", results, seconds=1.0)


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"wsplf {__version__}\n", "")


def test_no_command_shows_help_and_is_wrong_usage(capsys):
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert "pseudolabel" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["labels"], "Missing argument 'PROJECT'"),
        (["labels", "p", "--positve", "x"], "--positve"),
        (["lables", "p"], "lables"),
        (["train", "p", "--epochs", "x"], "'--epochs'"),
        (["train", "p", "--epochs", "0"], "--epochs must be at least 1"),
        (["train", "p", "--device", "tpu"], "--device must be one of"),
        (["train", "p", "--segmenter", "x"], "--segmenter must be one of: sam, unet, not x"),
        (["pseudolabel", "p", "--refiner", "x"], "--refiner must be one of"),
        (["pseudolabel", "p", "--recipe", "nonsense"], "unknown recipe 'nonsense'"),
        (["pseudolabel", "p", "--recipe", "mil"], "recipe mil is called fine-tuned now"),
        (["pseudolabel", "p", "--refiner", "none", "--sam", "vit_b"], "--sam has no effect with refiner = none"),
        (["pseudolabel", "p", "--sam", "vit_b"], "vit_b needs its checkpoint"),
        (["segment", "p", "--images", "("], "regular expression"),
        (["segment", "p", "--config", "nowhere.toml"], "cannot read nowhere.toml"),
    ],
)
@pytest.mark.parametrize("json_mode", [False, True])
def test_wrong_usage_is_2_with_what_and_a_hint(capsys, arguments, says, json_mode):
    code, out, err = run(capsys, *arguments, *(["--json"] if json_mode else []))
    assert code == 2
    assert err.startswith("error: ")
    assert says in err
    assert (json.loads(out)["error"] in err) if json_mode else out == ""


def test_no_project_is_1_in_one_line_with_a_hint(capsys, tmp_path):
    code, out, err = run(capsys, "labels", tmp_path / "none.qpproj")
    assert (code, out) == (1, "")
    assert err.splitlines()[0].startswith("error: ")
    assert "none.qpproj" in err.splitlines()[0]
    assert err.splitlines()[1].startswith("  try: ")


def test_a_project_that_is_not_json_is_1(capsys, tmp_path):
    path = tmp_path / "project.qpproj"
    path.write_text("not json")
    code, out, err = run(capsys, "labels", path, "--json")
    assert code == 1
    assert "not a QuPath project" in json.loads(out)["error"]
    assert "Traceback" not in err


def test_labels_shows_the_table_and_is_0_when_there_is_something_to_learn_from_it(capsys, tiny_project):
    code, out, err = run(capsys, "labels", tiny_project)
    assert code == 0
    assert "1 positive, 1 negative, 1 unlabelled, 0 unknown" in out
    assert err == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--key", "grade"], "none of 3 entries has a slide label"),
        (["--images", "positive"], "only positive slides"),
        (["--positive", "carcinoma"], "neither positive nor negative: 'tumor' (1)"),
    ],
)
def test_labels_without_anything_to_learn_from_are_1(capsys, tiny_project, arguments, says):
    code, out, err = run(capsys, "labels", tiny_project, *arguments, "--json")
    assert code == 1
    assert says in err
    assert says in json.loads(out)["problems"][0]["error"]


def test_labels_csv_is_in_the_project_afterwards(capsys, tiny_project, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("slide;label;patient\nunlabelled;tumor;P9\n")
    assert run(capsys, "labels", tiny_project, "--csv", table, "--dry-run")[0] == 0
    assert "0 unlabelled" not in run(capsys, "labels", tiny_project)[1]
    assert run(capsys, "labels", tiny_project, "--csv", table)[0] == 0
    entries = json.loads(run(capsys, "labels", tiny_project, "--json")[1])["entries"]
    assert (entries[2]["label"], entries[2]["patient"]) == ("positive", "P9")


@pytest.mark.parametrize("name", ["pseudolabel", "train"])
def test_learning_refuses_an_unknown_label(capsys, tiny_project, replace_command, name):
    replace_command(name, lambda *_: pytest.fail("the command ran"))
    code, _, err = run(capsys, name, tiny_project, "--positive", "carcinoma")
    assert code == 1
    assert "'tumor' (1)" in err
    assert "--positive 'tumor'" in err


@pytest.mark.parametrize("name", ["segment", "train"])
def test_a_command_gets_project_labelled_entries_and_options(capsys, tiny_project, replace_command, name):
    passed = {}

    def work(project, entries, options, tracker):
        passed.update(project=project, entries=entries, options=options)
        return report("done")

    replace_command(name, work)
    assert run(capsys, name, tiny_project, "--seed", "5", "--images", "tive", "--path-class", "Lesion")[0] == 0
    assert passed["project"].path == tiny_project
    assert [entry.label.classes for entry in passed["entries"]] == [{"Lesion"}, frozenset()]
    assert passed["options"].run.seed == 5


def test_segment_takes_an_unknown_label_as_unlabelled_and_says_so(capsys, tiny_project, replace_command):
    replace_command(
        "segment", lambda project, entries, options, tracker: report(*("done" for e in entries if e.label is None))
    )
    code, out, err = run(capsys, "segment", tiny_project, "--positive", "x", "--negative", "y", "--json")
    assert code == 0
    assert len(json.loads(out)["entries"]) == 3
    assert "warning: slide label neither positive nor negative" in err


def test_an_entry_that_failed_is_1(capsys, tiny_project, replace_command):
    replace_command("train", lambda *_: report("done", "failed"))
    code, out, _ = run(capsys, "train", tiny_project)
    assert code == 1
    assert "1 done, 1 failed" in out


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ProjectError("the project is broken", hint="mend it"), 1, "error: the project is broken\n  try: mend it\n"),
        (ConfigError("bad value"), 2, "error: bad value\n"),
        (
            KeyboardInterrupt("2 of 3 entries were finished (x)"),
            130,
            "nothing half-written, 2 of 3 entries were finished",
        ),
        (KeyboardInterrupt(), 130, "nothing half-written, 0 entries were finished (tiles: 4/9)"),
        (OSError(errno.ENOSPC, "No space left on device", "a.bin"), 1, "error: no space left on the disk: a.bin\n"),
        (PermissionError(errno.EACCES, "denied"), 1, "error: no permission"),
    ],
)
@pytest.mark.parametrize("json_mode", [False, True])
def test_errors_of_a_command_are_shown_without_a_traceback(
    capsys, tiny_project, replace_command, error, code, says, json_mode
):
    def work(project, entries, options, tracker):
        tracker.start("tiles", 9)
        tracker.advance(4)
        raise error

    replace_command("train", work)
    exit_code, out, err = run(capsys, "train", tiny_project, *(["--json"] if json_mode else []))
    assert exit_code == code
    assert says in err
    assert "Traceback" not in err
    assert (json.loads(out)["error"] in err) if json_mode else out == ""


def test_ctrl_c_before_a_command_has_begun_says_so_too(capsys, tiny_project, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.typer.main.TyperGroup, "resolve_command", interrupted)
    code, out, err = run(capsys, "labels", tiny_project)
    assert (code, out) == (130, "")
    assert err == "error: stopped; nothing half-written, 0 entries were finished\n"


def test_a_bug_shows(tiny_project, replace_command):
    replace_command("train", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["train", str(tiny_project)])


def test_evaluate_prints_its_json_and_nothing_else(capsys, tiny_project, replace_command):
    scores = {"entries": [], "mean_dice": float("nan"), "pooled_dice": 0.5, "failed": []}

    def evaluate(project, entries, options, tracker):
        assert options.origin == "prediction"
        tracker.say("working")
        return scores

    replace_command("evaluate", evaluate)
    code, out, err = run(capsys, "evaluate", tiny_project, "--truth", "t", "--origin", "prediction", "--json")
    assert code == 0
    assert json.loads(out) == scores | {"mean_dice": None}
    assert err == "working\n"


def test_evaluate_is_1_when_an_entry_could_not_be_measured(capsys, tiny_project, replace_command):
    replace_command("evaluate", lambda *_: {"entries": [], "failed": [{"name": "a", "reason": "broken"}]})
    assert run(capsys, "evaluate", tiny_project)[0] == 1


def test_report_writes_beside_the_project_by_default(capsys, tiny_project, tmp_path):
    page = tiny_project.parent / "wsplf" / "report.html"
    assert json.loads(run(capsys, "report", tiny_project, "--json")[1]) == {"report": str(page)}
    assert page.is_file()
    assert run(capsys, "report", tiny_project, "--out", tmp_path / "x.html")[1] == f"report: {tmp_path / 'x.html'}\n"


def test_demo_passes_its_options_and_shows_its_table(capsys, replace_command, tmp_path):
    row = {"mean_dice": 0.9, "pooled_dice": 0.8, "pooled_iou": 0.7, "negative_fp_share": 0.001}

    def demo(out, *, seed, device, tracker):
        assert (out, seed, device) == (tmp_path / "d", 4, "cpu")
        return {"seconds": 9.5, "pseudolabel": row, "prediction": row, "threshold": row}

    replace_command("demo", demo)
    code, out, _ = run(capsys, "demo", "--out", tmp_path / "d", "--seed", "4", "--device", "cpu")
    assert code == 0
    assert "0.9000" in out
    assert "0.0010" in out


def test_benchmark_passes_its_options_and_shows_its_table(capsys, replace_command, tiny_project):
    document = {
        "out": "there",
        "runs": [{"recipe": "cam", "seed": 0, "status": "done"}, {"recipe": "ep-sam", "seed": 0, "status": "to run"}],
        "rows": [{}],
        "columns": ["recipe", "measured", "Dice"],
        "cells": [["cam", "pseudo-labels", "0.812"]],
        "notes": ["a note"],
        "failed": [],
    }

    def benchmark(project, entries, options, tracker):
        assert (options.recipes, options.seeds) == (("cam", "ep-sam"), 1)
        assert len(entries) == 3
        return document

    replace_command("benchmark", benchmark)
    arguments = ["benchmark", tiny_project, "--recipes", "cam", "--recipes", "ep-sam", "--seeds", "1"]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    for text in ("0.812", "ep-sam, seed 0: to run", "a note", "results: there"):
        assert text in out
    assert json.loads(run(capsys, *arguments, "--json")[1]) == document
    document["failed"] = ["cam, seed 0: broken"]
    code, out, _ = run(capsys, *arguments)
    assert code == 1
    assert "broken" in out


def test_pseudolabel_takes_a_recipe_and_what_is_typed_is_stronger(capsys, replace_command, tiny_project):
    passed = []
    replace_command("pseudolabel", lambda project, entries, options, tracker: passed.append(options) or report("done"))
    arguments = ["--recipe", "ep-sam", "--search-in", "epithelium", "--refiner", "sam"]
    assert run(capsys, "pseudolabel", tiny_project, *arguments)[0] == 0
    (options,) = passed
    assert (options.recipe.name, options.recipe.prompts) == ("ep-sam", "sampled")
    assert (options.recipe.search_in, options.recipe.refiner) == ("epithelium", "sam")


def test_a_recipe_of_wsplf_toml_works_in_pseudolabel_and_benchmark(capsys, replace_command, tiny_project):
    text = '[recipe.mine]\nbase = "cam"\ntta = 3\n[pseudolabel]\nrecipe = "mine"\ncache-gb = 0\n'
    (tiny_project.parent / "wsplf.toml").write_text(text)
    passed = []
    replace_command("pseudolabel", lambda project, entries, options, tracker: passed.append(options) or report("done"))
    assert run(capsys, "pseudolabel", tiny_project)[0] == 0
    assert run(capsys, "pseudolabel", tiny_project, "--recipe", "mine")[0] == 0
    assert run(capsys, "pseudolabel", tiny_project, "--recipe", "default")[0] == 0
    assert [options.recipe.tta for options in passed] == [3, 3, 1]
    assert passed[0].cache_gb == 0
    document = {"out": "there", "runs": [], "rows": [], "columns": [], "cells": [], "notes": [], "failed": []}
    replace_command("benchmark", lambda project, entries, options, tracker: passed.append(options) or document)
    assert run(capsys, "benchmark", tiny_project, "--recipes", "mine")[0] == 0
    assert (passed[-1].recipes, passed[-1].known_recipes["mine"].tta) == (("mine",), 3)


@pytest.fixture
def train_options(replace_command):
    """The options that train was called with."""
    passed = []
    replace_command("train", lambda project, entries, options, tracker: passed.append(options) or report("done"))
    return passed


def test_settings_beside_the_project_are_used_and_the_command_line_is_stronger(capsys, tiny_project, train_options):
    (tiny_project.parent / "wsplf.toml").write_text('seed = 7\n[train]\ntile-px = 128\nname = "mine"\n')
    assert run(capsys, "train", tiny_project, "--seed", "0")[0] == 0
    assert run(capsys, "train", tiny_project.parent)[0] == 0
    first, second = train_options
    assert (first.run.seed, first.tiles.tile_px, first.name) == (0, 128, "mine")
    assert second.run.seed == 7


def test_named_settings_win_over_those_beside_the_project_and_those_over_this_folder(
    capsys, tiny_project, train_options, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wsplf.toml").write_text("seed = 1\n")
    run(capsys, "train", tiny_project)
    (tiny_project.parent / "wsplf.toml").write_text("seed = 2\n")
    run(capsys, "train", tiny_project)
    (tmp_path / "other.toml").write_text("seed = 3\n")
    run(capsys, "train", tiny_project, "--config", "other.toml")
    assert [options.run.seed for options in train_options] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sede = 1\n", "did you mean seed?"),
        ("[train]\nsegmenter = 'x'\n", "--segmenter must be one of"),
        ("mpp = -1\n", "--mpp"),
    ],
)
def test_wrong_settings_are_wrong_usage(capsys, tiny_project, text, says):
    (tiny_project.parent / "wsplf.toml").write_text(text)
    code, _, err = run(capsys, "train", tiny_project)
    assert code == 2
    assert says in err
