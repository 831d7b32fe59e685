"""The colour baseline: its polygons are the best that one colour threshold can draw."""

from uuid import uuid4

from shapely.affinity import scale
from shapely.geometry import Point

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.benchmark.color_threshold import predict_by_colour
from wsplf_cli.geometry import union
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath import geojson
from wsplf_cli.schema import Annotation

#: The tissue of the tiny slide, all of which a colour threshold can tell from the glass.
TISSUE = scale(Point(500, 380).buffer(1, 64), 380, 280)


def test_the_polygons_of_the_best_threshold_are_written_as_predictions(tiny_project, tmp_path):
    project = open_project(tiny_project, ProjectOptions())
    entries = project.entries()[:1]
    geojson.write(tmp_path / "positive.geojson", [Annotation(uuid4(), TISSUE, "Tumor")])
    best = predict_by_colour(project, entries, truth=tmp_path, path_class="Lesion")
    annotations = project.annotations(entries[0].id)
    assert {(one.path_class, one.origin, one.run_id) for one in annotations} == {("Lesion", "prediction", "threshold")}
    predicted = union(one.shape for one in annotations)
    dice = 2 * predicted.intersection(TISSUE).area / (predicted.area + TISSUE.area)
    assert dice > 0.9
    assert best.mean_dice > 0.9
