"""Random numbers and ids that belong to a slide."""

from wsplf_cli.cohort.seeds import annotation_id, slide_rng


def test_random_numbers_belong_to_seed_step_and_slide():
    def drawn(*key):
        return slide_rng(*key).integers(2**62)

    assert drawn(0, "polygons", "7") == drawn(0, "polygons", "7")
    others = {
        drawn(1, "polygons", "7"),
        drawn(0, "features", "7"),
        drawn(0, "polygons", "8"),
        drawn(0, "polygons7", ""),
    }
    assert len(others | {drawn(0, "polygons", "7")}) == 5


def test_ids_of_annotations_are_unique_and_the_same_for_the_same_run():
    ids = {annotation_id(run, entry, number) for run in "ab" for entry in "12" for number in range(3)}
    assert len(ids) == 12
    assert all(annotation.version == 4 for annotation in ids)
    assert annotation_id("a", "1", 0) == annotation_id("a", "1", 0)
