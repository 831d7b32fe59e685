import signal
import sys
import time

import pytest

from wsplf_cli.cli.interrupts import never_lost


class RaisesWhenFreed:
    def __init__(self, error):
        self.error = error

    def __del__(self):
        raise self.error


@pytest.fixture(autouse=True)
def _python_answers_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a job that a shell's & started
    yield
    signal.signal(signal.SIGINT, before)


def free(error):
    freed = RaisesWhenFreed(error)
    del freed


def ignore_ctrl_c_and_work_on():
    free(KeyboardInterrupt())
    time.sleep(60)


def test_a_ctrl_c_that_python_ignores_comes_again(capsys):
    with pytest.raises(KeyboardInterrupt), never_lost():
        ignore_ctrl_c_and_work_on()
    assert capsys.readouterr().err == ""


def test_another_error_in_a_destructor_is_told_as_before(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: told.append(ignored.exc_type))
    with never_lost():
        free(ValueError())
    assert told == [ValueError]
    free(KeyboardInterrupt())
    assert told == [ValueError, KeyboardInterrupt]
