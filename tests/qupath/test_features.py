"""A GeoJSON text gives the same features whether it is loaded whole or read one feature at a time."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import MultiPolygon, box

from wsplf_cli.errors import ProjectError
from wsplf_cli.qupath import features, geojson
from wsplf_cli.schema import Annotation

NUMBERS = st.integers(-1000, 1000) | st.floats(allow_nan=True, width=32)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
RINGS = st.lists(st.tuples(NUMBERS, NUMBERS).map(list), min_size=3, max_size=6).map(lambda ring: [*ring, ring[0]])
GEOMETRIES = st.one_of(
    st.builds(lambda ring: {"type": "Polygon", "coordinates": [ring]}, RINGS),
    st.builds(lambda rings: {"type": "MultiPolygon", "coordinates": [[ring] for ring in rings]}, st.lists(RINGS)),
    st.just({}),
    st.none(),
)
FEATURES = st.builds(
    lambda geometry, properties: {"type": "Feature", "geometry": geometry, "properties": properties},
    GEOMETRIES,
    st.dictionaries(st.sampled_from(["name", "metadata", "measurements", "objectType", "childObjects"]), VALUES),
)
DOCUMENTS = st.one_of(
    st.lists(FEATURES, max_size=3),
    st.lists(st.lists(FEATURES | VALUES, max_size=2), max_size=2),
    FEATURES,
    GEOMETRIES,
    VALUES,
    st.builds(lambda items: {"type": "FeatureCollection", "features": items}, st.lists(FEATURES, max_size=3)),
    st.builds(lambda items: {"features": items, "crs": {"type": "name"}}, st.lists(FEATURES, max_size=3)),
)


def _features(text: str, *, small: bool) -> Any:
    """The features as text (NaN equals NaN), or the error."""
    read = features._loaded if small else features._streamed
    try:
        return json.dumps(list(read(text)))
    except ValueError as error:
        return type(error)


@given(DOCUMENTS, st.booleans())
def test_any_document_gives_the_same_features_loaded_and_streamed(document: Any, indented: bool) -> None:
    text = json.dumps(document, indent=1 if indented else None)
    assert _features(text, small=True) == _features(text, small=False)


@given(st.lists(FEATURES, min_size=1, max_size=2), st.data())
def test_damaged_text_is_refused_loaded_and_streamed(items: list[Any], data: st.DataObject) -> None:
    text = json.dumps({"type": "FeatureCollection", "features": items})
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    assert issubclass(_features(cut, small=True), ValueError)
    assert issubclass(_features(cut, small=False), ValueError)


def test_metadata_that_stands_twice_is_merged_loaded_and_streamed() -> None:
    text = '{"type":"Feature","geometry":null,"properties":{"metadata":{"a":"1"},"metadata":{"b":"2"}}}'
    for small in (True, False):
        (feature,) = json.loads(_features(text, small=small))
        assert feature["properties"]["metadata"] == {"a": "1", "b": "2"}


def test_small_and_large_files_give_the_same_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.geojson"
    shapes = [box(0, 0, 2.123456789, 2), MultiPolygon([box(0, 0, 1, 1), box(3, 3, 4, 4)])]
    values = {"a": float("nan"), "b": 1.5}
    geojson.write(path, [Annotation(uuid4(), shape, "Tumor", measurements=values) for shape in shapes])
    small = geojson.read(path)
    monkeypatch.setattr(features, "SMALL_CHARACTERS", 0)
    assert repr(geojson.read(path)) == repr(small)


@pytest.mark.shared
def test_shared_files_give_the_same_annotations(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(path: Path) -> geojson.Contents | str:
        try:
            return geojson.load(path)
        except ProjectError as error:
            return error.message

    paths = sorted((shared_data / "geojson").glob("*.geojson"))
    small = [load(path) for path in paths]
    assert sum(isinstance(contents, geojson.Contents) for contents in small) > 4
    monkeypatch.setattr(features, "SMALL_CHARACTERS", 0)
    assert repr([load(path) for path in paths]) == repr(small)


@pytest.mark.parametrize(
    ("geometry", "reason"),
    [
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "each linear ring must contain at least 4 positions"),
        ({"type": "MultiPolygon", "coordinates": [[[[0, 0], [1, 1], [1, 0], [0, 1]]]]}, "each linear ring must end"),
        ({"type": "LineString", "coordinates": [[0, 0]]}, "two or more positions"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 0]]]}, ""),
        ({"type": "Circle"}, ""),
        ({"type": "Polygon", "coordinates": "abc"}, ""),
        ({}, ""),
    ],
)
def test_malformation_is_one_line_of_the_library(geometry: dict[str, Any], reason: str) -> None:
    said = features.malformation(geometry)
    assert reason in said
    assert bool(reason) == bool(said)
    assert "\n" not in said
