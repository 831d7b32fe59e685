"""wsplf_cli.weak.probes: the linear probes of a class, from instances to suspected labels."""

from dataclasses import replace

import numpy as np
import pytest

from wsplf_cli.weak import probes, self_training
from wsplf_cli.weak.epithelium.search import SearchArea
from wsplf_cli.weak.probes import ProbeSettings, fit_probes
from wsplf_cli.weak.self_training import Instances, SelfTraining

IN_TISSUE = ProbeSettings(SearchArea(None))


def instances(prevalence, *, positive, seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (300, 6))
    features[:, 0] += 8 * (np.arange(300) < prevalence * 300)
    return Instances(features.astype(np.float16), positive, np.zeros(300, np.int8))


def test_probes_are_fitted_by_entry_and_a_wrong_label_is_suspected(slide, recorder, monkeypatch):
    monkeypatch.setattr(probes, "REPEATS", 1)
    monkeypatch.setattr(self_training, "ROUNDS", 1)
    cohort = [slide({"LUAD"}) for _ in range(4)] + [slide(set()) for _ in range(4)]
    sampled = [instances(0.05 * (index < 4), positive=index < 4, seed=index) for index in range(8)]
    rng = np.random.default_rng(0)
    fitted = fit_probes(cohort, "LUAD", sampled, IN_TISSUE, rng=rng, tracker=recorder)
    assert set(fitted.probes) == {cohort_slide.entry.id for cohort_slide in cohort}
    assert fitted.suspected == {}
    assert fitted.epithelium is None
    assert ("linear probes", 1) in recorder.started
    sampled[6] = instances(0.05, positive=False, seed=20)
    fitted = fit_probes(cohort, "LUAD", sampled, IN_TISSUE, rng=np.random.default_rng(0), tracker=recorder)
    assert set(fitted.suspected) == {cohort[6].entry.id}


def test_where_no_slide_can_be_held_out_it_is_said_and_no_label_is_suspected(slide, recorder, monkeypatch):
    monkeypatch.setattr(probes, "REPEATS", 1)
    monkeypatch.setattr(self_training, "ROUNDS", 1)
    cohort = [slide({"LUAD"}), *(slide(set()) for _ in range(4))]
    sampled = [instances(0.05 * (index == 0), positive=index == 0, seed=index) for index in range(5)]
    fitted = fit_probes(cohort, "LUAD", sampled, IN_TISSUE, rng=np.random.default_rng(0), tracker=recorder)
    assert "there are 1 and 4" in fitted.in_sample
    assert fitted.suspected == {}
    assert any("learn from the slides that they score" in said and "1 and 4" in said for said in recorder.said)


def test_a_slide_without_instances_does_not_end_the_fit_of_two_and_two(slide, recorder, monkeypatch):
    monkeypatch.setattr(probes, "REPEATS", 1)
    monkeypatch.setattr(self_training, "ROUNDS", 1)
    cohort = [slide({"LUAD"}), slide({"LUAD"}), slide(set()), slide(set())]
    sampled = [instances(0.05 * (index < 2), positive=index < 2, seed=index) for index in range(4)]
    fitted = fit_probes(cohort, "LUAD", sampled, IN_TISSUE, rng=np.random.default_rng(0), tracker=recorder)
    assert (fitted.in_sample, recorder.said) == ("", [])
    sampled[0] = replace(sampled[0], features=sampled[0].features[:0], known=sampled[0].known[:0])
    fitted = fit_probes(cohort, "LUAD", sampled, IN_TISSUE, rng=np.random.default_rng(0), tracker=recorder)
    assert "a label has no instances" in fitted.in_sample


@pytest.mark.parametrize(
    ("training", "fits"), [(SelfTraining(rounds=False), 1), (SelfTraining(adl=False), 3), (SelfTraining(), 5)]
)
def test_a_recipe_can_do_without_self_training_and_without_dropout(slide, recorder, monkeypatch, training, fits):
    """One fit of the slide labels, one of the round, up to three final ones; all twice, to suspect labels first."""
    monkeypatch.setattr(probes, "REPEATS", 1)
    monkeypatch.setattr(self_training, "ROUNDS", 1)
    calls = []
    fit_folds = self_training._fit_folds
    monkeypatch.setattr(self_training, "_fit_folds", lambda *a, **k: calls.append(a) or fit_folds(*a, **k))
    cohort = [slide({"LUAD"}) for _ in range(2)] + [slide(set()) for _ in range(2)]
    sampled = [instances(0.5 * (index < 2), positive=index < 2, seed=index) for index in range(4)]
    settings = replace(IN_TISSUE, training=training)
    fit_probes(cohort, "LUAD", sampled, settings, rng=np.random.default_rng(0), tracker=recorder)
    assert len(calls) == 2 * fits
