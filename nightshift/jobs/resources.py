"""What a stage took: reports/cost/ARM/STEP.json, the only place for seconds, memory, machine and revision."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nightshift.config.hardware import hardware
from nightshift.core.records import Cost

WRITTEN = (":(exclude)*dvc.lock", ":(exclude)reports")  # by the run itself: no changes that somebody made


@contextmanager
def recorded(arm: str, step: str) -> Iterator[dict[str, float]]:
    """Time the block, and write reports/cost/ARM/STEP.json when it ends without an exception.

    Args:
        arm: name of the arm.
        step: `encode`, `train` or `evaluate`.

    Yields:
        A dictionary to which the block may add the optional fields of `Cost` (`cases`, `seconds_per_epoch`, ...), and
        `seconds_before`: time of earlier processes, killed or stopped, whose work went into the result.
    """
    extra: dict[str, float] = {}
    start = time.perf_counter()
    yield extra
    seconds = time.perf_counter() - start + extra.pop("seconds_before", 0.0)
    values = {
        "stage": f"{step}@{arm}",
        "seconds": round(seconds, 3),
        "peak_memory_bytes": peak_memory(),
        "peak_device_memory_bytes": peak_device_memory(),
        **extra,
        "threads": hardware().threads,
        "machine": machine(),
        "revision": revision(),
    }
    Cost.model_validate(values).write(Path("reports/cost") / arm / f"{step}.json")


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    if sys.platform == "linux":  # getrusage also counts what the process that started this one had, up to then
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def peak_device_memory() -> int:
    """Most that torch had of the GPU at a time, in bytes; 0 without one."""
    torch = sys.modules.get("torch")
    return int(torch.cuda.max_memory_allocated()) if torch and torch.cuda.is_available() else 0


def machine() -> dict[str, str]:
    """System, processor, cores and, where torch is loaded already, the GPU."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else "none"
    return {
        "system": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "gpu": gpu,
    }


def revision() -> str:
    """The git revision of the workspace, with `+` where it has uncommitted changes; `unknown` outside git."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--untracked-files=no", "--", ".", *WRITTEN) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()
