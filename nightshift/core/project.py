"""Where the project lies on this machine."""

import os
from pathlib import Path


def root() -> Path:
    """The main checkout, also in a queued run, which works in a copy of it that DVC made."""
    return Path(os.environ.get("DVC_ROOT", "."))
