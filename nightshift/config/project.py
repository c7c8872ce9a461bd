"""Where the project lies: the main checkout, also from within a queued run."""

import os
from pathlib import Path


def root() -> Path:
    """The main checkout, also from within a queued run, which DVC gives a copy of the workspace."""
    return Path(os.environ.get("DVC_ROOT", "."))
