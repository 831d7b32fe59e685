"""What the builders of an entry say: steps from the slide to the image, sizes, mpp, and what is not supported."""

import copy

import pytest

from wsplf_cli.qupath.servers import builders, describe, files
from wsplf_cli.schema import Step

CALIBRATION = {"pixelWidth": {"value": 0.4, "unit": "µm"}, "pixelHeight": {"value": 0.6, "unit": "µm"}}
SLIDE = {
    "builderType": "uri",
    "uri": "file:/slides/a.svs",
    "args": [],
    "metadata": {"name": "a.svs", "width": 1000, "height": 800, "pixelCalibration": CALIBRATION},
}
CROP = {"x": 100, "y": 50, "width": 300, "height": 200, "z": 0, "t": 0}
TURN = {"m00": 0.0, "m10": 0.5, "m01": -0.5, "m11": 0.0, "m02": 400.0, "m12": 0.0}


def wrapped(*outward, metadata=None):
    """The chain of an entry whose builders are wrapped around the slide's in the order given."""
    builder = copy.deepcopy(SLIDE)
    for one in outward:
        builder = {**one, "builder": builder}
    if metadata is not None:
        builder["metadata"] = metadata
    return builders({"serverBuilder": builder})


@pytest.mark.parametrize(
    ("builder", "step"),
    [
        ({"builderType": "rotated", "rotation": "ROTATE_NONE"}, Step("rotated", (0,))),
        ({"builderType": "rotated", "rotation": "ROTATE_90"}, Step("rotated", (1,))),
        ({"builderType": "rotated", "rotation": "ROTATE_180"}, Step("rotated", (2,))),
        ({"builderType": "rotated", "rotation": "ROTATE_270"}, Step("rotated", (3,))),
        ({"builderType": "flipped", "flip": "NONE"}, Step("flipped", (0, 0))),
        ({"builderType": "flipped", "flip": "HORIZONTAL"}, Step("flipped", (1, 0))),
        ({"builderType": "flipped", "flip": "VERTICAL"}, Step("flipped", (0, 1))),
        ({"builderType": "flipped", "flip": "BOTH"}, Step("flipped", (1, 1))),
        ({"builderType": "cropped", "region": CROP}, Step("cropped", (100, 50, 300, 200))),
        ({"builderType": "affine", "transform": TURN}, Step("affine", (0.0, 0.5, -0.5, 0.0, 400.0, 0.0))),
        ({"builderType": "swapRedBlue", "order": "BRG"}, Step("reordered", (2, 0, 1))),
    ],
    ids=str,
)
def test_each_supported_builder_is_one_step(builder, step):
    server = describe(wrapped(builder))
    assert server.steps == (step,)
    assert (server.trouble, server.uri, server.file_size_px0) == ("", "file:/slides/a.svs", (1000, 800))


def test_a_generated_pyramid_changes_nothing():
    server = describe(wrapped({"builderType": "pyramidize"}))
    assert (server.steps, server.trouble, server.size_px0, server.mpp) == (
        (),
        "",
        (1000, 800),
        pytest.approx(0.24**0.5),
    )


def test_nested_builders_are_steps_from_the_slide_outward():
    chain = wrapped(
        {"builderType": "cropped", "region": CROP},
        {"builderType": "pyramidize"},
        {"builderType": "rotated", "rotation": "ROTATE_90"},
    )
    assert [step.kind for step in describe(chain).steps] == ["cropped", "rotated"]


def test_the_outermost_metadata_gives_size_and_mpp():
    chain = wrapped({"builderType": "cropped", "region": CROP}, metadata={"width": 7, "height": 9, "name": "part"})
    server = describe(chain)
    assert (server.size_px0, server.mpp, server.name) == ((7, 9), None, "part")


def test_a_builder_without_metadata_changes_those_of_the_inner_one():
    turned = describe(wrapped({"builderType": "rotated", "rotation": "ROTATE_270"}))
    assert (turned.size_px0, turned.mpp) == ((800, 1000), pytest.approx(0.24**0.5))
    halved = describe(wrapped({"builderType": "affine", "transform": TURN}))
    assert (halved.size_px0, halved.mpp) == ((400, 500), pytest.approx(2 * 0.24**0.5))


