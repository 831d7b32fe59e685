import pytest

from wsplf_cli.qupath.colours import class_rgb


def test_the_colour_of_the_project_comes_first() -> None:
    assert class_rgb("Tumor", known={"Tumor": (1, 2, 3)}) == (1, 2, 3)
    assert class_rgb("Tumor", known={}) == (200, 0, 0)


@pytest.mark.parametrize(
    ("name", "rgb"),
    [
        ("Tumor: Positive", (200, 50, 50)),
        ("Tumor: 1+", (255, 215, 0)),
        ("Stroma: Positive", (112, 150, 112)),
        ("Stroma: Negative", (187, 250, 187)),
        # drawn by QuPath 0.3.2 itself for names that it does not know
        ("New class", (105, 95, 93)),
    ],
)
def test_other_classes_get_the_colour_that_qupath_would_give_them(name: str, rgb: tuple[int, int, int]) -> None:
    assert class_rgb(name, known={}) == rgb


def test_a_derived_class_follows_the_colour_that_its_base_has_in_the_project() -> None:
    assert class_rgb("Stroma: 2+", known={"Stroma": (100, 50, 255)}) == (60, 30, 153)


def test_a_drawn_colour_is_never_very_dark() -> None:
    assert all(max(class_rgb(f"class {number}", known={})) >= 40 for number in range(300))


def test_a_class_in_another_spelling_has_the_colour_of_the_class_in_the_project() -> None:
    assert class_rgb("tumor", known={"Tumor": (1, 2, 3)}) == (1, 2, 3)
    assert class_rgb("tumor", known={"Tumor": (1, 2, 3), "tumor": (4, 5, 6)}) == (4, 5, 6)
