"""The model card: figures of the record, no name of a slide, and nothing invented."""

import json

from exported_models import described

from wsplf_cli.segmentation.export.card import model_card, read_training
from wsplf_cli.segmentation.operating_point import Bound

RUN = {
    "stage": "train",
    "started": "2026-01-31T10:00:00+00:00",
    "seed": 3,
    "options": {"epochs": 14, "backbone_weights": "/home/someone/weights/lite.pth"},
    "details": {"validation_slides": ["SECRET-4711.svs", "b.svs"]},
    "entries": [
        {
            "id": "1",
            "name": "SECRET-4711.svs",
            "status": "done",
            "counts": {"positive": 2, "pending": 5, "negative": 1, "reviewed": 1},
        },
        {"id": "2", "name": "b.svs", "status": "done", "counts": {"positive": 1, "pending": 0}},
        {"id": "3", "name": "c.svs", "status": "done", "counts": {"positive": 0, "pending": 0, "negative": 2}},
        {"id": "4", "name": "d.svs", "status": "done", "counts": {}},
        {"id": "5", "name": "e.svs", "status": "skipped", "counts": {"positive": 9}},
        {"id": "6", "name": "f.svs", "status": "failed"},
    ],
}


def record(tmp_path, run=RUN):
    folder = tmp_path / "wsplf" / "runs" / "run 1"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(run))


def entries(make_entry):
    """Entries 1 to 5; the first two are of one patient, the third has none, the fourth is gone."""
    patients = ["P1", "P1", " ", "P9", "P7"]
    made = [make_entry(metadata={"patient": patient}) for patient in patients]
    return [entry for entry in made if entry.id != "4"]


def test_the_card_counts_what_was_learned_from(tmp_path, make_entry):
    record(tmp_path)
    training = read_training(tmp_path, "run 1", entries(make_entry))
    card = model_card("default", described(scores={"validation_dice": 0.87654}), training)
    for line in (
        "- 4 slides, 2 of them without a polygon of the classes (known negatives)",
        "- patients: 1; the patient of 2 slides is not recorded",
        "- 3 polygons that a person drew, accepted or corrected",
        "- 5 pseudo-labels that no person had looked at, made from the labels of whole slides",
        "- 3 areas that a person marked as background",
        "- 1 of the slides were reviewed as a whole by a person",
        "- begun 2026-01-31T10:00:00+00:00; 14 epochs, seed 3; started from lite.pth",
    ):
        assert line in card.splitlines()
    assert "Dice 0.877 at the threshold 0.4, pooled over pixels of 2 slides" in card
    assert "| classes, in the order of the outputs | Gland, Tumour: Ätypical |" in card
    assert "| pixel size of the input | 1 um per pixel |" in card


def test_the_card_names_no_slide_and_no_folder(tmp_path, make_entry):
    record(tmp_path)
    card = model_card("default", described(), read_training(tmp_path, "run 1", entries(make_entry)))
    assert not any(word in card for word in ("SECRET", "b.svs", "P1", "/home", "someone"))


def test_what_is_not_known_is_said_to_be_not_known(tmp_path, make_entry):
    card = model_card("default", described(), read_training(tmp_path, "run 1", []))
    assert "Not known: the project has no record of the training, run 1." in card
    assert "\nNone. There were too few patients with polygons" in card
    card = model_card("default", described(scores={"validation_dice": 0.5}), None)
    assert "over pixels of a number that is not known slides" in card
    record(tmp_path, {"stage": "train", "entries": [{"id": "1", "status": "done"}]})
    card = model_card("default", described(), read_training(tmp_path, "run 1", []))
    assert "- patients: not recorded" in card
    assert "- begun not known; an unknown number of epochs, seed not known; started from the default weights" in card


def test_the_card_says_which_polygons_are_kept_and_what_is_known_of_false_ones():
    bound = Bound(alpha=0.01, measured=0.004, guaranteed=0.175, slides=6, patients=5, patients_needed=99)
    card = model_card("default", described(confidences=(0.9, 0.4), bounds=(bound, None)), None)
    assert "its slide" not in card
    assert "| polygons of Gland | a polygon needs a confidence of 0.900 (mean probability inside), so that" in card
    assert "polygons cover 0.40%" in card
    assert "| polygons of Tumour: Ätypical | no bound on false positives" in card


def test_the_card_says_what_a_slide_needs():
    bound = Bound(alpha=0.01, measured=0.004, guaranteed=0.175, slides=6, patients=5, patients_needed=99)
    levels = {"confidences": (0.9, 0.4), "slide_confidences": (0.95, 0.0), "bounds": (bound, bound)}
    card = model_card("default", described(**levels), None)
    assert "(mean probability inside) and its slide an area of 4,000 um2 above 0.950, so that" in card
    assert "confidence of 0.400 (mean probability inside), so that" in card


def test_the_card_says_what_an_onnx_file_takes():
    assert "multiple_px" in model_card("default", described(), None)
    card = model_card("default", described(plugin="sam", settings={"sam": "tiny"}), None)
    assert "`model.onnx` takes one tile of the size above at a time. It does not run in QuPath." in card
    assert "multiple_px" not in card
    assert "| architecture | sam (sam tiny) |" in card


def test_the_card_says_of_how_many_networks_a_model_is_the_mean():
    assert ", the mean of 4 networks |" in model_card("default", described(networks=4), None)
    assert "the mean of" not in model_card("default", described(networks=1), None)


def test_a_record_that_is_damaged_or_of_another_command_is_not_used(tmp_path):
    record(tmp_path, {"stage": "segment"})
    assert read_training(tmp_path, "run 1", []) is None
    (tmp_path / "wsplf" / "runs" / "run 1" / "run.json").write_text("[")
    assert read_training(tmp_path, "run 1", []) is None


def test_the_front_matter_leaves_the_licence_to_the_user():
    front = model_card("default", described(), None).split("---\n")[1]
    keys = [line.partition(":")[0] for line in front.splitlines() if line[0] not in "-#"]
    assert keys == ["library_name", "pipeline_tag", "tags", "metrics"]
    assert "# license: of these weights, for you to choose" in front
