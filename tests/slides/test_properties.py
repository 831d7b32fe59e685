"""The pixel size of a slide: OME-XML, the vendor's, the TIFF resolution, and what is none of them."""

import numpy as np
import pytest
import tifffile

from wsplf_cli.slides.ome import ome_images, ome_mpp_xy
from wsplf_cli.slides.open import open_slide

SIZE = (320, 256)
PIXELS = np.full((SIZE[1], SIZE[0], 3), 200, np.uint8)
NAMESPACE = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'


def ome_xml(*pixels, namespace=NAMESPACE):
    images = "".join(f'<Image ID="Image:{index}">{one}</Image>' for index, one in enumerate(pixels))
    return f'<?xml version="1.0" encoding="UTF-8"?><OME {namespace}>{images}</OME>'


def pixels_element(sizes="", *, size=SIZE, inside='<TiffData IFD="0"/>'):
    return f'<Pixels SizeX="{size[0]}" SizeY="{size[1]}" SizeC="3" {sizes}>{inside}</Pixels>'


def mpp_of(path, description, **fields):
    tifffile.imwrite(
        path, PIXELS, tile=(128, 128), photometric="rgb", metadata=None, description=description.encode(), **fields
    )
    with open_slide(path) as slide:
        return slide.mpp_xy, slide.mpp_source


@pytest.mark.parametrize(
    ("unit", "x", "y"),
    [
        ("µm", "0.25", "0.5"),
        ("μm", "0.25", "0.5"),
        ("um", "0.25", "5e-1"),
        ("nm", "250", "500"),
        ("pm", "250000", "500000"),
        ("Å", "2500", "5000"),
        ("mm", "0.00025", "0.0005"),
        ("cm", "2.5E-5", "5E-5"),
        ("m", "2.5e-7", "5e-7"),
        ("in", "9.84251968503937e-06", "1.968503937007874e-05"),
        ("inch", "9.84251968503937e-06", "1.968503937007874e-05"),
        (None, "0.25", "0.5"),
    ],
)
def test_the_pixel_size_in_ome_xml_is_read_in_any_unit_of_length(tmp_path, unit, x, y):
    units = "" if unit is None else f'PhysicalSizeXUnit="{unit}" PhysicalSizeYUnit="{unit}"'
    description = ome_xml(pixels_element(f'PhysicalSizeX="{x}" PhysicalSizeY="{y}" {units}'))
    mpp_xy, source = mpp_of(tmp_path / "slide.ome.tif", description)
    assert mpp_xy == pytest.approx((0.25, 0.5))
    assert source == "OME-XML"


def test_each_side_has_its_own_unit(tmp_path):
    sizes = 'PhysicalSizeX="500" PhysicalSizeXUnit="nm" PhysicalSizeY="0.4" PhysicalSizeYUnit="µm"'
    assert mpp_of(tmp_path / "slide.tif", ome_xml(pixels_element(sizes)))[0] == pytest.approx((0.5, 0.4))


def test_what_tifffile_writes_is_read(tmp_path):
    path = tmp_path / "slide.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm"}
    metadata |= {"PhysicalSizeY": 250, "PhysicalSizeYUnit": "nm"}
    tifffile.imwrite(path, PIXELS, tile=(128, 128), photometric="rgb", ome=True, metadata=metadata)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx(0.25)


@pytest.mark.parametrize("namespace", ["", 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2012-06"'])
def test_any_version_of_the_schema_is_read(namespace):
    sizes = 'PhysicalSizeX="0.3" PhysicalSizeY="0.3"'
    assert ome_mpp_xy(ome_xml(pixels_element(sizes), namespace=namespace), SIZE)[0] == (0.3, 0.3)


def test_of_several_images_the_one_that_is_read_counts(tmp_path):
    label = pixels_element('PhysicalSizeX="9" PhysicalSizeY="9"', size=(40, 30), inside='<TiffData IFD="1"/>')
    same_size = pixels_element('PhysicalSizeX="8" PhysicalSizeY="8"', inside='<TiffData IFD="2"/>')
    slide = pixels_element('PhysicalSizeX="0.5" PhysicalSizeY="0.5"')
    assert mpp_of(tmp_path / "slide.tif", ome_xml(label, same_size, slide))[0] == (0.5, 0.5)


def test_images_that_cannot_be_told_apart_give_no_pixel_size():
    first, second = (pixels_element(f'PhysicalSizeX="{mpp}" PhysicalSizeY="{mpp}"') for mpp in (0.5, 0.25))
    assert ome_mpp_xy(ome_xml(first, first), SIZE)[0] == (0.5, 0.5)
    assert ome_mpp_xy(ome_xml(first, second), SIZE) == (
        None,
        "its OME-XML gives several pixel sizes for images of this size",
    )


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ('PhysicalSizeX="0.5"', "gives only PhysicalSizeX"),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="pixel" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"', "1 pixel"),
        ('PhysicalSizeX="1" PhysicalSizeXUnit="reference frame" PhysicalSizeY="1"', "reference frame"),
        ('PhysicalSizeX="nan" PhysicalSizeY="nan"', "nan µm, which is no length"),
        ('PhysicalSizeX="0" PhysicalSizeY="0"', "0 µm, which is no length"),
        ('PhysicalSizeX="350" PhysicalSizeY="350"', "OME-XML says 350, which is not that of a microscope"),
        ("", "not in the slide"),
    ],
)
def test_what_is_no_pixel_size_is_not_taken_for_one(tmp_path, sizes, reason):
    mpp_xy, source = mpp_of(tmp_path / "slide.tif", ome_xml(pixels_element(sizes)))
    assert mpp_xy is None
    assert reason in source


def test_an_image_of_another_size_is_not_this_one(tmp_path):
    other = ome_xml(pixels_element('PhysicalSizeX="0.5" PhysicalSizeY="0.5"', size=(640, 512)))
    assert mpp_of(tmp_path / "slide.tif", other) == (None, "its OME-XML describes no image of this size")


@pytest.mark.parametrize("text", ["", "OME", "<OME", "<html/>", "<!DOCTYPE x [<!ENTITY a 'b'>]><OME>&a;</OME>"])
def test_text_that_is_no_ome_xml_describes_nothing(text):
    assert ome_images(text) == []


def test_ome_xml_comes_before_the_resolution_and_that_where_it_says_nothing(tmp_path):
    tags = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    with_size = ome_xml(pixels_element('PhysicalSizeX="0.25" PhysicalSizeY="0.25"'))
    assert mpp_of(tmp_path / "both.tif", with_size, **tags) == ((0.25, 0.25), "OME-XML")
    mpp_xy, source = mpp_of(tmp_path / "resolution.tif", ome_xml(pixels_element()), **tags)
    assert (mpp_xy, source) == (pytest.approx((0.5, 0.5)), "TIFF resolution")
    screen = {"resolution": (72, 72), "resolutionunit": "INCH"}
    assert mpp_of(tmp_path / "screen.tif", with_size, **screen) == ((0.25, 0.25), "OME-XML")
