"""The words of the field are used, and not those that earlier versions made up."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

#: Whole words, or parts of a name that "_" or capitals part: in any case, or as they are where the usual English word
#: is meant otherwise.
OLD_WORDS = (
    *("judge", "judges", "judged", "surplus", "cored", "surest", "odd ones", "dealings", "dealt", "contested"),
    *("painted tissue", "classifiers of places", "judge places"),
)
OLD_NAMES = ("Told", "Looked", "Learnt", "Taught")
PATTERN = re.compile(
    r"(?<![A-Za-z])(?i:" + "|".join(word.replace(" ", r"[\s_]+") for word in OLD_WORDS) + r")(?![a-z])"
    r"|(?:(?<![A-Za-z])|(?<=[a-z]))(?:"
    + "|".join([*OLD_NAMES, *(word.title().replace(" ", "") for word in OLD_WORDS)])
    + r")(?![a-z])"
)
SUFFIXES = {".py", ".groovy", ".md", ".toml", ".html", ".csv"}


def files():
    folders = (ROOT / name for name in ("wsplf_cli", "qupath_scripts", "tests", "examples"))
    inside = (path for folder in folders for path in folder.rglob("*") if path.suffix in SUFFIXES)
    return sorted(path for path in (*inside, ROOT / "README.md") if path != Path(__file__))


@pytest.mark.parametrize("text", ["class Judged:", "x_odd_ones = 1", "MilLearnt", "Painted\ntissue", "it was Told"])
def test_the_pattern_finds_old_words(text):
    assert PATTERN.search(text)


@pytest.mark.parametrize("text", ["judgement", "untold", "stolder", "learnts", "the tissue", "overlooked", "looked up"])
def test_the_pattern_leaves_other_words_alone(text):
    assert not PATTERN.search(text)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_uses_old_words(path):
    text = path.read_text(encoding="utf-8")
    uses = [f"line {text[: match.start()].count(chr(10)) + 1}: {match[0]!r}" for match in PATTERN.finditer(text)]
    assert not uses