def test_the_sides_of_a_pixel_turn_with_the_image_and_their_product_is_its_area():
    for builder, sides in [
        ({"builderType": "pyramidize"}, (0.4, 0.6)),
        ({"builderType": "rotated", "rotation": "ROTATE_270"}, (0.6, 0.4)),
        ({"builderType": "rotated", "rotation": "ROTATE_180"}, (0.4, 0.6)),
        ({"builderType": "affine", "transform": TURN}, (1.2, 0.8)),
        ({"builderType": "affine", "transform": {**TURN, "m00": 0.5, "m10": 0.0, "m01": 0.0, "m11": 0.25}}, (0.8, 2.4)),
    ]:
        server = describe(wrapped(builder))
        assert server.mpp_xy == pytest.approx(sides)
        assert server.mpp**2 == pytest.approx(sides[0] * sides[1])


def test_an_image_says_how_many_planes_it_has():
    stack = {"width": 9, "height": 9, "sizeZ": 5, "sizeT": 2, "channels": [{"name": "a"}] * 4}
    server = describe(wrapped(metadata=stack))
    assert (server.channels, server.z_slices, server.time_points) == (4, 5, 2)
    plain = describe(wrapped())
    assert (plain.channels, plain.z_slices, plain.time_points) == (3, 1, 1)


@pytest.mark.parametrize(
    "builder",
    [
        *({"builderType": kind} for kind in ("channels", "color", "color_deconvolved", "sparse", "normalized")),
        *({"builderType": kind} for kind in ("typeConvert", "sliced", "z_projected", "from_the_future", None)),
        {"builderType": "z_concatenated", "builders": []},
        {"builderType": "rotated"},
        {"builderType": "rotated", "rotation": ["ROTATE_90"]},
        {"builderType": "flipped", "flip": "DIAGONAL"},
        {"builderType": "cropped", "region": {**CROP, "width": 0}},
        {"builderType": "cropped", "region": {**CROP, "z": 3}},
        {"builderType": "cropped", "region": {**CROP, "x": 10**400}},
        {"builderType": "affine", "transform": {**TURN, "m01": 0.0}},
        {"builderType": "affine", "transform": {**TURN, "m01": float("nan")}},
        {"builderType": "swapRedBlue", "order": "RRR"},
    ],
    ids=str,
)
def test_any_other_builder_says_that_its_pixels_are_not_supported(builder):
    server = describe(wrapped(builder, {"builderType": "rotated", "rotation": "ROTATE_90"}))
    assert f"the pixels of a {builder['builderType']} image are not supported" in server.trouble
    assert "annotations can be read and written" in server.trouble
    assert "\n" not in server.trouble
    assert server.steps == ()


def test_bounds_are_cropped_by_openslide_alone():
    provider = "qupath.lib.images.servers.bioformats.BioFormatsServerBuilder"
    assert describe(wrapped()).crop_to_bounds
    assert not describe([{**SLIDE, "args": ["--no-crop"]}]).crop_to_bounds
    assert not describe([{**SLIDE, "providerClassName": provider, "args": ["--series", "0"]}]).crop_to_bounds


def test_a_later_image_of_a_file_and_an_image_of_a_server_say_so():
    assert "image 3 of its file" in describe([{**SLIDE, "args": ["--series", "3"]}]).trouble
    assert describe([{**SLIDE, "args": ["--series", "0"]}]).trouble == ""
    assert "not a file but https://omero.example/1" in describe([{**SLIDE, "uri": "https://omero.example/1"}]).trouble
    assert "does not say where" in describe([]).trouble


def test_every_builder_that_names_a_file_is_found():
    one, two, three = ({"builderType": "uri", "uri": f"file:/{name}"} for name in "abc")
    builder = {
        "builderType": "channels",
        "metadata": {"uri": "no builder"},
        "builder": {"builderType": "rotated", "builder": one},
        "channels": [{"builder": two}],
        "regions": [{"resolutions": [{"serverBuilder": three}]}],
    }
    assert [found["uri"] for found in files(builder)] == ["file:/a", "file:/b", "file:/c"]
    assert list(files(None)) == []


@pytest.mark.parametrize("value", [None, True, 10**400, float("nan"), "x", [], {}, [1], {"a": 1}], ids=repr)
def test_a_chain_of_any_values_is_described_without_a_crash(value):
    """Every key of a cropped and turned entry's builders in turn has a value that does not belong there."""
    chain = wrapped({"builderType": "cropped", "region": CROP}, {"builderType": "rotated", "rotation": "ROTATE_90"})

    def with_value(record, at=()):
        for key, inside in record.items():
            yield (*at, key)
            if isinstance(inside, dict):
                yield from with_value(inside, (*at, key))

    for place in with_value(chain[0]):
        outermost = copy.deepcopy(chain[0])
        record = outermost
        for key in place[:-1]:
            record = record[key]
        record[place[-1]] = value
        server = describe(builders({"serverBuilder": outermost}))
        assert server.trouble or server.steps
        assert all(isinstance(side, int) for side in server.size_px0)
