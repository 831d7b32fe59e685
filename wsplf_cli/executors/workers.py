"""What the loop over slides needs of an executor; ``Workers`` itself does all work in this process."""

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, Self

from wsplf_cli.executors.task import Outcome, SharedWork


class Workers:
    """No worker processes: the loop does the work itself. ``pool`` and ``dask`` add them.

    Use it with ``with`` for all steps of a command. Leaving it after an error stops the workers at once.
    """

    #: The exceptions of a future that mean that the worker died.
    deaths: tuple[type[Exception], ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self.close(at_once=error is not None)

    @property
    def executor(self) -> Executor | None:
        """The executor; None where the work is done in this process."""
        return None

    @property
    def most_in_flight(self) -> int:
        """How many slides may be handed out at a time."""
        return 1

    def share(self, work: SharedWork) -> None:
        """Make the work known to the workers, in place of the work before."""

    def submit(self, number: int, item: Any) -> Future[Outcome[Any]]:
        """Hand out the item of that number."""
        raise NotImplementedError

    def blame(self, number: int, death: BaseException) -> int:
        """How many workers may have died of the item of that number when it ended with ``death``; 0: none."""
        return 1

    def check(self) -> None:
        """See that the workers can still be reached.

        Raises:
            WorkersError: They cannot.
        """

    def require(self, files: Sequence[Path]) -> None:
        """See that every worker can do this work: here, this process made them."""

    def renew(self) -> None:
        """Replace workers that died."""

    def close(self, *, at_once: bool = False) -> None:
        """Let the workers end, or stop them where they are."""


IN_PROCESS = Workers()
