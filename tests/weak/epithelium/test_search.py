"""Tumour searched for in epithelium alone: where that is possible, what is learned from, and what is drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wsplf_cli.errors import ConfigError
from wsplf_cli.metrics import auroc
from wsplf_cli.networks.backbone import build_backbone
from wsplf_cli.networks.inference import as_batch
from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.recipes import Recipe
from wsplf_cli.schema import Silent
from wsplf_cli.slides.window import DenseInference
from wsplf_cli.synthetic.kinds import BACKGROUND, EPITHELIUM
from wsplf_cli.synthetic.tissue import random_layout, render_layout
from wsplf_cli.weak.epithelium.search import restrict_instances, restrict_to_epithelium, search_area
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.pooling import CONTEXT_SIGMAS_PX, pool_context
from wsplf_cli.weak.self_training import Instances

#: Epithelium is where the first feature is high.
PROBE = LinearProbe(np.array([1.0, 0.0], np.float32), 0.0)
INFERENCE = DenseInference(mpp=1.0, mpp_slide=1.0, window_px=256, stride=8)


def options(*, search_in="auto", backbone_mode="frozen", **fields):
    return PseudolabelOptions(recipe=Recipe(search_in=search_in, backbone_mode=backbone_mode), **fields)


@pytest.fixture(scope="module")
def small():
    return build_backbone().eval()


def test_the_shipped_backbone_has_a_probe_for_epithelium(small):
    area = search_area(options(), small, Silent())
    assert area.probe is not None
    assert area.probe.weight.shape == (3 * small.channels,)
    assert area.name == "epithelium"
    assert "--search-in tissue" in area.message
    assert search_area(options(search_in="epithelium"), small, Silent()).probe is not None


def test_all_tissue_is_searched_where_it_is_asked_for_and_where_nothing_else_is_possible(small):
    fine_tuned = options(backbone_mode="fine-tuned")
    for area in (search_area(options(search_in="tissue"), small, Silent()), search_area(fine_tuned, None, Silent())):
        assert (area.probe, area.message, area.name) == (None, "", "tissue")


def test_epithelium_is_refused_where_no_backbone_can_tell_it():
    with pytest.raises(ConfigError, match="--search-in epithelium") as caught:
        search_area(options(search_in="epithelium", backbone_mode="fine-tuned"), None, Silent())
    assert caught.value.hint


def test_the_shipped_probe_separates_synthetic_epithelium(small):
    backbone = small
    probe = search_area(options(), backbone, Silent()).probe
    middle = (slice(backbone.stride // 2, None, backbone.stride),) * 2
    logits, truth = [], []
    for seed in range(8):
        rng = np.random.default_rng([77, seed])
        canvas = render_layout(rng, random_layout(rng, (256, 256), 1.0))
        with torch.no_grad():
            features = backbone(as_batch(canvas.rgb[None]))[0].numpy()
        structure = canvas.structure[middle]
        rows, columns = np.nonzero(structure != BACKGROUND)
        sigmas = [sigma / backbone.stride for sigma in CONTEXT_SIGMAS_PX]
        logits += probe(pool_context(features, rows, columns, sigmas=sigmas)).tolist()
        truth += ((canvas.instance[middle] > 0) | (structure == EPITHELIUM))[rows, columns].tolist()
    assert auroc(logits, truth) > 0.93


def slide(share, *, positive=True, known=None, count=400):
    """Instances of which a share is epithelium."""
    features = np.full((count, 2), -4.0, np.float16)
    features[: round(share * count), 0] = 4.0
    return Instances(features, positive, np.zeros(count, np.int8) if known is None else known)


def test_only_epithelium_and_what_a_person_decided_is_learned_from():
    known = np.zeros(400, np.int8)
    known[-5:] = -1
    restricted, reason = restrict_instances([slide(0.3, known=known), slide(0.1, positive=False)], PROBE)
    assert reason == ""
    assert [len(instances.features) for instances in restricted] == [125, 40]
    assert (restricted[0].features[:120, 0] == 4).all()
    assert (restricted[0].known[-5:] == -1).all()


def test_all_tissue_is_learned_from_where_positive_slides_hold_hardly_any_epithelium():
    cohort = [slide(0.002), slide(0.005), slide(0.5, positive=False)]
    instances, reason = restrict_instances(cohort, PROBE)
    assert "hardly any epithelium" in reason
    assert [len(of_slide.features) for of_slide in instances] == [400] * 3


def test_a_slide_with_a_suspected_label_does_not_decide_where_tumour_is_searched_for():
    untrusted = [replace(slide(0.0), trusted=False) for _ in range(3)]
    _, reason = restrict_instances([*untrusted, slide(0.3), slide(0.3, positive=False)], PROBE)
    assert reason == ""


def test_all_tissue_is_learned_from_where_people_drew_around_stroma():
    known = np.zeros(400, np.int8)
    known[80:180] = 1  # 40 of epithelium, 60 of stroma
    _, reason = restrict_instances([slide(0.3, known=known), slide(0.3, positive=False)], PROBE)
    assert "people drew" in reason
    known[150:] = 0
    assert restrict_instances([slide(0.35, known=known), slide(0.3, positive=False)], PROBE)[1] == ""


def test_all_tissue_is_learned_from_where_negative_slides_hold_no_epithelium():
    _, reason = restrict_instances([slide(0.3), slide(0.0, positive=False), slide(0.0, positive=False)], PROBE)
    assert reason == "negative slides hold no epithelium: tumour is searched for in all tissue"


def maps(side=40):
    """Logits of tumour, 1 everywhere, and of epithelium, 3 on the left half and -4 on the right; glass in a corner."""
    tumour = np.ones((side, side), np.float32)
    epithelium = np.full((side, side), -4.0, np.float32)
    epithelium[:, : side // 2] = 3.0
    tumour[:5, :5] = epithelium[:5, :5] = np.nan
    return tumour, epithelium


def test_logits_are_low_outside_epithelium():
    tumour, epithelium = maps()
    restricted = restrict_to_epithelium(tumour, epithelium, INFERENCE)
    assert restricted.dtype == np.float32
    assert (np.isnan(restricted) == np.isnan(tumour)).all()
    assert restricted[20, 10] == pytest.approx(1.0, abs=1e-5)
    assert restricted[:, 20:] == pytest.approx(np.full((40, 20), -1.75))


def test_logits_of_epithelium_are_averaged_with_those_of_the_epithelium_around():
    tumour, epithelium = maps()
    tumour[10:30, 20:] = 9.0  # of stroma: it must not count
    tumour[20, 10] = -1.0
    restricted = restrict_to_epithelium(tumour, epithelium, INFERENCE)
    assert restricted[20, 10] == pytest.approx(0.0, abs=0.05)
    assert restricted[20, 12] == pytest.approx(1.0, abs=0.05)
