import numpy as np
import pytest
from shapely import Point

from wsplf_cli.synthetic.ink import INKS, Pen, apply_ink, draw_marks, line_and_dots, random_pen, ring

SHAPE = (300, 400)


def test_a_ring_lies_around_the_tumour_and_not_on_it():
    tumour = Point(200, 150).buffer(50)
    cover = ring(np.random.default_rng(0), tumour, SHAPE, mpp=2.0, width_um=40.0)
    rows, columns = np.nonzero(cover > 0.5)
    distance_um = np.hypot(rows - 150, columns - 200) * 2 - 100
    assert distance_um.min() > 5
    assert distance_um.max() < 140
    angles = np.arctan2(rows - 150, columns - 200)
    assert len(np.unique(np.round(angles, 1))) > 60


def test_without_tumour_there_is_no_ring():
    assert not ring(np.random.default_rng(0), Point(), SHAPE, mpp=2.0).any()


def test_a_line_and_dots_cover_a_part_of_the_slide():
    cover = line_and_dots(np.random.default_rng(2), SHAPE, mpp=2.0, dots=3)
    assert cover.shape == SHAPE
    assert cover.dtype == np.float32
    assert cover.max() == 1
    assert 0.002 < (cover > 0.5).mean() < 0.4


@pytest.mark.parametrize("ink", INKS)
def test_every_pen_has_its_colour(ink):
    red, green, blue = random_pen(np.random.default_rng(1), ink).rgb
    strongest = {"black": max(red, green, blue), "blue": blue, "dark blue": blue, "green": green, "red": red}[ink]
    assert strongest == max(red, green, blue)
    assert (strongest < 60) == (ink == "black")


def test_a_pen_at_half_amount_leaves_half_the_density():
    rgb = np.full((200, 200, 3), 255, np.uint8)
    cover = np.ones((200, 200), np.float32)
    apply_ink(np.random.default_rng(0), rgb, cover, Pen((25.5, 255.0, 255.0), amount=0.5), mpp=1.0)
    assert np.log10(255 / rgb[..., 0].mean()) == pytest.approx(0.5, abs=0.08)
    assert (rgb[..., 1:] == 255).all()


def test_paint_hides_what_lies_below_and_clear_ink_does_not():
    below = np.full((50, 50, 3), 255, np.uint8)
    below[:, 25:] = 120
    cover = np.ones((50, 50), np.float32)
    contrasts = []
    for opacity in (0.0, 1.0):
        rgb = below.copy()
        apply_ink(np.random.default_rng(0), rgb, cover, Pen((100.0, 100.0, 100.0), opacity=opacity), mpp=1.0)
        contrasts.append(float(rgb[:, :25].mean() - rgb[:, 25:].mean()))
    assert contrasts[0] > 40
    assert abs(contrasts[1]) < 10


def test_marks_change_only_what_they_cover():
    clean = np.full((*SHAPE, 3), 230, np.uint8)
    rgb = clean.copy()
    cover = draw_marks(np.random.default_rng(0), rgb, Point(200, 150).buffer(40), "red", mpp=2.0)
    assert (rgb[cover == 0] == 230).all()
    assert (rgb[cover > 0.9][:, 1] < 150).all()
