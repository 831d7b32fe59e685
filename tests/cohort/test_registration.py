"""wsplf doctor --registration: what it proves, what it finds wrong, and what it says it cannot prove."""

import json
import types
from dataclasses import replace

import numpy as np
import openslide
import pytest
from PIL import Image
from shapely import affinity

from wsplf_cli import cli
from wsplf_cli.backends import embedded
from wsplf_cli.cohort import registration
from wsplf_cli.commands.create import create
from wsplf_cli.options import CreateOptions, ProjectOptions
from wsplf_cli.qupath.create import Image as ProjectImage
from wsplf_cli.qupath.create import create_project
from wsplf_cli.slides.open import Slide, open_slide
from wsplf_cli.synthetic.pyramid import write_pyramid


def picture(rng, *, symmetric=False):
    """uint8 [600, 900, 3]: white with pink blots of all sizes, no orientation like another unless symmetric."""
    rows, columns = np.mgrid[:600, :900]
    rgb = np.full((600, 900, 3), 240, np.uint8)
    for _ in range(60):
        x, y, radius = rng.uniform(0, 900), rng.uniform(0, 600), rng.uniform(10, 70)
        rgb[(columns - x) ** 2 + (rows - y) ** 2 < radius**2] = rng.integers((150, 60, 100), (230, 160, 200))
    return np.concatenate([rgb[:, :450], rgb[:, 449::-1]], axis=1) if symmetric else rgb


@pytest.fixture
def project(tmp_path, recorder):
    """A project of one slide without a thumbnail."""
    write_pyramid(tmp_path / "slide.tif", picture(np.random.default_rng(0)), mpp=0.5)
    create(tmp_path / "project", [tmp_path / "slide.tif"], CreateOptions(), recorder)
    (tmp_path / "project" / "data" / "1" / "thumbnail.jpg").unlink()
    return tmp_path / "project" / "project.qpproj"


def thumbnail_of(project, pixels, *, size=(450, 300)):
    """Put a picture in the place of QuPath's thumbnail."""
    path = project.parent / "data" / "1" / "thumbnail.jpg"
    Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BOX).save(path, quality=75)


@pytest.fixture
def check(recorder):
    """The one check of a project of one entry."""

    def run(path):
        project = embedded.open_project(path, ProjectOptions())
        (checked,) = registration.check_registration(project, project.entries(), "embedded", recorder)
        return checked

    return run


@pytest.fixture
def slide_pixels(project):
    with open_slide(project.parents[1] / "slide.tif") as slide:
        return slide.read(0, 0, size_px=(900, 600), downsample=1)


def test_a_thumbnail_that_lies_on_the_slide_is_a_pass(project, check, slide_pixels):
    thumbnail_of(project, slide_pixels)
    found = check(project)
    assert (found.status, found.name) == ("PASS", "registration of slide.tif")
    assert "markers came back to within 0.001 px" in found.message
    assert "shift 0.0 thumbnail px" in found.message


TURNS = [(mirrored, quarters) for mirrored in (False, True) for quarters in range(4)][1:]


@pytest.mark.parametrize(("mirrored", "quarters"), TURNS)
def test_a_slide_read_in_another_orientation_than_qupaths_fails(project, check, slide_pixels, mirrored, quarters):
    shown = np.rot90(slide_pixels[:, ::-1] if mirrored else slide_pixels, -quarters)
    thumbnail_of(project, shown, size=(450, 300) if quarters % 2 == 0 else (300, 450))
    found = check(project)
    assert found.status == "FAIL"
    assert f"fits the slide {'mirrored ' if mirrored else ''}turned by {90 * quarters} degrees better" in found.message
    assert found.fix


@pytest.mark.parametrize(("down", "across"), [(0, 6), (6, 0), (-5, 5)])
def test_a_shifted_slide_fails_and_says_by_how_much(project, check, slide_pixels, down, across):
    thumbnail_of(project, np.roll(slide_pixels, (down, across), axis=(0, 1)))
    found = check(project)
    assert found.status == "FAIL"
    assert "lies beside the slide" in found.message
    expected = np.hypot(down, across)
    said = float(found.message.split("thumbnail px = ")[1].split(" px")[0])
    assert said == pytest.approx(expected, abs=1)


def test_half_a_thumbnail_pixel_is_no_fault(project, check, slide_pixels):
    thumbnail_of(project, np.roll(slide_pixels, 1, axis=1))
    assert check(project).status == "PASS"


def test_a_project_that_wsplf_made_is_proved_by_the_pixels_of_the_file(tmp_path, project, check, recorder):
    found = check(project)  # without a thumbnail, as the demo makes it
    assert (found.status, found.fix) == ("PASS", "")
    assert "squares of 256 x 256 px are in the slide's file, pixel for pixel, where wsplf reads them" in found.message
    create(tmp_path / "other", [tmp_path / "slide.tif"], CreateOptions(), recorder)
    found = check(tmp_path / "other")
    assert found.status == "PASS"
    assert "wsplf's thumbnail lies on the slide" in found.message


