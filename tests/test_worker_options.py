"""Who does the work: one choice, and what is typed is stronger."""

import pytest

from wsplf_cli.errors import ConfigError
from wsplf_cli.worker_options import chosen


def test_what_is_typed_replaces_every_other_choice_of_the_file():
    assert chosen({"cluster": 1, "mpp": 2.0}, {"workers": "4"}) == {"mpp": 2.0}
    assert chosen({"workers": "2", "mpp": 2.0}, {"mpp": 1.0}) == {"workers": "2", "mpp": 2.0}


@pytest.mark.parametrize(
    ("read", "typed", "message"),
    [
        ({}, {"workers": "2", "scheduler": "a:1"}, "--workers and --scheduler exclude each other"),
        ({"workers": "2", "cluster": 1}, {}, "workers and cluster exclude each other"),
    ],
)
def test_two_choices_in_one_place_are_refused(read, typed, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        chosen(read, typed)
