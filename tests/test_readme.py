"""README.md is true: its command lines run, its files exist, and its layers and answers are those of the package."""

import csv
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from wsplf_cli import cli, recipes, settings
from wsplf_cli.command_options import ALL
from wsplf_cli.recipes import Recipe
from wsplf_cli.synthetic.cohort import make_cohort

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_LINES = 350

#: Lines that install wsplf, check it, or take minutes. `.ci/run` does the former, tests/commands/test_demo.py the demo.
NOT_RUN = (
    *("pip install . && wsplf demo", 'pip install ".[test]" && pytest', 'pip install -e ".[test,lint]"'),
    *("pytest -n 2 --dist loadfile", ".ci/run"),
)
CONSOLE_LINE = re.compile(r"^ *\$ (.+)$", re.M)
INLINE_LINE = re.compile(r"`(wsplf [^`]+|python examples/[^`]+)`")

#: Small tiles and few epochs, so that all lines take seconds.
SETTINGS = """
[train]
epochs = 1
tile-px = 64

[benchmark]
train-epochs = 1

[recipe.default]
trains = false
"""


def command_lines():
    """Every command line of the README, in its order, once."""
    lines = [(match.start(), match[1]) for pattern in (CONSOLE_LINE, INLINE_LINE) for match in pattern.finditer(README)]
    return list(dict.fromkeys(line for _, line in sorted(lines)))


RUN = [line for line in command_lines() if line not in NOT_RUN]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the README supposes: slides, truth and labels.csv, and a project whose labels name two classes."""
    out = tmp_path_factory.mktemp("readme")
    slides = make_cohort(out, seed=10, train=(3, 3), test=(1, 1), size_px=768, shares=(0.3, 0.4))
    (out / "wsplf.toml").write_text(SETTINGS)
    tables = {
        "labels.csv": {slide.name: slide.label for slide in slides},
        "subtypes.csv": {slide.name: ("lusc", "luad")[slide.label == "tumor"] for slide in slides},
    }
    for name, labels in tables.items():
        with (out / name).open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["slide", "label", "split"])
            table.writerows([slide.name, labels[slide.name], slide.split] for slide in slides)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        assert cli.main(["project", "create", "lung-project", "slides", "--labels", "subtypes.csv"]) == 0
    return out


def test_the_readme_is_short():
    assert len(README.splitlines()) <= MOST_LINES


def test_lines_that_are_not_run_are_in_the_readme():
    assert set(NOT_RUN) <= set(command_lines())


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN)
def test_every_command_line_in_the_readme_runs(folder, monkeypatch, line):
    """In the README's order, since a line needs what the lines before it made."""
    monkeypatch.chdir(folder)
    program, *arguments = shlex.split(line)
    if arguments[0] == "agree":
        for reader in arguments[1:3]:
            shutil.copytree("my-project", reader)
            assert cli.main(["import", reader, "truth"]) == 0
    if program == "wsplf":
        assert cli.main(arguments) == 0
    else:
        assert program == "python", f"{line}: neither wsplf nor python, and not in NOT_RUN"
        script = ROOT / arguments[0]
        subprocess.run([sys.executable, str(script), *arguments[1:]], check=True, capture_output=True)


def test_every_command_and_option_and_field_of_a_recipe_has_help_text():
    without = [
        f"{command} {option.flag}"
        for command, record in {**ALL, "recipe": Recipe}.items()
        for option in settings.options(record).values()
        if not re.search(r"\w{3}.*\.$", option.metadata.get("help", ""), re.S)
    ]
    assert without == []


def test_every_option_recipe_and_recipe_field_in_the_readme_exists():
    flags = {option.flag for record in ALL.values() for option in settings.options(record).values()}
    flags |= {"--json", "--config", "--version", "--nproc-per-node"}  # the last is torchrun's
    text = re.sub(r"`[^`\n]*pip [^`\n]*`|^\$ (?:pip|pytest) .*$", "", README, flags=re.M)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) <= flags
    fields = {option.key for option in settings.options(Recipe).values()}
    fields |= {option.key for record in ALL.values() for option in settings.options(record).values()}
    assert set(re.findall(r"`([a-z-]+) = ", text)) <= fields
    assert {"ep-sam", "fine-tuned"} <= set(recipes.RECIPES)


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
    headings = {
        re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^#+ (.+)$", README, re.M)
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= headings


def test_the_readme_shows_the_layers_of_the_project():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    layers = re.findall(r'"([^"]+)"', re.search(r'layers = \[\s*"__main__",(.*?)\]', project, re.S)[1])
    block = re.search(r"```\n(cli .*?)```", README, re.S)[1]
    assert [re.split(r"\s{2,}", line)[0] for line in block.splitlines()] == layers


def test_the_extras_in_the_readme_are_those_of_the_project():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for extra in set(re.findall(r'pip install (?:-e )?"\.\[([^]]+)\]"', README)):
        assert all(f"\n{name} = [" in project for name in extra.split(","))


def test_the_answers_about_the_code_name_what_is_there():
    answers = re.findall(r"^\| (Where .*\?) \| (.*) \|$", README, re.M)
    assert len(answers) == 6
    for question, answer in answers:
        named = re.findall(r"`(\w+)` in `(wsplf_cli/[\w/]+\.py)`", answer)
        assert named, question
        for name, path in named:
            assert re.search(rf"^ *(?:def|class) {name}\b", (ROOT / path).read_text(encoding="utf-8"), re.M), (
                name,
                path,
            )
        for path in re.findall(r"`(wsplf_cli/[^`]+)`", answer):
            assert (ROOT / path).is_file(), path


def test_the_records_in_the_readme_are_classes():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "wsplf_cli").rglob("*.py"))
    described = README[README.index("`CohortSlide`") : README.index("| question | answer |")]
    for name in re.findall(r"`([A-Z]\w+)`", described):
        assert f"\nclass {name}" in sources, name
