"""What a run keeps of a fit, written and read again."""

import numpy as np
import pytest

from wsplf_cli.cohort.slide import CohortSlide
from wsplf_cli.errors import ProjectError
from wsplf_cli.weak.calibration import Calibration, PeakThreshold
from wsplf_cli.weak.cam import FittedProbes
from wsplf_cli.weak.class_fit import CalibratedCam, ClassFit
from wsplf_cli.weak.kept.alike import keep_instances
from wsplf_cli.weak.kept.fit import keep_fit, load_fit
from wsplf_cli.weak.linear_probe import LinearProbe
from wsplf_cli.weak.self_training import Instances

CALIBRATION = Calibration(1.5, 0.7, 0.2, 0.19, 0.8, 0.01)
PEAK = PeakThreshold(2.5, 0.01, 0.3, 2, 99)


def make_fit(make_entry, *, probes=True):
    rng = np.random.default_rng(1)
    entries = [make_entry(f"{name}.tif", label={"Tumor"} if name == "p" else set()) for name in "pnm"]
    slides = tuple(CohortSlide(entry, 0.5, None, None) for entry in entries)
    ids = [entry.id for entry in entries]
    shared = LinearProbe(rng.normal(size=5).astype(np.float32), 0.25)
    of_slides = [shared, shared, LinearProbe(rng.normal(size=5).astype(np.float32), -1.0)]
    instances = [
        Instances(rng.normal(size=(30, 5)), positive, np.zeros(30, np.int8), centres_px0=np.ones((30, 2)))
        for positive in (True, False, False)
    ]
    kept = keep_instances(ids, instances, of_slides)
    fitted = FittedProbes(
        dict(zip(ids, of_slides, strict=True)), {ids[2]: "odd"}, of_slides[2], "too few patients", kept
    )
    return ClassFit(
        "Tumor",
        "",
        slides,
        {},
        {ids[2]: "odd"},
        {},
        "epithelium",
        CalibratedCam(calibration=CALIBRATION, peak=PEAK),
        probes=fitted if probes else None,
        backbone_digest="abc",
    )


def test_a_fit_comes_back_as_it_was(make_entry, tmp_path):
    fit = make_fit(make_entry)
    keep_fit(tmp_path / "fits" / "fit.safetensors", fit)
    kept = load_fit(tmp_path / "fits" / "fit.safetensors")
    assert (kept.path_class, kept.backbone_digest, kept.in_sample) == ("Tumor", "abc", "too few patients")
    assert (kept.positive, kept.negative, kept.suspected) == (("1",), ("2", "3"), {"3": "odd"})
    assert (kept.calibration, kept.peak) == (CALIBRATION, PEAK)
    for entry_id, probe in fit.probes.probes.items():
        assert np.array_equal(kept.probes[entry_id].weight, probe.weight)
        assert kept.probes[entry_id].bias == probe.bias
    assert np.array_equal(kept.epithelium.weight, fit.probes.epithelium.weight)
    for name in ("slide_of", "centres_px0", "features", "logits"):
        assert np.array_equal(getattr(kept.instances, name), getattr(fit.probes.instances, name))
    features = np.ones((1, 5), np.float32)
    reduced = fit.probes.instances.basis.reduce(features)  # where arrays lie in memory may change the last digit
    np.testing.assert_allclose(kept.instances.basis.reduce(features), reduced, rtol=1e-5)


def test_a_fit_of_networks_has_no_probes(make_entry, tmp_path):
    keep_fit(tmp_path / "fits" / "fit.safetensors", make_fit(make_entry, probes=False))
    kept = load_fit(tmp_path / "fits" / "fit.safetensors")
    assert (kept.probes, kept.instances, kept.epithelium) == ({}, None, None)
    assert kept.calibration == CALIBRATION


def test_no_file_is_no_fit_and_a_damaged_one_is_named(make_entry, tmp_path):
    path = tmp_path / "fits" / "fit.safetensors"
    assert load_fit(path) is None
    keep_fit(path, make_fit(make_entry))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ProjectError, match=r"fit\.safetensors: not a fit that wsplf kept"):
        load_fit(path)
