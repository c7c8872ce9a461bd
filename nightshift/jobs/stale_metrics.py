"""Removes the comparison's metrics where they are of another run.

reports/comparison/metrics.json is in git, so a queued run or an experiment starts with that of its base. DVC would show
it as its own if the run never reached `compare`. A file that is gone is shown as missing, and `compare` makes it again.
"""

import hashlib
from pathlib import Path

from nightshift.config.resolved import FOLDER
from nightshift.config.yaml_io import parse

METRICS = Path("reports/comparison/metrics.json")
SETTINGS = FOLDER / "compare.json"


def remove_metrics() -> None:
    """Remove METRICS: an arm is evaluated anew, so they are of other models."""
    METRICS.unlink(missing_ok=True)


def remove_stale_metrics() -> None:
    """Remove METRICS if dvc.lock says that they were made with other settings than those in reports/settings."""
    lock = Path("dvc.lock")
    stages = (parse(lock.read_text(encoding="utf-8")) or {}).get("stages", {}) if lock.is_file() else {}
    recorded = {dep["path"]: dep.get("md5") for dep in stages.get("compare", {}).get("deps", [])}
    present = hashlib.md5(SETTINGS.read_bytes(), usedforsecurity=False).hexdigest()  # as DVC hashes a file
    if recorded.get(SETTINGS.as_posix()) != present:
        remove_metrics()
