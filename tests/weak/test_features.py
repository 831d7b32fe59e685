"""Instances of small slides: those that are sampled, what they teach, and that a CAM says the same of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from shapely import box
from torch import Tensor, nn
from torch.nn import functional
from wsplf_cli.weak.dense import DenseInference, cells_of, infer_map

from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.errors import ProjectError, SlideError
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.review.memory import Review
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import TileGrid, TissueMask
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.weak import features as stage
from wsplf_cli.weak.linear_probe import CONTEXT_SIGMAS_PX, Instances, LinearProbe, pool_context

SIDE = 512
INK = (slice(160, 256), slice(96, 224))


class Colours(nn.Module):
    """In place of a backbone: the mean colour of each 8 x 8 pixels."""

    stride, channels = 8, 3

    def forward(self, tiles: Tensor) -> Tensor:
        return functional.avg_pool2d(tiles, 8)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Paths of a slide whose red and green tell column and row, and of one that looks like tissue."""
    folder = tmp_path_factory.mktemp("slides")
    ramp = np.zeros((SIDE, SIDE, 3), np.uint8)
    ramp[..., 0] = np.arange(SIDE)[None] // 2
    ramp[..., 1] = np.arange(SIDE)[:, None] // 2
    rng = np.random.default_rng(0)
    speckled = np.where(rng.random((SIDE, SIDE, 1)) < 0.1, np.uint8(90), np.uint8(210)).repeat(3, axis=2)
    speckled[INK] = np.where(rng.random((96, 128, 1)) < 0.5, np.uint8(70), np.uint8(180))
    for name, rgb in (("ramp", ramp), ("speckled", speckled)):
        write_pyramid(folder / f"{name}.tif", rgb, mpp=1.0)
    return folder


