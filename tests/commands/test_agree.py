"""``wsplf agree`` on copies of a project that simulated readers reviewed."""

import json
import random

import pytest
from readers import base_project, copies_of, identifier, square
from shapely import box
from sklearn.metrics import cohen_kappa_score

from wsplf_cli import cli
from wsplf_cli.backends.embedded import open_project
from wsplf_cli.commands.agree import agree
from wsplf_cli.errors import ConfigError, ProjectError
from wsplf_cli.options import AgreeOptions, ProjectOptions
from wsplf_cli.slides.open import open_slide
from wsplf_cli.slides.tissue import tissue_mask

GRID = {f"P{column}{row}": square(column, row) for column in range(5) for row in range(2)}
UNIT = 0.25  # um2 of a pixel at level 0
SQUARE = 60 * 60 * UNIT
DRAWN = box(250, 420, 370, 480)


@pytest.fixture(scope="module")
def readers(tmp_path_factory, tiny_slide):
    """Ten pseudo-labels; all accept P00 to P20, and disagree on the others as the tests compute it by hand."""
    folder = tmp_path_factory.mktemp("readers")
    base = base_project(folder / "base", tiny_slide, GRID, entries=2)
    alice, bob, carol = copies_of(base, folder, ["alice", "bob", "carol"])
    for reader in (alice, bob, carol):
        reader.accept("P00", "P01", "P10", "P11", "P20")
        reader.reject("P40")
    alice.accept("P21", "P30", "P31")
    bob.accept("P21")
    bob.reject("P30")
    bob.edit("P31", square(3, 1, side=48))
    carol.reject("P21")
    carol.delete("P30")
    carol.accept("P31")
    alice.draw("drawn", DRAWN)
    return alice, bob, carol


@pytest.fixture(scope="module")
def document(readers):
    return agree([reader.open() for reader in readers], AgreeOptions(), Quiet())


class Quiet:
    def start(self, name, total):
        pass

    def advance(self, steps=1, message=""):
        pass

    def say(self, message):
        pass


def dice(common, first, second):
    return 2 * common / (first + second)


def test_dice_of_each_pair_and_with_the_majority_is_that_of_the_areas(document):
    slide, unread = document["slides"]
    pairs = {tuple(pair["readers"]): pair["dice"] for pair in slide["pairs"]}
    # in squares of 60 pixels: five that all accepted, P31 (0.64 after bob's edit), P21, P30, and alice drew two
    alice, bob, carol = 5 + 1 + 1 + 1 + 2, 5 + 1 + 0.64, 5 + 1
    assert pairs["alice", "bob"] == pytest.approx(dice(5 + 1 + 0.64, alice, bob))
    assert pairs["alice", "carol"] == pytest.approx(dice(5 + 1, alice, carol))
    assert pairs["bob", "carol"] == pytest.approx(dice(5 + 0.64, bob, carol))
    majority = 5 + 1 + 1  # P21 of alice and bob, P31 of alice and carol
    with_majority = {line["reader"]: line["dice"] for line in slide["majority"]}
    assert with_majority["alice"] == pytest.approx(dice(7, alice, majority))
    assert with_majority["bob"] == pytest.approx(dice(6.64, bob, majority))
    assert with_majority["carol"] == pytest.approx(dice(6, carol, majority))
    assert slide["area_um2"] == pytest.approx({"alice": 10 * SQUARE, "bob": 6.64 * SQUARE, "carol": 6 * SQUARE})
    assert slide["undecided_um2"] == pytest.approx(dict.fromkeys(("alice", "bob", "carol"), SQUARE))
    assert slide["read_by"] == ["alice", "bob", "carol"]
    assert (unread["read_by"], unread["pairs"]) == ([], [])
    assert "not read by anybody" in unread["note"]


def test_pooled_figures_are_those_of_the_only_slide_that_was_read(document):
    slide, pooled = document["slides"][0], document["pooled"]
    assert [pooled[key] for key in ("pairs", "majority", "fleiss_kappa")] == [
        slide[key] for key in ("pairs", "majority", "fleiss_kappa")
    ]


