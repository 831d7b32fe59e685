"""Ctrl-C that is never lost.

Python ignores an exception in a destructor or in the callback of a weak reference, KeyboardInterrupt too: it shows a
traceback and goes on, as if nobody had pressed Ctrl-C.
"""

import _thread
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

#: By then the destructor has ended.
AGAIN_AFTER_S = 0.01


@contextmanager
def never_lost() -> Iterator[None]:
    """A block in which a Ctrl-C that Python ignored comes again a moment later, in the main thread."""
    previous = sys.unraisablehook

    def hook(ignored: "UnraisableHookArgs") -> None:
        if not issubclass(ignored.exc_type, KeyboardInterrupt):
            previous(ignored)
            return
        again = threading.Timer(AGAIN_AFTER_S, _thread.interrupt_main)
        again.daemon = True
        again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous
