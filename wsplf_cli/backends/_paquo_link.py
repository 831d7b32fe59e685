"""The pipe to the child process that runs QuPath: requests and answers, each a length and a JSON document.

The Java machine runs in a process of its own, so that a crash, a hang or an exit of QuPath does not end wsplf, and so
that importing wsplf never starts Java. The process is started at the first request.
"""

import json
import os
import queue
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from wsplf_cli.errors import MissingDependency, ProjectError, SlideError, WsplfError

#: A JVM starts in seconds; a QuPath on a network drive with a cold cache takes a minute.
START_S = 180.0
#: Reading or saving the largest image takes a minute; an answer that takes this long will not come.
ANSWER_S = 900.0
#: How long the child may take to end after its input was closed.
STOP_S = 5.0

COMMAND = (sys.executable, "-m", "wsplf_cli.backends._paquo_child")
ERRORS: dict[str, type[WsplfError]] = {
    "missing": MissingDependency,
    "project": ProjectError,
    "slide": SlideError,
}

_HEAD = struct.Struct(">Q")


def send(stream: IO[bytes], message: Mapping[str, Any]) -> None:
    """Write one message."""
    content = json.dumps(message, ensure_ascii=False).encode("utf-8", "surrogatepass")
    stream.write(_HEAD.pack(len(content)) + content)
    stream.flush()


def receive(stream: IO[bytes]) -> dict[str, Any] | None:
    """Read one message; None where the other side has ended."""
    head = stream.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    (size,) = _HEAD.unpack(head)
    content = stream.read(size)
    if len(content) < size:
        return None
    message: dict[str, Any] = json.loads(content.decode("utf-8", "surrogatepass"))
    return message


class Link:
    """The child process, to ask requests of. It ends when this is closed or collected, or when Python ends."""

    def __init__(self, *, command: Sequence[str] = COMMAND) -> None:
        """Start the child and wait until QuPath is there; ``qupath`` is then its version.

        Raises:
            MissingDependency: paquo is not installed.
            ProjectError: there is no QuPath, it cannot be started, or it is one that paquo does not know.
        """
        package_home = str(Path(__file__).parents[2])
        paths = [os.environ.get("PYTHONPATH", ""), package_home]  # what the user put there comes first
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=environment
        )
        self._end = weakref.finalize(self, _stop, self._child, self._stderr)
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=_listen, args=(self._child.stdout, self._answers), daemon=True).start()
        self.qupath = str(self._take(START_S, "did not start")["qupath"])

    @property
    def alive(self) -> bool:
        """Whether the child can be asked."""
        return self._end.alive

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The child's answer to a request.

        Raises:
            SlideError: QuPath cannot do this to this entry.
            ProjectError: the child died or does not answer; it is ended then.
        """
        assert self._child.stdin is not None
        try:
            send(self._child.stdin, request)
        except OSError:
            return self._take(STOP_S, "was gone")  # its last answer says more than a broken pipe
        return self._take(ANSWER_S, "gave no answer")

    def close(self) -> None:
        """End the child."""
        self._end()

    def _take(self, seconds: float, failure: str) -> dict[str, Any]:
        try:
            answer = self._answers.get(timeout=seconds)
        except queue.Empty as error:
            self.close()
            raise ProjectError(
                f"QuPath {failure} within {seconds:g} s and was ended; nothing was written",
                hint="try again; if it happens again, use --backend embedded, which needs no QuPath",
            ) from error
        if answer is None:
            message = self._exit_message()
            self.close()
            raise ProjectError(
                f"QuPath's process ended{f': {message}' if message else ''}; nothing was written",
                hint="use --backend embedded, which needs no QuPath",
            )
        if "error" in answer:
            kind = ERRORS[answer["error"]]
            raise kind(answer["message"], hint=answer.get("hint", ""))
        return answer

    def _exit_message(self) -> str:
        """How the child ended: its exit code and the last line of its standard error."""
        try:
            code = self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            return ""
        self._stderr.seek(0)
        all_lines = self._stderr.read().decode("utf-8", "replace").splitlines()
        lines = [line.strip() for line in all_lines if line.strip()]
        crash = [line.removeprefix("# ").strip() for line in lines if "SIG" in line or "EXCEPTION_" in line]
        message = (crash or lines or [""])[-1][:200]
        return f"exit code {code}{f', {message}' if message else ''}"


def _listen(stream: IO[bytes], answers: "queue.Queue[dict[str, Any] | None]") -> None:
    """Put every answer of ``stream`` into ``answers``, ``None`` at its end; then close it."""
    with stream:
        answer: dict[str, Any] | None = {}
        while answer is not None:
            try:
                answer = receive(stream)
            except (OSError, ValueError):  # closed meanwhile, or not our protocol
                answer = None
            answers.put(answer)


def _stop(child: "subprocess.Popen[bytes]", stderr: IO[bytes]) -> None:
    """Let the child end by closing its input; end it where it does not."""
    assert child.stdin is not None
    try:
        child.stdin.close()
    except OSError:
        child.kill()  # the pipe is broken: it is ending already
    try:
        child.wait(STOP_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    stderr.close()
