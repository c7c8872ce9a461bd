"""What a stage cost: reports/cost/STAGE.json, the only place for seconds, memory, machine and revision."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightshift.core.io import write_json
from nightshift.config.hardware import hardware


@contextmanager
def recorded(stage: str) -> Iterator[dict[str, Any]]:
    """Time the block and write reports/cost/STAGE.json when it ends well; the block may add keys to the dict.

    `seconds_before` among them is the time of earlier processes, killed or stopped, whose work went into the result.
    """
    extra: dict[str, Any] = {}
    start = time.perf_counter()
    yield extra
    record = {
        "stage": stage,
        "seconds": round(time.perf_counter() - start + extra.pop("seconds_before", 0.0), 3),
        "peak_memory_bytes": peak_memory(),
        "peak_device_memory_bytes": peak_device_memory(),
        **extra,
        "threads": hardware().threads,
        "machine": machine(),
        "revision": revision(),
    }
    write_json(Path("reports/cost") / f"{stage}.json", record)


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def peak_device_memory() -> int:
    """Most that torch had of the GPU at a time, in bytes; 0 without one."""
    torch = sys.modules.get("torch")
    return torch.cuda.max_memory_allocated() if torch and torch.cuda.is_available() else 0


def machine() -> dict[str, str]:
    """System, processor and, where torch is already loaded, the GPU."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "none"
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "gpu": gpu,
    }


WRITTEN = (":(exclude)*dvc.lock", ":(exclude)reports")  # by the run itself: no changes that somebody made


def revision() -> str:
    """The git revision of the workspace, with `+` where it has uncommitted changes; `unknown` outside git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()
