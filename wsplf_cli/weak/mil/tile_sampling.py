"""Which tiles of a slide the MIL training looks at next."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class TileScores:
    """What the classifier last said of the tiles of one slide, and when.

    ``logits`` float32 [N], infinity where it has not looked; ``epochs`` int32 [N], -1 where it has not.
    """

    logits: NDArray[np.float32]
    epochs: NDArray[np.int32]

    def note(self, indices: NDArray[np.integer], logits: NDArray[np.float32], *, epoch: int) -> None:
        """Keep what was seen of some tiles."""
        self.logits[indices] = logits
        self.epochs[indices] = epoch


def unseen(count: int) -> TileScores:
    """The state of a slide of so many tiles before any is looked at."""
    return TileScores(np.full(count, np.inf, np.float32), np.full(count, -1, np.int32))


def choose(seen: NDArray[np.float32], count: int, *, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of ``count`` tiles, all if there are fewer: half the highest last seen logits, half at random.

    Tiles never looked at count as highest (infinity), so that every tile has its turn.
    """
    if len(seen) <= count:
        return np.arange(len(seen))
    order = rng.permutation(len(seen))
    ranked = order[np.argsort(-seen[order], kind="stable")]
    top = ranked[: count // 2]
    rest = rng.choice(ranked[count // 2 :], size=count - len(top), replace=False)
    return np.sort(np.concatenate([top, rest]))


def due(seen: TileScores, count: int, *, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of the ``count`` tiles that were looked at longest ago, all if there are fewer."""
    order = rng.permutation(len(seen.epochs))
    return np.sort(order[np.argsort(seen.epochs[order], kind="stable")][:count])
