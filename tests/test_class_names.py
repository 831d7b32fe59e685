"""Names of classes: which are one class, and which are derived from another."""

import pytest

from wsplf_cli.class_names import class_name, is_a, same_class, spelling_of


@pytest.mark.parametrize(
    "name",
    [
        "Tumor",
        "tumor",
        "TUMOR",
        " Tumor ",
        "Tumor: Necrotic",
        "Tumor:Necrotic",
        "tumor : necrotic : Central",
        "\u00a0Tumor",
    ],
)
def test_a_class_in_any_case_with_any_blanks_and_its_derived_classes_are_the_class(name):
    assert is_a(name, "Tumor")
    assert is_a(name, "tumor ")


@pytest.mark.parametrize("name", ["Tumour", "Tumorous", "Tumor*", "Stroma: Tumor", "", " ", " : ", None])
def test_other_names_are_not_the_class(name):
    assert not is_a(name, "Tumor")


@pytest.mark.parametrize(("name", "base"), [("Tumor", "Tumor: Necrotic"), ("Tumor", ""), ("", ""), (None, None)])
def test_a_base_class_is_not_a_derived_one_and_nothing_is_of_a_blank_class(name, base):
    assert not is_a(name, base)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("Ko\u0308rnig", "K\u00f6rnig"),
        ("K\u00d6RNIG", "ko\u0308rnig"),
        ("Gro\u00df", "GROSS"),
        ("\u0130slet", "i\u0307slet"),
        ("1 \u00b5m", "1 \u03bcm"),
        ("\U0001f9ec", "\U0001f9ec"),
    ],
)
def test_unicode_forms_of_a_name_are_one_class(name, other):
    assert same_class(name, other)
    assert is_a(f"{name}: Deep", other)


def test_a_derived_class_is_not_the_same_class_and_blank_names_are_the_same_no_class():
    assert same_class("Tumor:necrotic", "tumor: Necrotic")
    assert not same_class("Tumor: Necrotic", "Tumor")
    assert same_class(None, " ")
    assert not same_class(None, "Tumor")


def test_a_class_is_spelled_as_it_is_known_and_its_own_spelling_comes_first():
    assert spelling_of("Tumor", ["Stroma", "tumor", "TUMOR"]) == "tumor"
    assert spelling_of("Tumor", ["tumor", "Tumor"]) == "Tumor"
    assert spelling_of("tumor", ["Tumor: Necrotic"]) == "tumor"
    assert spelling_of("Tumor: necrotic", ["Tumor:Necrotic"]) == "Tumor:Necrotic"


def test_a_class_is_named_as_qupath_names_it():
    assert class_name("Tumor:Necrotic") == "Tumor: Necrotic"
    assert class_name("  ") is None
