"""Random numbers and ids of one slide: the same in whatever order, and by whatever worker, slides are worked on."""

import hashlib
from uuid import UUID

import numpy as np


def slide_rng(seed: int, step: str, entry_id: str) -> np.random.Generator:
    """The random generator of a step on a slide. Adding slides to a cohort does not change those of the others.

    Args:
        seed: The seed of the command.
        step: The name of the step.
        entry_id: The entry of the slide.
    """
    return np.random.default_rng([seed, *_digest(step, entry_id)])


def annotation_id(run_id: str, entry_id: str, number: int) -> UUID:
    """The id of the annotation of that number that a run makes of an entry: a random-looking UUID, version 4.

    Run ids are unique, so these ids are as well.
    """
    return UUID(bytes=_digest(run_id, entry_id, str(number))[:16], version=4)


def _digest(*words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode()).digest()