@pytest.mark.parametrize("fault", ["shift", "mirror", "turn"])
def test_a_fault_of_reading_is_found_in_a_project_that_wsplf_made(project, check, monkeypatch, fault):
    read = Slide.read

    def faulty(slide, x_px0, y_px0, *, size_px, downsample):
        shift_px0 = 1 if fault == "shift" else 0
        pixels = read(slide, x_px0 + shift_px0, y_px0, size_px=size_px, downsample=downsample)
        if fault == "turn":
            return pixels[::-1, ::-1]
        return pixels[:, ::-1] if fault == "mirror" else pixels

    monkeypatch.setattr(Slide, "read", faulty)
    found = check(project)
    assert (found.status, "the file has other pixels than wsplf reads at x" in found.message) == ("FAIL", True)
    assert "write no annotations into this entry" in found.fix


def bounded(monkeypatch):
    """Let OpenSlide say that only a part of each slide was scanned, and give the size of that part."""

    class Bounded(openslide.OpenSlide):
        @property
        def properties(self):
            bounds = {"x": "40", "y": "30", "width": "700", "height": "500"}
            return dict(super().properties) | {f"openslide.bounds-{name}": value for name, value in bounds.items()}

    monkeypatch.setattr(openslide, "OpenSlide", Bounded)
    return 700, 500


@pytest.mark.parametrize(("case", "status"), [("cropped", "PASS"), ("not cropped", "PASS"), ("fault", "FAIL")])
def test_the_corner_of_the_scanned_bounds_is_the_origin(tmp_path, check, recorder, monkeypatch, case, status):
    write_pyramid(tmp_path / "bounded.tif", picture(np.random.default_rng(0)), mpp=0.5)
    size = (900, 600) if case == "not cropped" else bounded(monkeypatch)
    image = ProjectImage(tmp_path / "bounded.tif", "bounded.tif", *size, 0.5, [(1.0, *size)])
    path = create_project(tmp_path / "project", [image], classes=[])
    if case == "not cropped":
        bounded(monkeypatch)
        path.write_text(path.read_text(encoding="utf-8").replace('"args": []', '"args": ["--no-crop"]'), "utf-8")
    if case == "fault":
        monkeypatch.setattr("wsplf_cli.slides.properties.bounds", lambda *_: (0, 0, *size))
    assert check(path).status == status


def test_another_slide_in_the_place_of_the_one_that_was_added_is_noticed(tmp_path, check, recorder):
    write_pyramid(tmp_path / "changed.tif", picture(np.random.default_rng(0)), mpp=0.5)
    create(tmp_path / "project", [tmp_path / "changed.tif"], CreateOptions(), recorder)
    write_pyramid(tmp_path / "changed.tif", picture(np.random.default_rng(0))[:, ::-1], mpp=0.5)
    found = check(tmp_path / "project")
    assert (found.status, "wsplf's thumbnail fits the slide mirrored" in found.message) == ("FAIL", True)


def test_a_picture_is_proved_by_its_file_and_not_where_programs_turn_it_differently(tmp_path, check):
    path = tmp_path / "flat.jpg"
    Image.fromarray(picture(np.random.default_rng(0))).save(path, quality=90)
    image = ProjectImage(path, "flat.jpg", 900, 600, 0.5, [(1.0, 900, 600)])
    create_project(tmp_path / "project", [image], classes=[])
    project = tmp_path / "project" / "project.qpproj"
    text = project.read_text(encoding="utf-8").replace("openslide.OpenslideServer", "bioformats.BioFormatsServer")
    project.write_text(text, encoding="utf-8")
    assert check(project).status == "PASS"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(picture(np.random.default_rng(0))).save(path, quality=90, exif=exif)
    found = check(project)
    assert (found.status, "EXIF orientation 6" in found.message) == ("WARN", True)


def test_an_image_that_qupath_derives_is_not_proved_without_qupaths_thumbnail(project, check):
    document = json.loads(project.read_text(encoding="utf-8"))
    inner = document["images"][0]["serverBuilder"]
    turned = {"builderType": "rotated", "builder": inner, "rotation": "ROTATE_90"}
    document["images"][0]["serverBuilder"] = turned
    project.write_text(json.dumps(document), encoding="utf-8")
    found = check(project)
    assert (found.status, "no thumbnail by QuPath: only the file round trip" in found.message) == ("WARN", True)
    assert "Refresh thumbnail" in found.fix


