"""The instances that a run keeps, and the search for the most alike ones."""

import numpy as np
import pytest

from wsplf_cli.weak.kept.alike import KeptInstances, keep_instances, most_alike
from wsplf_cli.weak.linear_probe import FeatureBasis, LinearProbe
from wsplf_cli.weak.self_training import Instances

RNG = np.random.default_rng(0)


def slide(count, *, positive=True, centres=True):
    features = RNG.normal(size=(count, 6)).astype(np.float16)
    centres_px0 = np.arange(2 * count, dtype=np.float32).reshape(-1, 2) if centres else None
    return Instances(features, positive, np.zeros(count, np.int8), centres_px0=centres_px0)


def test_the_likeliest_instances_are_kept_and_others_spread_over_the_slide():
    slides = [slide(1000), slide(1000, positive=False)]
    probe = LinearProbe(np.eye(6, dtype=np.float32)[0], 0.5)
    kept = keep_instances(["a", "b"], slides, [probe, probe], most_bytes=2 * 6 * 2 * 100)
    assert np.bincount(kept.slide_of).tolist() == [100, 100]
    assert kept.features.nbytes <= 2400
    logits = probe(slides[0].features)
    of_first = kept.slide_of == 0
    assert set(np.sort(logits)[-50:].tolist()) <= set(kept.logits[of_first].tolist())
    assert kept.logits[of_first].min() < np.quantile(logits, 0.2)
    index = (kept.centres_px0[of_first][:, 0] / 2).astype(int)
    assert kept.logits[of_first] == pytest.approx(logits[index])
    assert kept.features[of_first] == pytest.approx(kept.basis.reduce(slides[0].features[index]), abs=2e-2)


def test_instances_without_coordinates_are_not_kept():
    probe = LinearProbe(np.zeros(6, np.float32), 0.0)
    assert keep_instances(["a"], [slide(50, centres=False)], [probe]) is None


def kept_in_a_plane(rows):
    """Instances (slide, x, angle in degrees) whose features are unit vectors."""
    angles = np.deg2rad([angle for _, _, angle in rows])
    names = sorted({name for name, _, _ in rows})
    return KeptInstances(
        FeatureBasis(np.zeros(2, np.float32), np.ones(2, np.float32), np.eye(2, dtype=np.float32)),
        tuple(names),
        np.array([names.index(name) for name, _, _ in rows], np.int32),
        np.array([(x, 0) for _, x, _ in rows], np.float32),
        np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float16),
        np.arange(len(rows), dtype=np.float32),
    )


def search(kept, names, count=3):
    query = np.array([1, 0], np.float32)
    return most_alike(query, kept, names, count=count, apart_px0=lambda name: 100)


def test_each_slide_gives_its_most_alike_instance():
    kept = kept_in_a_plane([("a", 0, 10), ("a", 500, 0), ("b", 0, 30), ("c", 0, 60), ("d", 0, 5)])
    alike = search(kept, ["a", "b", "c"])
    assert [(found.entry_id, found.centre_px0[0]) for found in alike] == [("a", 500), ("b", 0), ("c", 0)]
    assert [found.similarity for found in alike] == pytest.approx(np.cos(np.deg2rad([0, 30, 60])), abs=1e-3)
    assert alike[0].logit == 1


def test_a_slide_gives_a_second_one_only_from_another_neighbourhood():
    kept = kept_in_a_plane([("a", 0, 0), ("a", 50, 1), ("a", 400, 40), ("b", 0, 80)])
    alike = search(kept, ["a", "b"])
    assert [(found.entry_id, found.centre_px0[0]) for found in alike] == [("a", 0), ("a", 400), ("b", 0)]


def test_without_other_slides_nothing_is_alike():
    assert search(kept_in_a_plane([("a", 0, 0)]), []) == []