@pytest.fixture
def prepare(slides, make_entry):
    def make(name="ramp", *, regions=None, positive=True, mask=None):
        label = {"Tumor"} if positive else set()
        size = {"width_px0": SIDE, "height_px0": SIDE, "mpp": 1.0}
        entry = make_entry(f"{name}.tif", label=label, slide_path=slides / f"{name}.tif", **size)
        grid = TileGrid(entry.id, 64, 1.0, 64.0, np.zeros((0, 2), np.int32), np.zeros(0, np.float32))
        tissue = TissueMask(np.ones((SIDE // 8, SIDE // 8), bool) if mask is None else mask, 8.0)
        return CohortSlide(entry, 1.0, tissue, grid, Review(entry.id, (), regions or ReviewRegions()))

    return make


def looking(stride=8, *, turns=1):
    return DenseInference(1.0, 1.0, block_px=256, stride=stride, device=torch.device("cpu"), turns=turns)


def sample(one, *, seed=0):
    return stage.sample([one], Colours(), looking=looking(), rng=np.random.default_rng(seed))[0]


def columns_and_rows(places):
    """Where places of the ramp are, in pixels [N, 2]: colours of the least neighbourhood."""
    return places.features[:, :2].astype(np.float32) * 255 * 2


def test_places_are_of_the_tissue_with_their_surroundings_at_each_width(prepare):
    mask = np.zeros((SIDE // 8, SIDE // 8), bool)
    mask[10:50, 20:60] = True
    places = sample(prepare(mask=mask))
    assert places.features.shape == (40 * 40, 3 * len(CONTEXT_SIGMAS_PX))
    assert places.features.dtype == np.float16
    assert places.known.shape == (1600,)
    assert places.known.dtype == np.int8
    assert not places.known.any()
    assert places.positive
    assert places.trusted
    assert np.isfinite(places.features).all()
    found = columns_and_rows(places)
    assert 20 * 8 <= found[:, 0].min() < found[:, 0].max() < 60 * 8
    assert 10 * 8 <= found[:, 1].min() < found[:, 1].max() < 50 * 8
    narrow, wide = places.features[:, 0], places.features[:, -3]
    assert np.ptp(wide.astype(float)) < 0.7 * np.ptp(narrow.astype(float))


def test_no_slide_gives_more_places_than_wanted_and_the_same_seed_the_same(prepare, monkeypatch):
    monkeypatch.setattr(stage, "PLACES_PER_SLIDE", 300)
    first, second, other = (sample(prepare(), seed=seed) for seed in (0, 0, 1))
    assert len(first.features) == len(first.known) == 300
    assert np.array_equal(first.features, second.features)
    assert not np.array_equal(first.features, other.features)


def test_a_slide_without_tissue_has_no_places(prepare):
    places = sample(prepare(mask=np.zeros((64, 64), bool), positive=False))
    assert places.features.shape == (0, 3 * len(CONTEXT_SIGMAS_PX))
    assert places.known.shape == (0,)
    assert not places.positive


def test_large_slides_are_sampled_by_regions(prepare, monkeypatch):
    monkeypatch.setattr(stage, "REGION", 16)
    monkeypatch.setattr(stage, "MOST_REGIONS", 3)
    monkeypatch.setattr(stage, "PLACES_PER_SLIDE", 600)
    places = sample(prepare())
    assert len(places.features) == 600
    regions = {(int(x // 128), int(y // 128)) for x, y in columns_and_rows(places)}
    assert len(regions) == 3
    monkeypatch.setattr(stage, "MOST_REGIONS", 16)
    places = sample(prepare())
    assert len({(int(x // 128), int(y // 128)) for x, y in columns_and_rows(places)}) == 16
    assert len(places.features) == pytest.approx(600, abs=16)


def test_regions_of_wide_backbones_are_smaller():
    assert stage._side(3) == stage.REGION
    assert stage._side(1536) ** 2 * 1536 <= 64_000_000


def within(found, area, *, margin):
    left, top, right, bottom = area
    return (
        (found[:, 0] > left + margin)
        & (found[:, 0] < right - margin)
        & (found[:, 1] > top + margin)
        & (found[:, 1] < bottom - margin)
    )


@pytest.mark.parametrize("region", [256, 24])
def test_a_persons_marks_are_known_where_they_lie(prepare, monkeypatch, region):
    monkeypatch.setattr(stage, "REGION", region)
    decided, refused, ignored = (100, 60, 300, 200), (240, 300, 440, 460), (200, 100, 300, 200)
    regions = ReviewRegions(positive=(box(*decided),), negative=(box(*refused),), ignored=(box(*ignored),))
    monkeypatch.setattr(stage, "MOST_REGIONS", 99)
    places = sample(prepare(regions=regions))
    found = columns_and_rows(places)
    of_nothing = within(found, ignored, margin=12)
    assert of_nothing.any()
    assert (places.known[of_nothing] == 0).all()
    assert (places.known[within(found, decided, margin=12) & ~within(found, ignored, margin=-12)] == 1).all()
    assert (places.known[within(found, refused, margin=12)] == -1).all()
    assert (places.known[~(within(found, decided, margin=-12) | within(found, refused, margin=-12))] == 0).all()
    assert (places.known == 1).mean() == pytest.approx((200 * 140 - 100 * 100) / SIDE**2, abs=0.02)


def test_all_else_of_a_reviewed_slide_is_known_to_be_background(prepare):
    decided = (100, 60, 300, 200)
    places = sample(prepare(regions=ReviewRegions(positive=(box(*decided),), complete=True)))
    found = columns_and_rows(places)
    assert (places.known[within(found, decided, margin=12)] == 1).all()
    assert (places.known[~within(found, decided, margin=-12)] == -1).all()


@pytest.mark.parametrize("turns", [1, 4])
def test_the_cam_says_of_each_place_what_the_classifier_says_of_its_features(prepare, monkeypatch, turns):
    """The CAM is computed the other way round: each width's share of the logit first, the means after."""
    mask = np.ones((SIDE // 8, SIDE // 8), bool)
    mask[:7] = mask[:, 50:] = mask[30:34, 10:40] = False
    one, backbone = prepare("speckled", mask=mask), build_backbone("small").eval()
    rng = np.random.default_rng(0)
    size = len(CONTEXT_SIGMAS_PX) * backbone.channels
    judge = LinearProbe(rng.normal(0, size**-0.5, size).astype(np.float32), -1.5)
    seen = looking(backbone.stride, turns=turns)
    (logits,) = stage.cam(one, backbone, [judge], seen)
    inside = cells_of(one.tissue, shape=seen.shape(one.slide()), downsample=seen.downsample)
    assert logits.dtype == np.float32
    assert (np.isnan(logits) == ~inside).all()
    rows, columns = np.nonzero(inside)
    maps = infer_map(one.slide(), one.tissue, backbone, seen, channels=backbone.channels)
    features = pool_context(maps, rows, columns, widths=[width / backbone.stride for width in CONTEXT_SIGMAS_PX])
    expected = judge(features)
    assert expected.std() > 0.05
    np.testing.assert_allclose(logits[rows, columns], expected, atol=0.01)
    monkeypatch.setattr(stage, "PLACES_PER_SLIDE", len(rows))
    (sampled,) = stage.sample([one], backbone, looking=seen, rng=rng)
    np.testing.assert_allclose(np.sort(judge(sampled.features)), np.sort(logits[inside]), atol=0.01)


def made_up(share, *, positive, seed, known=None):
    """Instances of which a share is tumour, as the first feature tells."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (800, 8))
    features[:, 0] += 8 * (np.arange(800) < share * 800)
    return Instances(features.astype(np.float16), positive, np.zeros(800, np.int8) if known is None else known)


SHARE = 0.03
"""Of tumour: with more than a twentieth a flipped slide widens the spread of negative ones, by which it is judged."""


def made_up_cohort():
    positives = [made_up(SHARE, positive=True, seed=number) for number in range(6)]
    return [*positives, *(made_up(0.0, positive=False, seed=10 + number) for number in range(6))]


DEALT = [np.tile(np.arange(6) % 3, 2), np.tile(np.arange(6) // 2, 2)]


def test_labels_that_fit_are_not_doubted():
    judges, doubts = stage.cross_fit_with_label_noise(made_up_cohort(), DEALT)
    assert len(judges) == 12
    assert doubts == {}


def test_a_flipped_label_is_doubted_and_teaches_nothing():
    flipped = made_up_cohort()
    flipped[8] = made_up(SHARE, positive=False, seed=30)
    judges, doubts = stage.cross_fit_with_label_noise(flipped, DEALT)
    assert list(doubts) == [8]
    assert "labelled negative" in doubts[8]
    without = [replace(one, trusted=number != 8) for number, one in enumerate(flipped)]
    for one, other in zip(judges, stage.learn(without, DEALT), strict=True):
        assert np.array_equal(one.weight, other.weight)
    flipped[2] = made_up(0.0, positive=True, seed=31)
    assert set(stage.cross_fit_with_label_noise(flipped, DEALT)[1]) == {2, 8}


def test_the_label_of_a_slide_on_which_a_person_spoke_is_not_doubted():
    flipped = made_up_cohort()
    known = np.zeros(800, np.int8)
    known[0] = -1
    flipped[8] = made_up(SHARE, positive=False, seed=30, known=known)
    assert stage.cross_fit_with_label_noise(flipped, DEALT)[1] == {}


@pytest.fixture
def judged(prepare, recorder):
    """Judges a cohort on the speckled slide, whose ink is tissue of positive slides alone."""
    plain = np.ones((SIDE // 8, SIDE // 8), bool)
    plain[18:34, 10:30] = False
    cohort = [prepare("speckled", positive=kind, mask=None if kind else plain) for kind in (True, False) * 2]

    def run():
        seen = {one.entry.id: looking() for one in cohort}
        rng = np.random.default_rng(0)
        found = stage.sample_instances([cohort], Colours(), looking=seen, rng=rng, tracker=recorder)
        (places,), results = found.places, found.results
        return stage.fit_probes(cohort, places, results=results, rng=rng, tracker=recorder), results

    return cohort, run


def test_slides_are_judged_by_their_labels_alone(judged, recorder):
    cohort, run = judged
    found, results = run()
    assert set(found.judges) == {one.entry.id for one in cohort}
    assert found.suspects == {}
    assert [one.status for one in results] == ["done"] * 4
    (logits,) = stage.cam(cohort[0], Colours(), [found.judges[cohort[0].entry.id]], looking())
    ink = np.zeros_like(logits, bool)
    ink[20:32, 12:28] = True
    assert np.median(logits[ink]) > np.quantile(logits[~ink], 0.95)
    assert {name for name, _ in recorder.started} == {"places", "classifiers of places"}


def test_a_slide_that_cannot_be_read_is_named_and_the_others_go_on(judged, recorder, monkeypatch):
    cohort, run = judged
    take = stage.sample
    broken = {cohort[2].entry.id}

    def damaged(views, *args, **rest):
        if views[0].entry.id in broken:
            raise SlideError(f"{views[0].entry.name}: damaged")
        return take(views, *args, **rest)

    monkeypatch.setattr(stage, "sample", damaged)
    found, results = run()
    assert set(found.judges) == {one.entry.id for one in cohort} - broken
    assert [one.status for one in results] == ["done", "done", "failed", "done"]
    assert any("damaged" in line for line in recorder.said)
    broken.add(cohort[0].entry.id)
    with pytest.raises(ProjectError, match=r"no positive slide can be used: speckled\.tif \(id \d+\): damaged"):
        run()