def test_kappa_is_that_of_the_pixels_of_the_tissue(document, readers, tiny_slide):
    with open_slide(tiny_slide) as slide:
        tissue = tissue_mask(slide, mpp_slide=0.5)
    rows, columns = tissue.mask.nonzero()
    side = tissue.downsample

    def marked(shapes):
        x, y = (columns + 0.5) * side, (rows + 0.5) * side
        return sum(((x >= left) & (x < right) & (y >= top) & (y < bottom)) for left, top, right, bottom in shapes) > 0

    def bounds(*names, **others):
        return [GRID[name].bounds for name in names] + [shape.bounds for shape in others.values()]

    agreed = ("P00", "P01", "P10", "P11", "P20")
    said = {
        "alice": marked(bounds(*agreed, "P21", "P30", "P31", drawn=DRAWN)),
        "bob": marked(bounds(*agreed, "P21", edited=square(3, 1, side=48))),
        "carol": marked(bounds(*agreed, "P31")),
    }
    decided = ~marked(bounds("P41"))
    said = {name: values[decided] for name, values in said.items()}
    for pair in document["slides"][0]["pairs"]:
        assert pair["kappa"] == pytest.approx(cohen_kappa_score(*(said[name] for name in pair["readers"])))
    votes = sum(values.astype(int) for values in said.values())
    observed = ((votes == 0) | (votes == 3)).mean() + ((votes == 1) | (votes == 2)).mean() / 3
    share = votes.mean() / 3
    by_chance = share**2 + (1 - share) ** 2
    assert document["slides"][0]["fleiss_kappa"] == pytest.approx((observed - by_chance) / (1 - by_chance))


def test_every_polygon_says_who_decided_what(document):
    decisions = {
        line["id"]: (*line["decisions"].values(), line["outcome"])
        for line in document["polygons"]
        if line["slide"] == "S1.tif"
    }
    expected = dict.fromkeys(("P00", "P01", "P10", "P11", "P20"), ("accepted",) * 4) | {
        "P21": ("accepted", "accepted", "rejected", "disputed"),
        "P30": ("accepted", "rejected", "deleted", "disputed"),
        "P31": ("accepted", "edited", "accepted", "accepted"),
        "P40": ("rejected",) * 4,
        "P41": ("pending",) * 4,
        "drawn": ("drawn", "not drawn", "not drawn", "disputed"),
    }
    assert decisions == {str(identifier(name)): said for name, said in expected.items()}


def test_disagreements_come_largest_first(document):
    listed = [(line["id"], line["disputed_um2"]) for line in document["disagreements"]]
    areas = {"drawn": 2 * SQUARE, "P21": SQUARE, "P30": SQUARE, "P31": 0.36 * SQUARE}
    assert next(key for key, _ in listed) == str(identifier("drawn"))
    assert [key for key, _ in listed][-1] == str(identifier("P31"))
    assert dict(listed) == pytest.approx({str(identifier(name)): area for name, area in areas.items()})


def test_the_majority_decides_by_its_rule(readers):
    by_majority = agree([reader.open() for reader in readers], AgreeOptions(rule="majority"), Quiet())
    outcomes = {line["id"]: line["outcome"] for line in by_majority["polygons"]}
    expected = {"P21": "accepted", "P30": "rejected", "P31": "accepted", "P41": "pending", "drawn": "disputed"}
    assert {name: outcomes[str(identifier(name))] for name in expected} == expected


@pytest.mark.parametrize("seed", [0, 1])
def test_figures_of_readers_with_known_rates_are_those_of_their_decisions(tiny_slide, tmp_path, seed):
    """Two slides, 60 % accepted, 20 % rejected, 10 % made smaller, 10 % deleted; all areas are squares."""
    draw = random.Random(seed)
    base = base_project(tmp_path / "base", tiny_slide, GRID, entries=2)
    names = ("a", "b", "c")
    sides = {}  # the side of the square that each reader marks, by polygon
    for name, copy in zip(names, copies_of(base, tmp_path, names), strict=True):
        for entry_id, suffix in (("1", ""), ("2", "@2")):
            for polygon in GRID:
                act = draw.choices(["accept", "reject", "edit", "delete"], [6, 2, 1, 1])[0]
                shape = square(int(polygon[1]), int(polygon[2]), side=40)
                getattr(copy, act)(polygon + suffix, *([shape] if act == "edit" else []), entry_id=entry_id)
                sides.setdefault(polygon + suffix, {})[name] = {"accept": 60, "edit": 40}.get(act, 0)
    projects = [open_project(tmp_path / name, ProjectOptions()) for name in names]
    document = agree(projects, AgreeOptions(rule="majority"), Quiet())

    def total(side_of):
        return sum(side_of(by_reader) ** 2 for by_reader in sides.values())

    for pair in document["pooled"]["pairs"]:
        one, other = pair["readers"]
        common = total(lambda sides, one=one, other=other: min(sides[one], sides[other]))
        expected = dice(common, *(total(lambda sides, name=name: sides[name]) for name in (one, other)))
        assert pair["dice"] == pytest.approx(expected)
    for line in document["pooled"]["majority"]:
        common = total(lambda sides, name=line["reader"]: min(sides[name], sorted(sides.values())[1]))
        majority = total(lambda sides: sorted(sides.values())[1])
        assert line["dice"] == pytest.approx(dice(common, total(lambda s, name=line["reader"]: s[name]), majority))
    disputed = {line["id"]: line["disputed_um2"] for line in document["disagreements"]}
    areas = {name: (max(by.values()) ** 2 - min(by.values()) ** 2) * UNIT for name, by in sides.items()}
    assert disputed == pytest.approx({str(identifier(name)): value for name, value in areas.items() if value})


