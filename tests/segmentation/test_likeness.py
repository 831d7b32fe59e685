"""Slides of the same kind, and unlike ones, told apart by numbers made here."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from wsplf_cli.errors import ConfigError
from wsplf_cli.segmentation import likeness
from wsplf_cli.segmentation.appearance import Appearance
from wsplf_cli.segmentation.likeness import TrainingAppearance, describe_unlike, learn_appearance, why_not_compared

#: Columns of the numbers of each aspect.
WIDTHS = {"colour": 6, "sharpness": 4, "texture": 24}
#: What a tile shows, tumour or stroma: numbers that differ much.
CONTENTS = np.random.default_rng(5).normal(0, 3, (2, sum(WIDTHS.values())))


def looks(seed, *, tumour=0.3, tiles=32, shift=None):
    """A slide: tiles of two contents, in a share, with noise, and what differs from slide to slide; plus a shift."""
    rng = np.random.default_rng(seed)
    contents = CONTENTS[(np.arange(tiles) < round(tumour * tiles)).astype(int)]
    rows = contents + rng.normal(0, 1, contents.shape) + rng.normal(0, 0.3, contents.shape[1])
    parts = np.split(rows, np.cumsum(list(WIDTHS.values()))[:-1], axis=1)
    shifts = shift or {}
    arrays = {name: (part + shifts.get(name, 0)).astype(np.float32) for name, part in zip(WIDTHS, parts, strict=True)}
    return Appearance(**arrays)


@pytest.fixture(scope="module")
def training():
    return learn_appearance([looks(seed) for seed in range(10)], [f"P{seed}" for seed in range(10)])


def test_few_slides_of_the_same_kind_are_unlike(training):
    unlike = [training.compare(looks(seed)).unlike for seed in range(100, 160)]
    assert sum(map(bool, unlike)) <= 5


@pytest.mark.parametrize("aspect", WIDTHS)
def test_a_slide_that_is_shifted_in_one_aspect_is_unlike_in_that_one(training, aspect):
    result = training.compare(looks(100, shift={aspect: 4.0}))
    assert list(result.unlike) == [aspect]
    assert result.unlike[aspect] == result.over_largest[aspect] > 1


def test_the_furthest_aspect_is_named_first(training):
    result = training.compare(looks(100, shift={"colour": 3.0, "texture": 6.0}))
    assert list(result.unlike) == sorted(result.unlike, key=lambda name: -result.over_limit[name])
    assert set(result.unlike) == {"colour", "texture"}


@pytest.mark.parametrize("tumour", [0.0, 0.9, 1.0])
def test_an_unusual_share_of_tumour_makes_no_slide_unlike(training, tumour):
    assert not any(training.compare(looks(seed, tumour=tumour)).unlike for seed in (100, 101, 102))


def test_a_slide_with_few_tiles_is_not_unlike_by_chance(training):
    few = [training.compare(looks(seed, tiles=8)) for seed in range(100, 120)]
    assert sum(bool(result.unlike) for result in few) <= 2
    assert training.compare(looks(100, tiles=8, shift={"colour": 6.0})).unlike


def test_a_slide_with_hardly_any_tissue_is_not_compared(training):
    assert training.compare(looks(100, tiles=7, shift={"colour": 50.0})).over_limit == {}


def test_the_limit_is_wider_where_fewer_patients_are_known():
    slides = [looks(seed) for seed in range(12)]
    of_many = learn_appearance(slides, [str(seed) for seed in range(12)])
    of_four = learn_appearance(slides, [str(seed % 4) for seed in range(12)])
    for aspect in WIDTHS:
        many, four = of_many.aspects[aspect], of_four.aspects[aspect]
        assert four.limit / four.largest > many.limit / many.largest


def test_slides_of_a_patient_are_not_calibrated_on_each_other():
    twins = [looks(seed) for seed in range(5) for _ in range(2)]
    patients = [f"P{seed}" for seed in range(5) for _ in range(2)]
    by_patient = learn_appearance(twins, patients)
    by_slide = learn_appearance(twins, [str(index) for index in range(10)])
    for aspect in WIDTHS:
        assert by_slide.aspects[aspect].largest < 0.7 * by_patient.aspects[aspect].largest


def test_the_limit_is_the_bound_below_which_99_of_100_further_parts_are_expected():
    logarithms = np.random.default_rng(0).normal(-1, 0.5, 4000)
    assert likeness._limit(np.exp(logarithms).tolist(), patients=4000, coverage=0.99) == pytest.approx(
        np.exp(-1 + 2.33 * 0.5), rel=0.03
    )
    assert likeness._limit([1.0, 1.0, 1.0, 1.0], patients=4, coverage=0.99) == pytest.approx(
        np.exp(4.541 * np.sqrt(1.25) * 0.25), rel=1e-3
    )


def test_parts_that_hardly_differ_do_not_widen_the_limit():
    logarithms = np.random.default_rng(0).normal(-1, 0.5, 2001)
    tiny = np.where(logarithms < np.median(logarithms), -9.0, logarithms)
    assert likeness._limit(np.exp(tiny).tolist(), patients=2001, coverage=0.99) == pytest.approx(
        likeness._limit(np.exp(logarithms).tolist(), patients=2001, coverage=0.99), rel=0.03
    )


def mixed(seed, *, groups):
    """A slide of 32 tiles from four pieces of tissue, each of a patient of these groups, whose pieces are alike."""
    rng = np.random.default_rng(seed)
    pieces = [looks(seed * 7 + index, tiles=8, shift=GROUPS[rng.choice(groups)]) for index in range(4)]
    return Appearance(*(np.concatenate([getattr(piece, name) for piece in pieces]) for name in WIDTHS))


#: Six groups of patients, each with numbers of its own.
GROUPS = [
    {name: np.random.default_rng(group).normal(0, 0.5, width) for name, width in WIDTHS.items()} for group in range(6)
]


def test_slides_that_mix_patients_leave_room_for_those_of_other_patients(monkeypatch):
    slides, names = [mixed(seed, groups=[0, 1, 2]) for seed in range(12)], [str(number) for number in range(12)]
    others = [mixed(seed, groups=[3, 4, 5]) for seed in range(100, 112)]

    def unlike():
        training = learn_appearance(slides, names)
        return sum(bool(training.compare(slide).unlike) for slide in others)

    in_parts = unlike()
    monkeypatch.setattr(likeness, "PART_TILES", 32)
    assert in_parts <= 1
    assert unlike() > in_parts


def test_an_unusual_piece_of_tissue_makes_no_slide_unlike(training):
    usual, piece = looks(100, tiles=24), looks(101, tiles=8, shift={"colour": 8.0, "texture": 8.0})
    slide = Appearance(*(np.concatenate([getattr(usual, name), getattr(piece, name)]) for name in WIDTHS))
    assert not training.compare(slide).unlike
    assert training.compare(looks(101, shift={"colour": 8.0, "texture": 8.0})).unlike


def test_the_limit_of_colour_is_at_least_what_another_staining_makes(monkeypatch):
    slides = [looks(seed) for seed in range(10)]
    monkeypatch.setattr(likeness, "restained", lambda colour, **_: np.stack([colour + 40.0]))
    training = learn_appearance(slides, [str(seed) for seed in range(10)])
    far = {name: training.compare(looks(100, shift={name: 20.0})).over_limit[name] for name in WIDTHS}
    assert far["colour"] < 1 < min(far["sharpness"], far["texture"])


def test_too_few_patients_are_said_and_nothing_is_compared():
    slides = [looks(seed) for seed in range(6)]
    training = learn_appearance(slides, ["A", "A", "B", "B", "C", "C"])
    assert (training.aspects, training.slides, training.patients) == ({}, 6, 3)
    assert "of 3 patients, and 4 are needed" in why_not_compared(training)
    assert training.compare(looks(100)).over_limit == {}
    assert "does not say what they look like" in why_not_compared(None)


def test_a_large_cohort_is_kept_in_few_tiles(monkeypatch):
    monkeypatch.setattr(likeness, "MAX_TILES", 64)
    monkeypatch.setattr(likeness, "MAX_CALIBRATED", 6)
    training = learn_appearance([looks(seed) for seed in range(20)], [str(seed) for seed in range(20)])
    assert {len(aspect.tiles) for aspect in training.aspects.values()} == {20 * 3}
    assert training.compare(looks(100, shift={"colour": 8.0})).unlike


def test_it_is_read_from_its_file_as_it_was_written(training, tmp_path):
    path = tmp_path / likeness.FILE
    path.write_bytes(likeness.to_bytes(training))
    read = likeness.read(path)
    assert (read.slides, read.patients) == (10, 10)
    slide = looks(100, shift={"colour": 1.0})
    assert read.compare(slide) == training.compare(slide)
    assert why_not_compared(read) == ""
    path.write_bytes(likeness.to_bytes(TrainingAppearance({}, 2, 2)))
    assert likeness.read(path) == TrainingAppearance({}, 2, 2)
    assert likeness.read(tmp_path / "none") is None


def test_a_file_of_another_version_is_none_and_a_damaged_one_an_error(training, tmp_path):
    path = tmp_path / likeness.FILE
    save_file({"a": np.zeros(1)}, path, metadata={"appearance": json.dumps({"version": 99})})
    assert likeness.read(path) is None
    content = likeness.to_bytes(training)
    for damaged in (b"", content[: len(content) // 2], b"no tensors"):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"appearance\.safetensors cannot be read"):
            likeness.read(path)
    save_file({"a": np.zeros(1)}, path)
    with pytest.raises(ConfigError, match="cannot be read"):
        likeness.read(path)


def test_the_line_names_each_aspect_and_how_far_it_is():
    assert describe_unlike({"colour": 3.14, "texture": 1.25}) == (
        "unlike the slides that the model learned from: colour (3.1 times the largest difference among them),"
        " texture (1.2 times)"
    )
