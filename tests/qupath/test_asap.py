from pathlib import Path

import pytest
from shapely import MultiPolygon, Point, box

from wsplf_cli.errors import ProjectError
from wsplf_cli.qupath import asap

SQUARE = [(0, 0), (10, 0), (10, 10), (0, 10)]


def _annotation(points: list[tuple[float, float]], *, group: str = "_0", kind: str = "Polygon", name: str = "A") -> str:
    inside = "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(points))
    head = f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
    return f"{head}<Coordinates>{inside}</Coordinates></Annotation>"


def _xml(*annotations: str) -> bytes:
    body = "".join(annotations)
    groups = '<AnnotationGroups><Group Name="_0" PartOfGroup="None" Color="#FF0000"/></AnnotationGroups>'
    text = f'<?xml version="1.0"?>\n<ASAP_Annotations><Annotations>{body}</Annotations>{groups}</ASAP_Annotations>'
    return text.encode()


def _square(left: float, top: float, side: float) -> list[tuple[float, float]]:
    return [(left, top), (left + side, top), (left + side, top + side), (left, top + side)]


def test_outlines_points_and_lines_are_read_in_order() -> None:
    file = asap.parse(
        _xml(
            _annotation(SQUARE, group="None", name="first"),
            _annotation(SQUARE, kind="Rectangle"),
            _annotation(SQUARE, kind="Spline"),
            _annotation([(1, 2)], kind="Dot"),
            _annotation([(1, 2), (3, 4)], kind="PointSet"),
            _annotation([(0, 0), (5, 5)], kind="PolyLine"),
            _annotation([(0, 0), (5, 5)], kind="Measurement"),
        ),
        name="a.xml",
    )
    kinds = ["Polygon", "Polygon", "Polygon", "Point", "MultiPoint", "LineString"]
    assert [outline.shape.geom_type for outline in file.outlines] == kinds
    assert (file.outlines[0].name, file.outlines[0].group) == ("first", "")
    assert file.outlines[0].shape.equals(box(0, 0, 10, 10))
    assert file.left_out == {"annotations of type Measurement": 1}
    assert file.groups == ["", "_0"]


def test_points_are_put_in_the_order_of_their_numbers() -> None:
    raw = _xml(_annotation([SQUARE[0], SQUARE[2], SQUARE[1], SQUARE[3]]))
    swapped = raw.replace(b'Order="1"', b'Order="x"').replace(b'Order="2"', b'Order="1"').replace(b'"x"', b'"2"')
    (one,) = asap.parse(swapped, name="a.xml").outlines
    assert list(one.shape.exterior.coords)[:4] == SQUARE


def test_holes_are_cut_out_and_one_part_is_a_polygon() -> None:
    file = asap.parse(
        _xml(
            _annotation(SQUARE),
            _annotation(_square(2, 2, 2), group="_2"),
            _annotation([(4.5, -1), (5.5, -1), (5.5, 11), (4.5, 11)], group="_2"),
            _annotation(_square(100, 100, 5), group="_1"),
        ),
        name="a.xml",
    )
    annotations, left_out = asap.annotations(file, dict(asap.CLASSES))
    assert [annotation.path_class for annotation in annotations] == ["Tumor", "Tumor"]
    assert isinstance(annotations[0].shape, MultiPolygon)
    assert annotations[0].shape.area == pytest.approx(100 - 4 - 10)
    assert annotations[1].shape.geom_type == "Polygon"
    assert left_out == 2
    assert {annotation.origin for annotation in annotations} == {"human"}


def test_an_outline_that_holes_cover_is_left_out() -> None:
    file = asap.parse(_xml(_annotation(SQUARE), _annotation(_square(-1, -1, 20), group="_2")), name="a.xml")
    assert asap.annotations(file, dict(asap.CLASSES)) == ([], 2)


def test_groups_become_classes_are_left_out_or_keep_their_name() -> None:
    file = asap.parse(
        _xml(*(_annotation(SQUARE, group=group) for group in ("a", "b", "c", "None"))),
        name="a.xml",
    )
    annotations, _ = asap.annotations(file, {"a": "Stroma: Positive", "b": ""})
    assert [annotation.path_class for annotation in annotations] == ["Stroma: Positive", "c", None]


def test_coordinates_are_placed_in_the_image_and_ids_stay() -> None:
    file = asap.parse(_xml(_annotation([(1, 2)], kind="Dot"), _annotation(SQUARE), _annotation(SQUARE)), name="a.xml")
    here, _ = asap.annotations(file, {})
    moved, _ = asap.annotations(file, {"_0": "Other"}, transform=lambda xy: xy - [100, 50])
    assert moved[0].shape.equals(Point(-99, -48))
    assert moved[1].shape.equals(box(-100, -50, -90, -40))
    assert [one.id for one in moved] == [one.id for one in here]
    assert len({one.id for one in here}) == 3


def test_an_outline_that_crosses_itself_is_repaired() -> None:
    (one,) = asap.parse(_xml(_annotation([(0, 0), (4, 4), (4, 0), (0, 4)])), name="a.xml").outlines
    assert one.shape.is_valid
    assert one.shape.area == pytest.approx(8)


BOMB = b'<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]><ASAP_Annotations>&c;</ASAP_Annotations>'


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not XML"),
        (b"<a>", "its first element is a"),
        (b"<ASAP_Annotations>", "not XML"),
        (BOMB, "document type"),
        (_xml(_annotation(SQUARE[:2])), r"annotation 0 \('A'\): its polygon has 2 points"),
        (_xml(_annotation(SQUARE), _annotation([])), r"annotation 1 \('A'\): its polygon has 0 points"),
        (_xml(_annotation([], kind="Dot", name="")), "annotation 0: its dot has 0 points"),
        (_xml(_annotation([(0, 0), (1, 1), (2, 2)])), "covers no area"),
        (_xml(_annotation(SQUARE)).replace(b'X="10"', b'X="ten"', 1), "'ten', '0', not two numbers"),
        (_xml(_annotation(SQUARE)).replace(b'X="10"', b'X="nan"', 1), "not two numbers"),
        (_xml(_annotation(SQUARE)).replace(b' X="10"', b"", 1), "not two numbers"),
    ],
)
def test_malformed_file_is_one_clear_line(raw: bytes, reason: str) -> None:
    with pytest.raises(ProjectError, match=f"^a.xml: .*{reason}") as caught:
        asap.parse(raw, name="a.xml")
    assert "\n" not in caught.value.message


def test_missing_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match="cannot be read"):
        asap.read(tmp_path / "gone.xml")


@pytest.mark.shared
def test_camelyon17_file_is_read(shared_data: Path) -> None:
    file = asap.read(shared_data / "asap" / "patient_004_node_4.xml")
    assert file.groups == ["Tumor"]
    assert [round(outline.shape.area) for outline in file.outlines] == [93494, 92491, 66961]
