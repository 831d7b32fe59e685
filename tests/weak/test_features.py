"""Instances of small slides: which are sampled, what a person says of them, and that the maps of probes agree."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from shapely import box
from torch import Tensor, nn
from torch.nn import functional

from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.networks.backbone import build_backbone, build_dense
from wsplf_cli.networks.inference import on_arrays
from wsplf_cli.review.memory import Review
from wsplf_cli.review.regions import ReviewRegions
from wsplf_cli.schema import TileGrid, TissueMask
from wsplf_cli.slides.window import DenseInference, infer_map, tissue_cells
from wsplf_cli.synthetic.pyramid import write_pyramid
from wsplf_cli.weak import features
from wsplf_cli.weak.features import FeatureMaps, SampleSlide, instance_at, probe_maps, sample_instances, sample_slide
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.pooling import CONTEXT_SIGMAS_PX, pool_context

SIDE = 512
INK = (slice(160, 256), slice(96, 224))
CPU = torch.device("cpu")


class Colours(nn.Module):
    """In place of a backbone: the mean colour of each 8 x 8 pixels."""

    stride, channels, device = 8, 3, CPU
    mean = std = torch.zeros(1)

    @property
    def parts(self):
        return [self]

    def forward(self, tiles: Tensor) -> Tensor:
        return functional.avg_pool2d(tiles, 8)


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """A folder with a slide whose red and green are column and row, and one that looks like tissue."""
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
        review = Review(entry.id, (), {"Tumor": regions or ReviewRegions()})
        return CohortSlide(entry, 1.0, tissue, grid, review)

    return make


def inference(stride=8, *, rotations=1):
    return DenseInference(mpp=1.0, mpp_slide=1.0, window_px=256, stride=stride, rotations=rotations)


def sample(slide, *, seed=0, most=10_000):
    rng = np.random.default_rng(seed)
    return sample_slide(slide, ["Tumor"], FeatureMaps(Colours()), inference(), most=most, rng=rng)["Tumor"]


def columns_and_rows(instances):
    """Positions of instances of the ramp in pixels [N, 2], by the colours of the smallest neighbourhood."""
    return instances.features[:, :2].astype(np.float32) * 255 * 2


def test_instances_are_of_the_tissue_with_their_context_at_each_sigma(prepare):
    mask = np.zeros((SIDE // 8, SIDE // 8), bool)
    mask[10:50, 20:60] = True
    instances = sample(prepare(mask=mask))
    assert instances.features.shape == (40 * 40, 3 * len(CONTEXT_SIGMAS_PX))
    assert instances.features.dtype == np.float16
    assert instances.known.shape == (1600,)
    assert instances.known.dtype == np.int8
    assert not instances.known.any()
    assert instances.positive
    assert instances.trusted
    assert np.isfinite(instances.features).all()
    positions = columns_and_rows(instances)
    assert 20 * 8 <= positions[:, 0].min() < positions[:, 0].max() < 60 * 8
    assert 10 * 8 <= positions[:, 1].min() < positions[:, 1].max() < 50 * 8
    narrow, wide = instances.features[:, 0], instances.features[:, -3]
    assert np.ptp(wide.astype(float)) < 0.7 * np.ptp(narrow.astype(float))


def test_instances_say_where_they_are_and_are_found_there_again(prepare):
    slide = prepare()
    instances = sample(slide, most=40)
    assert columns_and_rows(instances) == pytest.approx(instances.centres_px0, abs=8)
    for expected, centre in list(zip(instances.features, instances.centres_px0, strict=True))[:3]:
        again, cell = instance_at(slide.open(), slide.tissue, Colours(), inference(), tuple(centre.tolist()))
        assert cell == tuple(centre.tolist())
        assert again[:6] == pytest.approx(expected[:6], abs=2e-3), "the largest neighbourhood ends at its own region"


def test_outside_of_the_tissue_the_nearest_instance_is_taken_or_none(prepare):
    mask = np.zeros((SIDE // 8, SIDE // 8), bool)
    mask[20:, 20:] = True
    slide = prepare(mask=mask)
    _, cell = instance_at(slide.open(), slide.tissue, Colours(), inference(), (100.0, 300.0))
    assert cell == (20 * 8 + 4, 300 // 8 * 8 + 4)
    empty = prepare(mask=np.zeros_like(mask))
    assert instance_at(empty.open(), empty.tissue, Colours(), inference(), (100.0, 300.0)) is None


def test_no_slide_gives_more_instances_than_wanted_and_the_same_seed_gives_the_same(prepare):
    first, second, other = (sample(prepare(), seed=seed, most=300) for seed in (0, 0, 1))
    assert len(first.features) == len(first.known) == 300
    assert np.array_equal(first.features, second.features)
    assert not np.array_equal(first.features, other.features)


def test_a_slide_without_tissue_has_no_instances(prepare):
    instances = sample(prepare(mask=np.zeros((64, 64), bool), positive=False))
    assert instances.features.shape == (0, 3 * len(CONTEXT_SIGMAS_PX))
    assert instances.known.shape == (0,)
    assert not instances.positive


def test_large_slides_are_sampled_by_regions(prepare, monkeypatch):
    monkeypatch.setattr(features, "REGION", 16)
    monkeypatch.setattr(features, "MOST_REGIONS", 3)
    instances = sample(prepare(), most=600)
    assert len(instances.features) == 600
    assert len({(int(x // 128), int(y // 128)) for x, y in columns_and_rows(instances)}) == 3
    monkeypatch.setattr(features, "MOST_REGIONS", 16)
    instances = sample(prepare(), most=600)
    assert len({(int(x // 128), int(y // 128)) for x, y in columns_and_rows(instances)}) == 16
    assert len(instances.features) == pytest.approx(600, abs=16)


def test_regions_of_wide_backbones_are_smaller():
    assert features.region_side(3) == features.REGION
    assert features.region_side(1536) ** 2 * 1536 <= 64_000_000


def within(positions, area, *, margin):
    left, top, right, bottom = area
    return (
        (positions[:, 0] > left + margin)
        & (positions[:, 0] < right - margin)
        & (positions[:, 1] > top + margin)
        & (positions[:, 1] < bottom - margin)
    )


@pytest.mark.parametrize("region", [256, 24])
def test_what_a_person_decided_is_known_of_the_instances_there(prepare, monkeypatch, region):
    monkeypatch.setattr(features, "REGION", region)
    monkeypatch.setattr(features, "MOST_REGIONS", 99)
    positive, negative, ignored = (100, 60, 300, 200), (240, 300, 440, 460), (200, 100, 300, 200)
    regions = ReviewRegions(positive=(box(*positive),), negative=(box(*negative),), ignored=(box(*ignored),))
    instances = sample(prepare(regions=regions))
    positions = columns_and_rows(instances)
    in_ignored = within(positions, ignored, margin=12)
    assert in_ignored.any()
    assert (instances.known[in_ignored] == 0).all()
    in_positive = within(positions, positive, margin=12) & ~within(positions, ignored, margin=-12)
    assert (instances.known[in_positive] == 1).all()
    assert (instances.known[within(positions, negative, margin=12)] == -1).all()
    elsewhere = ~(within(positions, positive, margin=-12) | within(positions, negative, margin=-12))
    assert (instances.known[elsewhere] == 0).all()
    assert (instances.known == 1).mean() == pytest.approx((200 * 140 - 100 * 100) / SIDE**2, abs=0.02)


def test_of_a_reviewed_slide_everything_else_is_known_to_be_background(prepare):
    positive = (100, 60, 300, 200)
    instances = sample(prepare(regions=ReviewRegions(positive=(box(*positive),), complete=True)))
    positions = columns_and_rows(instances)
    assert (instances.known[within(positions, positive, margin=12)] == 1).all()
    assert (instances.known[~within(positions, positive, margin=-12)] == -1).all()


def test_classes_share_the_features_and_have_their_own_labels_and_reviews(prepare):
    slide = prepare()
    regions = {"Stroma": ReviewRegions(negative=(box(0, 0, 99, 99),))}
    slide = replace(slide, review=Review(slide.entry.id, (), regions))
    sampled = sample_slide(
        slide, ["Tumor", "Stroma"], FeatureMaps(Colours()), inference(), most=200, rng=np.random.default_rng(0)
    )
    assert sampled["Tumor"].features is sampled["Stroma"].features
    assert (sampled["Tumor"].positive, sampled["Stroma"].positive) == (True, False)
    assert not sampled["Tumor"].known.any()
    assert (sampled["Stroma"].known == -1).any()


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("rotations", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_map_of_a_probe_has_the_logits_of_its_instances(prepare, rotations, small, monkeypatch):
    """The map is computed in the other order: each neighbourhood's part of the logit first, the means after."""
    monkeypatch.setattr(features, "SMALL_BYTES", 10**9 if small else 0)
    mask = np.ones((SIDE // 8, SIDE // 8), bool)
    mask[:7] = mask[:, 50:] = mask[30:34, 10:40] = False
    slide, backbone = prepare("speckled", mask=mask), build_backbone("small").eval()
    rng = np.random.default_rng(0)
    size = len(CONTEXT_SIGMAS_PX) * backbone.channels
    probe = LinearProbe(rng.normal(0, size**-0.5, size).astype(np.float32), -1.5)
    settings = inference(backbone.stride, rotations=rotations)
    (logits,) = probe_maps(slide, FeatureMaps(backbone), [probe], settings)
    inside = tissue_cells(slide.tissue, shape=settings.shape(slide.open()), downsample=settings.downsample)
    assert logits.dtype == np.float32
    assert (np.isnan(logits) == ~inside).all()
    rows, columns = np.nonzero(inside)
    infer = on_arrays(backbone, device=CPU, rotations=rotations)
    dense = infer_map(slide.open(), slide.tissue, infer, settings, channels=backbone.channels)
    sigmas = [sigma / backbone.stride for sigma in CONTEXT_SIGMAS_PX]
    expected = probe(pool_context(dense, rows, columns, sigmas=sigmas))
    assert expected.std() > 0.05
    np.testing.assert_allclose(logits[rows, columns], expected, atol=0.01)
    sampled = sample_slide(slide, ["Tumor"], FeatureMaps(backbone), settings, most=len(rows), rng=rng)["Tumor"]
    np.testing.assert_allclose(np.sort(probe(sampled.features)), np.sort(logits[inside]), atol=0.01)


def test_several_probes_in_one_pass_give_the_maps_that_each_gives_alone(prepare):
    slide, rng = prepare(), np.random.default_rng(0)
    probes = [LinearProbe(rng.normal(size=9).astype(np.float32), float(bias)) for bias in (1, -2)]
    together = probe_maps(slide, FeatureMaps(Colours()), probes, inference())
    for logits, probe in zip(together, probes, strict=True):
        np.testing.assert_allclose(
            logits, probe_maps(slide, FeatureMaps(Colours()), [probe], inference())[0], atol=1e-5
        )


def test_a_slide_that_cannot_be_read_has_no_instances_and_the_others_do(prepare, recorder):
    cohort = [prepare("speckled"), prepare(), prepare("speckled", positive=False)]
    lost = replace(cohort[1].entry, slide_path=None, problem="ramp.tif: gone")
    cohort[1] = replace(cohort[1], entry=lost)
    inferences = {slide.entry.id: inference() for slide in cohort}
    work = SampleSlide(("Tumor",), FeatureMaps(Colours()), seed=0)
    sampled = sample_instances(cohort, work, inferences, tracker=recorder)
    assert [result.status for result in sampled.results] == ["done", "failed", "done"]
    assert set(sampled.of_class["Tumor"]) == {cohort[0].entry.id, cohort[2].entry.id}
    assert any("gone" in line for line in recorder.said)


def test_instances_say_which_features_are_of_which_backbone(prepare):
    joined = build_dense("small+efficientnet-lite0").eval()
    inference = DenseInference(mpp=1.0, mpp_slide=1.0, window_px=256, stride=8)
    sampled = sample_slide(prepare(), ["Tumor"], FeatureMaps(joined), inference, most=5, rng=np.random.default_rng(0))[
        "Tumor"
    ]
    channels = [part.channels for part in joined.parts]
    assert list(sampled.blocks) == channels
    assert sampled.features.shape[1] == len(CONTEXT_SIGMAS_PX) * sum(channels)


@pytest.fixture
def passes():
    """A backbone that counts the windows that it sees."""

    class Counting(Colours):
        windows = 0

        def forward(self, tiles: Tensor) -> Tensor:
            self.windows += len(tiles)
            return super().forward(tiles)

    return Counting()


PROBE = LinearProbe(np.linspace(-1, 1, 9, dtype=np.float32), 0.5)


def test_the_backbone_runs_once_over_a_slide_with_little_tissue(prepare, passes):
    maps, slide = FeatureMaps(passes), prepare("speckled")
    sample_slide(slide, ["Tumor"], maps, inference(), most=50, rng=np.random.default_rng(0))
    once = passes.windows
    waited = probe_maps(slide, maps, [PROBE], inference())
    assert passes.windows == once
    assert not maps._waiting
    elsewhere = pickle.loads(pickle.dumps(FeatureMaps(Colours())))
    np.testing.assert_array_equal(probe_maps(slide, elsewhere, [PROBE], inference()), waited)


def test_features_that_find_no_room_are_computed_again_to_the_same_map(prepare, passes, monkeypatch):
    slide, logits = prepare("speckled"), []
    for room in (10**9, 0):
        monkeypatch.setattr(features, "WAITING_BYTES", room)
        maps = FeatureMaps(passes)
        sample_slide(slide, ["Tumor"], maps, inference(), most=50, rng=np.random.default_rng(0))
        before = passes.windows
        logits.append(probe_maps(slide, maps, [PROBE], inference()))
        assert (passes.windows > before) is (room == 0)
    np.testing.assert_array_equal(*logits)
