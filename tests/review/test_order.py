from dataclasses import dataclass

import numpy as np
import pytest

from wsplf_cli.review.order import ORDERS, at_random, largest_gain, least_certain, spread_over_slides


@dataclass(frozen=True)
class Polygon:
    confidence: float | None
    area_um2: float | None = 100.0
    entry_id: str = "1"


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_the_lowest_confidence_comes_first_and_of_equal_ones_the_largest():
    polygons = [Polygon(0.9), Polygon(0.6, 50.0), Polygon(0.6, 80.0), Polygon(None), Polygon(0.6, None)]
    assert least_certain(polygons) == [3, 2, 1, 4, 0]


def test_the_largest_gain_is_that_of_a_large_doubtful_polygon(rng):
    polygons = [Polygon(0.5, 100.0), Polygon(0.9, 1000.0), Polygon(0.7, 400.0), Polygon(None, 110.0)]
    assert largest_gain(polygons, rng) == [2, 3, 1, 0]


def test_every_slide_has_its_turn_before_a_slide_has_its_second_one(rng):
    polygons = [Polygon(0.5), Polygon(0.51), Polygon(0.9, entry_id="2"), Polygon(0.8, entry_id="3")]
    assert spread_over_slides(polygons, rng) == [0, 3, 2, 1]


def test_a_random_order_has_every_polygon_once_and_comes_from_the_generator():
    polygons = [Polygon(0.5)] * 20
    orders = [at_random(polygons, np.random.default_rng(seed)) for seed in (1, 1, 2)]
    assert sorted(orders[0]) == list(range(20))
    assert orders[0] == orders[1] != orders[2]


def test_every_order_takes_no_polygons(rng):
    assert [order([], rng) for order in ORDERS.values()] == [[], [], [], []]
