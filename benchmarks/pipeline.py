"""What `dvc repro` costs when there is nothing to do."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.timing import Row, in_turn, ratio, row


def rows() -> Iterator[Row]:
    """Three no-op `dvc repro` and three `dvc status` in turn, after one `dvc repro` that may have something to do."""
    repro, status = (lambda command=command: _dvc(command) for command in ("repro", "status"))
    repro()
    ours, theirs = in_turn(3, repro, status, warm=1)
    yield row("repro_noop_seconds", statistics.median(ours), "s")
    yield ratio("repro_noop_over_dvc_status", ours, theirs)


def _dvc(command: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", command], check=True, stdout=subprocess.DEVNULL)
