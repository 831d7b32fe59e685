"""Writing several files so that a full disk or a crash leaves each of them either old or new."""

import contextlib
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from wsplf_cli.errors import ProjectError
from wsplf_cli.files import replacing


def write_files(contents: Mapping[Path, bytes]) -> None:
    """Write files; all are on disk under temporary names before the first one takes its place, in the order given.

    Raises:
        ProjectError: the disk is full or does not allow it; the files that are not replaced yet are as before.
    """
    made: list[Path] = []
    path = Path()
    try:
        with ExitStack() as stack:
            for path, content in reversed(list(contents.items())):
                if not path.parent.is_dir():
                    path.parent.mkdir(parents=True)
                    made.append(path.parent)
                with stack.enter_context(replacing(path)).open("wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ProjectError(
            f"cannot write {path}: {reason}; what was there is still in place",
            hint="free disk space or check the permissions, then run the command again",
        ) from error
    finally:
        for folder in made:  # only if nothing came to be in it
            with contextlib.suppress(OSError):
                folder.rmdir()