def test_a_slide_without_contrast_proves_nothing(tmp_path, check, recorder):
    write_pyramid(tmp_path / "blank.tif", np.full((600, 900, 3), 240, np.uint8), mpp=0.5)
    create(tmp_path / "project", [tmp_path / "blank.tif"], CreateOptions(), recorder)
    found = check(tmp_path / "project")
    assert (found.status, "no part with contrast" in found.message) == ("WARN", True)


def test_a_blank_thumbnail_and_that_of_another_slide_prove_nothing(project, check):
    thumbnail_of(project, np.full((600, 900, 3), 243, np.uint8))
    assert "blank and proves nothing" in check(project).message
    thumbnail_of(project, picture(np.random.default_rng(1)))
    found = check(project)
    assert (found.status, "does not look like the slide" in found.message) == ("WARN", True)
    (project.parent / "data" / "1" / "thumbnail.jpg").write_bytes(b"no picture")  # as good as none
    assert check(project).status == "PASS"


def test_a_slide_that_looks_the_same_mirrored_is_not_said_to_be_proved(tmp_path, check, recorder):
    pixels = picture(np.random.default_rng(0), symmetric=True)
    write_pyramid(tmp_path / "slide.tif", pixels, mpp=0.5)
    create(tmp_path / "project", [tmp_path / "slide.tif"], CreateOptions(), recorder)
    path = tmp_path / "project" / "project.qpproj"
    thumbnail_of(path, pixels)
    found = check(path)
    assert (found.status, "looks the same mirrored" in found.message) == ("WARN", True)


@pytest.mark.parametrize("rotation", [1, 2, 3])
def test_a_turned_entry_is_proved_in_its_own_orientation(project, check, slide_pixels, rotation):
    document = json.loads(project.read_text(encoding="utf-8"))
    inner = document["images"][0]["serverBuilder"]
    document["images"][0]["serverBuilder"] = {
        "builderType": "rotated",
        "builder": inner,
        "rotation": f"ROTATE_{90 * rotation}",
    }
    project.write_text(json.dumps(document), encoding="utf-8")
    thumbnail_of(project, np.rot90(slide_pixels, -rotation), size=(300, 450) if rotation % 2 else (450, 300))
    assert check(project).status == "PASS"
    thumbnail_of(project, np.rot90(slide_pixels, rotation + 1), size=(450, 300) if rotation % 2 else (300, 450))
    assert check(project).status == "FAIL"


def test_the_project_is_not_written_to(project, check, slide_pixels):
    thumbnail_of(project, slide_pixels)
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in project.parent.rglob("*") if path.is_file()
    }
    check(project)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in project.parent.rglob("*") if path.is_file()}
    assert after == before


def test_a_backend_that_moves_coordinates_is_found_out(project, check, monkeypatch):
    class Moving:
        def __init__(self, inner):
            self._inner = inner

        def replace(self, entry_id, *, origin, annotations):
            moved = [replace(one, shape=affinity.translate(one.shape, 0.5, 0)) for one in annotations]
            return self._inner.replace(entry_id, origin=origin, annotations=moved)

        def __getattr__(self, name):
            return getattr(self._inner, name)

    moving = types.SimpleNamespace(open_project=lambda path, options: Moving(embedded.open_project(path, options)))
    monkeypatch.setattr(registration.plugins, "load", lambda package, name: moving)
    found = check(project)
    assert (found.status, "0.500 px from where they were written" in found.message) == ("FAIL", True)


def test_an_entry_that_cannot_be_written_fails(project, check):
    (project.parent / "data" / "1" / "data.qpdata").write_bytes(b"broken")
    found = check(project)
    assert (found.status, "could not be written and read" in found.message) == ("FAIL", True)
    assert (project.parent / "data" / "1" / "data.qpdata").read_bytes() == b"broken"


def test_an_entry_without_its_slide_is_a_warning(project, check):
    (project.parents[1] / "slide.tif").unlink()
    found = check(project)
    assert (found.status, "only the file round trip" in found.message) == ("WARN", True)


def test_the_command_adds_one_line_for_each_entry(project, slide_pixels, capsys):
    thumbnail_of(project, slide_pixels)
    cli.main(["doctor", str(project), "--registration", "--json"])
    checks = {one["name"]: one["status"] for one in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["registration of slide.tif"] == "PASS"
    cli.main(["doctor", str(project), "--json"])
    assert "registration" not in capsys.readouterr().out
    assert cli.main(["doctor", "--registration"]) == 2


@pytest.mark.shared
@pytest.mark.parametrize("version", ["0.2.3", "0.4.4", "0.6.0"])
@pytest.mark.parametrize("name", ["derived_servers", "three_images", "rois"])
def test_projects_of_qupath_are_proved(shared_data, recorder, version, name):
    project = embedded.open_project(shared_data / "qupath-written" / version / name, ProjectOptions())
    checks = registration.check_registration(project, project.entries(), "embedded", recorder)
    assert [one.status for one in checks] == ["PASS"] * len(project.entries())
