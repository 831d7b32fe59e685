"""``wsplf pseudolabel`` goes on after a stop: features, CAMs and polygons are taken over, and nothing is different."""

import gzip
import json

import pytest
from pseudolabel_runs import copy, make_project, paint, run_pseudolabel, use_small_fits
from shapely import box

from wsplf_cli.options import PseudolabelOptions
from wsplf_cli.weak import method

TUMOUR = box(140, 160, 320, 340)
POSITIVE, NEGATIVE = {"label": "tumor"}, {"label": "normal"}


@pytest.fixture
def cohort(tmp_path, monkeypatch):
    """Two positive and two negative slides."""
    use_small_fits(monkeypatch)
    slides = {f"p{seed}": (paint(TUMOUR, seed=seed), POSITIVE) for seed in range(2)}
    slides |= {f"n{seed}": (paint(seed=seed), NEGATIVE) for seed in range(2, 4)}
    return make_project(tmp_path, slides)


def kept_by(done):
    """What a run leaves besides the project, without its ids."""
    prompts = [
        list(json.loads(gzip.decompress(path.read_bytes())).values())
        for path in sorted((done.run_folder / "prompts").iterdir())
    ]
    files = [path.read_bytes() for part in ("cams", "fits") for path in sorted((done.run_folder / part).iterdir())]
    return prompts, files


def stop(*arguments, **named):
    raise KeyboardInterrupt


@pytest.mark.slow
def test_a_second_start_goes_on_and_ends_as_an_undisturbed_run(cohort, tmp_path, monkeypatch):
    alone = run_pseudolabel(copy(cohort, tmp_path / "alone"), PseudolabelOptions())
    real = method.annotate

    def stop_at_third(slide, *arguments, **named):
        return (stop if slide.entry.id == "3" else real)(slide, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(method, "annotate", stop_at_third)
        with pytest.raises(KeyboardInterrupt, match="2 of 4 entries were finished"):
            run_pseudolabel(cohort, PseudolabelOptions())
    steps = {path.name.partition("-")[0] for path in (cohort.parent / "wsplf" / "resume" / "pseudolabel").iterdir()}
    assert steps == {"features", "CAM", "polygons"}

    done = run_pseudolabel(cohort, PseudolabelOptions())
    taken_over = [line for line in done.said if "taken over" in line]
    assert taken_over == [
        "features: 4 of 4 slides taken over from a stopped run",
        "CAM: 4 of 4 slides taken over from a stopped run",
        "polygons: 2 of 4 slides taken over from a stopped run",
    ]
    assert len(alone.annotations("p0")) > 0
    for name in done.ids:
        shapes, expected = ([one.shape.wkb for one in run.annotations(name)] for run in (done, alone))
        assert shapes == expected
        measured, expected = ([one.measurements for one in run.annotations(name)] for run in (done, alone))
        assert measured == expected
    assert kept_by(done) == kept_by(alone)
    assert {one.run_id for one in done.annotations("p0")} == {done.report.run_id}
    assert not (cohort.parent / "wsplf" / "resume" / "pseudolabel").exists()
