"""Progress, curves and errors that name the class."""

import pytest

from wsplf_cli.cohort.class_tracker import ClassTracker, class_in_errors
from wsplf_cli.errors import ProjectError


class Kept:
    """Curves by name."""

    def __init__(self):
        self.names = []

    def curve(self, name, *, x, y):
        self.names.append(name)


@pytest.mark.parametrize(("name", "said", "named"), [("LUAD", "LUAD: hello", "loss, LUAD"), ("", "hello", "loss")])
def test_what_is_said_and_kept_names_the_class_where_there_are_several(recorder, name, said, named):
    curves = Kept()
    tracker = ClassTracker(recorder, curves, name)
    tracker.start("loss", 3)
    tracker.advance(2)
    tracker.say("hello")
    tracker.curve("loss", x=[1], y={"train": [0.5]})
    assert (recorder.said, recorder.started, recorder.steps, curves.names) == ([said], [(named, 3)], 2, [named])


def test_an_error_names_the_class_and_keeps_its_hint():
    for name, message in (("LUAD", "class LUAD: no slide"), ("", "no slide")):
        with pytest.raises(ProjectError) as caught, class_in_errors(name):
            raise ProjectError("no slide", hint="add one")
        assert (caught.value.message, caught.value.hint) == (message, "add one")
