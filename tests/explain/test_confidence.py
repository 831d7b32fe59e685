"""What the confidence is made of, in words and numbers."""

from uuid import uuid4

import numpy as np
import pytest
from shapely import box

from wsplf_cli.explain.confidence import (
    parts_of_prediction,
    parts_of_pseudolabel,
    sum_of_confidence,
    words_on_cam,
    words_on_sam,
)
from wsplf_cli.schema import Annotation, PromptedMask
from wsplf_cli.weak.calibration import Calibration, PeakThreshold


def polygon(**measurements):
    named = {f"wsplf: {name.replace('_', ' ')}": value for name, value in measurements.items()}
    return Annotation(uuid4(), box(0, 0, 9, 9), "Tumor", "pseudolabel", measurements=named)


def test_the_sum_is_the_confidence():
    text = sum_of_confidence(polygon(confidence=0.93, CAM=0.8, SAM_share=1.0, SAM_IoU=0.8), {"refiner": "sam"})
    assert text == "0.36 × 0.80 (CAM) + 0.64 × 1.00 (SAM) = 0.93"


def test_a_difference_from_the_sum_is_named():
    text = sum_of_confidence(polygon(confidence=0.78, CAM=0.8, SAM_share=0.4, SAM_IoU=0.5), {"refiner": "sam"})
    assert "= 0.64; measured: 0.78, since in a part of the polygon a mask was discarded, or windows" in text


@pytest.mark.parametrize(
    ("refiner", "words"), [("none", "does not refine"), ("slic", "superpixels"), ("sam-only", "as they are")]
)
def test_each_refiner_has_its_own_words_and_no_sum(refiner, words):
    annotation = polygon(confidence=0.7, CAM=0.7, SAM_share=0.0)
    assert sum_of_confidence(annotation, {"refiner": refiner}) == ""
    assert words in parts_of_pseudolabel(annotation, {"refiner": refiner})[0].meaning


def test_what_was_not_measured_is_left_out():
    assert [part.name for part in parts_of_pseudolabel(polygon(confidence=0.6), {})] == ["Confidence"]
    assert sum_of_confidence(polygon(confidence=0.6), {}) == ""


def test_a_prediction_has_its_threshold_and_the_probabilities_inside():
    inside = np.linspace(0.5, 1.0, 101, dtype=np.float32)
    parts = {part.name: part.value for part in parts_of_prediction(polygon(confidence=0.9), inside, 0.65)}
    expected = {"Confidence": 0.9, "Threshold": 0.65, "Mean": 0.75, "5th percentile": 0.525, "Median": 0.75}
    assert parts == pytest.approx(expected | {"95th percentile": 0.975})
    assert [part.name for part in parts_of_prediction(polygon(confidence=0.9), None, None)] == ["Confidence"]


def test_a_polygon_below_the_peak_is_said_to_owe_itself_to_sam():
    calibration = Calibration(1.0, 0.5, 0.3, 0.28, 0.8, 0.01)
    peak = PeakThreshold(2.0, 0.004, 0.1, 3, 99)
    sentences = words_on_cam(calibration, peak, peak_cam=0.95)
    assert len(sentences) == 2
    assert "A polygon needs a peak of 0.88 (logit 2.00), which 0.40% of the tissue of 3 negative slides" in sentences[1]
    assert "SAM's mask carried it over the threshold" in words_on_cam(calibration, peak, peak_cam=0.55)[2]
    assert words_on_cam(None, None, peak_cam=0.9) == ["The highest CAM in the polygon is 0.90; 0.5 is the threshold."]


def test_discarded_masks_are_counted():
    def mask(soft_dice):
        return PromptedMask(np.zeros((1, 2)), np.ones(1), None, box(0, 0, 1, 1), 0.9, soft_dice, soft_dice >= 0.5)

    assert words_on_sam([]) == ""
    text = words_on_sam([mask(0.8), mask(0.3)])
    assert text.startswith("1 of SAM's 2 masks here counted; a mask is discarded where")
    assert text.endswith("is 0.30 to 0.80.")
