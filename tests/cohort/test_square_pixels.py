"""Images with oblong pixels, shown with square ones for learning."""

from uuid import uuid4

import numpy as np
import pytest
from PIL import Image as Picture
from shapely import box

from wsplf_cli.backends.embedded import open_project
from wsplf_cli.cohort.square_pixels import with_square_pixels
from wsplf_cli.options import ProjectOptions
from wsplf_cli.qupath.create import Image, create_project
from wsplf_cli.schema import Annotation, PathClass
from wsplf_cli.slides.entry import entry_slide

TUMOUR = box(40, 100, 90, 200)  # 62 x 62 um


@pytest.fixture
def project(tmp_path):
    """A slide of 200 x 400 pixels of 1.24 x 0.62 um with a dark square, and one with square pixels."""
    rgb = np.full((400, 200, 3), 230, np.uint8)
    rgb[100:200, 40:90] = 60
    path = tmp_path / "a.png"
    Picture.fromarray(rgb).save(path)
    images = [
        Image(path, name, 200, 400, mpp, [(1.0, 200, 400)], {"label": "tumor"})
        for name, mpp in (("oblong", (1.24, 0.62)), ("square", 0.5))
    ]
    return open_project(create_project(tmp_path / "project", images, classes=[]), ProjectOptions())


def test_tiles_are_as_many_micrometres_across_as_down(project):
    _, (oblong, _) = with_square_pixels(project, project.entries())
    slide, pixel_size = entry_slide(oblong)
    assert pixel_size.mpp**2 == pytest.approx(1.24 * 0.62)
    assert pixel_size.in_square_pixels(TUMOUR) is TUMOUR
    assert (slide.width_px0, slide.height_px0) == oblong.size_px0 == (283, 283)
    tile = slide.read(0, 0, size_px=(248, 248), downsample=1 / pixel_size.mpp)[..., 0]  # at 1 um
    rows, columns = np.nonzero(tile < 145)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == pytest.approx((62, 62), abs=1)
    assert (rows.min(), columns.min()) == pytest.approx((62, 50), abs=1)


def test_annotations_are_stretched_when_read_and_written_in_qupaths_coordinates(project):
    square, (oblong, other) = with_square_pixels(project, project.entries())
    drawn = Annotation(uuid4(), TUMOUR, "Tumor")
    project.add("1", [drawn])
    (stretched,) = square.annotations("1")
    left, top, right, bottom = stretched.shape.bounds
    assert (right - left, bottom - top) == pytest.approx((70.7, 70.7), abs=0.1)
    assert stretched.shape.area == pytest.approx(TUMOUR.area)
    assert oblong.width_px0 == 283
    found = Annotation(uuid4(), stretched.shape, "Tumor", origin="pseudolabel", run_id="r")
    square.replace("1", origin="pseudolabel", annotations=[found])
    written = [annotation for annotation in project.annotations("1") if annotation.origin == "pseudolabel"]
    assert written[0].shape.equals_exact(TUMOUR, 0.01, normalize=True)
    assert not written[0].edited
    square.add("2", [drawn], path_classes=[PathClass("Tumor", (1, 2, 3))])
    assert square.annotations("2")[0].shape.equals(TUMOUR)
    assert square.objects("1")[1].shape.equals(stretched.shape)
    assert [entry.size_px0 for entry in square.entries()] == [oblong.size_px0, other.size_px0]
    square.set_metadata({"1": {"label": "normal"}})
    assert project.entries()[0].metadata["label"] == "normal"
    assert (square.path, square.folder, square.version) == (project.path, project.folder, project.version)
    assert "Tumor" in {path_class.name for path_class in square.path_classes()}


def test_square_pixels_change_nothing(project):
    entries = [entry for entry in project.entries() if entry.name == "square"]
    assert with_square_pixels(project, entries) == (project, entries)


def test_sides_that_only_the_slide_knows_count_too(make_entry, project, tiny_slide):
    plain = make_entry(slide_path=tiny_slide, mpp=None)
    gone = make_entry(problem="slide not found", mpp=None)
    assert with_square_pixels(project, [plain, gone]) == (project, [plain, gone])
