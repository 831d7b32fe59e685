"""Which tiles of a slide the MIL training uses next."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class TileScores:
    """The latest logit of each tile of one slide, and the epoch that it is from.

    ``logits`` float32 [N], infinity for a tile that has none yet; ``epochs`` int32 [N], -1 for such a tile.
    """

    logits: NDArray[np.float32]
    epochs: NDArray[np.int32]

    @classmethod
    def unscored(cls, tiles: int) -> "TileScores":
        """The scores of a slide before any tile was used."""
        return cls(np.full(tiles, np.inf, np.float32), np.full(tiles, -1, np.int32))

    def update(self, indices: NDArray[np.integer], logits: NDArray[np.float32], *, epoch: int) -> None:
        """Keep the logits of some tiles."""
        self.logits[indices] = logits
        self.epochs[indices] = epoch


def sample_hard(logits: NDArray[np.float32], count: int, *, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of ``count`` tiles, all if there are fewer: half with the highest latest logits, half at random.

    Tiles without a logit count as highest (infinity), so that every tile has its turn.
    """
    if len(logits) <= count:
        return np.arange(len(logits))
    order = rng.permutation(len(logits))
    ranked = order[np.argsort(-logits[order], kind="stable")]
    highest = ranked[: count // 2]
    rest = rng.choice(ranked[count // 2 :], size=count - len(highest), replace=False)
    return np.sort(np.concatenate([highest, rest]))


def sample_stalest(scores: TileScores, count: int, *, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of the ``count`` tiles whose logits are oldest, all if there are fewer."""
    order = rng.permutation(len(scores.epochs))
    return np.sort(order[np.argsort(scores.epochs[order], kind="stable")][:count])
