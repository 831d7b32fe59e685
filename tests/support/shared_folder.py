"""Where the shared data is: real projects and slides, which do not come with the package."""

import os
from pathlib import Path

SHARED = Path(os.environ.get("WSPLF_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
