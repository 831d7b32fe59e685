"""One file is one prompt strategy: ``build() -> (cam, rng) -> list[Prompt]``; arrays only, no torch.

``cam`` is float32 [h, w] in 0..1, calibrated: from ``FOREGROUND`` on it is foreground, up to ``BACKGROUND`` it is
safely not. Prompts are in pixels of the CAM, the centre of the pixel [r, c] being (c + 0.5, r + 0.5); a CAM without
foreground gives an empty list.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsplf_cli.schema import Prompt

FOREGROUND = 0.5
BACKGROUND = 0.25

Strategy = Callable[[NDArray[np.float32], np.random.Generator], list[Prompt]]