def files_of(*readers):
    return {path: path.read_bytes() for reader in readers for path in reader.path.parent.rglob("*") if path.is_file()}


def test_the_command_prints_tables_or_one_document_and_writes_nothing(readers, capsys):
    before = files_of(*readers)
    paths = [str(reader.path.parent) for reader in readers]
    assert cli.main(["agree", *paths]) == 0
    shown = capsys.readouterr().out
    for words in ("S1.tif", "alice - bob", "alice - majority", "4 disagreements", "carol: rejected"):
        assert words in shown
    assert cli.main(["agree", *paths, "--images", "S1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [slide["name"] for slide in printed["slides"]] == ["S1.tif"]
    assert files_of(*readers) == before


def test_two_readers_have_cohens_kappa_and_no_fleiss(readers, capsys):
    alice, bob, _ = readers
    assert cli.main(["agree", str(alice.path), str(bob.path)]) == 0
    shown = capsys.readouterr().out
    assert "Cohen's kappa" in shown
    assert "Fleiss" not in shown


def test_one_project_or_the_same_twice_is_refused(readers):
    project = readers[0].open()
    for projects, message in (([project], "two projects or more"), ([project, project], "named twice")):
        with pytest.raises(ConfigError, match=message):
            agree(projects, AgreeOptions(), Quiet())


def test_projects_without_a_common_slide_are_refused(readers, tiny_project, recorder):
    path = tiny_project
    path.write_text(path.read_text().replace('"width": 1024', '"width": 1025'))
    other = type(readers[0])(path)
    with pytest.raises(ProjectError, match="no slide is in two"):
        agree([readers[0].open(), other.open()], AgreeOptions(), recorder)
    assert any("positive.tif: only in" in line for line in recorder.said)


def test_unreadable_data_fails_its_slide_and_the_others_are_compared(tiny_slide, tmp_path, capsys):
    base = base_project(tmp_path / "base", tiny_slide, GRID, entries=2)
    one, two = copies_of(base, tmp_path, ["one", "two"])
    for reader in (one, two):
        reader.accept("P00@2", entry_id="2")
    (two.path.parent / "data" / "1" / "data.qpdata").write_bytes(b"cut")
    assert cli.main(["agree", str(one.path), str(two.path), "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert [slide["name"] for slide in printed["slides"]] == ["S2.tif"]
    assert printed["failed"][0]["name"] == "S1.tif"
    assert "reader two" in printed["failed"][0]["reason"]


def test_a_slide_whose_image_is_missing_has_dice_but_no_kappa(tiny_slide, tmp_path, recorder):
    moved = tmp_path / "slides" / tiny_slide.name
    moved.parent.mkdir()
    moved.write_bytes(tiny_slide.read_bytes())
    base = base_project(tmp_path / "base", moved, GRID)
    one, two = copies_of(base, tmp_path, ["one", "two"])
    one.accept("P00", "P10")
    two.accept("P00")
    two.reject("P10")
    moved.unlink()
    document = agree([one.open(), two.open()], AgreeOptions(), recorder)
    (slide,) = document["slides"]
    assert slide["pairs"] == [{"readers": ["one", "two"], "dice": pytest.approx(2 / 3), "kappa": None}]
    assert "the tissue is not known (no kappa)" in slide["note"]
    assert document["pooled"]["pairs"][0]["dice"] == pytest.approx(2 / 3)


def test_several_classes_are_compared_each_by_itself(readers):
    options = AgreeOptions(project=ProjectOptions(positive=("tumor", "stroma=Stroma")))
    document = agree([reader.open() for reader in readers], options, Quiet())
    assert list(document["classes"]) == ["Tumor", "Stroma"]
    assert document["classes"]["Stroma"]["polygons"] == []
    assert len(document["classes"]["Tumor"]["disagreements"]) == 4


def test_the_settings_beside_the_first_project_count(readers, tmp_path, capsys):
    first, second = (copies_of(reader.path, tmp_path, [name])[0] for reader, name in zip(readers, "ab", strict=False))
    (first.path.parent / "wsplf.toml").write_text('[agree]\nrule = "majority"\n')
    assert cli.main(["agree", str(first.path.parent), str(second.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rule"] == "majority"
    assert cli.main(["agree", str(second.path), str(first.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rule"] == "all"
