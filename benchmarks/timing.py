"""Ratios of times: both sides in turn, in one process, because a machine is not equally fast all day."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from nightshift.jobs.resources import machine


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(pairs: int, *actions: Callable[[], object], warm: int = 0) -> list[list[float]]:
    """Seconds of each action, `pairs` times each, one after the other; `warm` rounds before are not counted."""
    rounds = [[seconds(action) for action in actions] for _ in range(warm + pairs)]
    return [list(times) for times in zip(*rounds[warm:], strict=True)]


def ratio(name: str, one: list[float], other: list[float]) -> dict[str, Any]:
    """The median over the pairs of one / other."""
    return row(name, statistics.median(a / b for a, b in zip(one, other, strict=True)), "ratio")


def row(name: str, value: float, unit: str) -> dict[str, Any]:
    gpu = machine()["gpu"]
    device = f"cpu, {torch.get_num_threads()} threads" if gpu == "none" else gpu
    return {"name": name, "value": round(value, 5), "unit": unit, "device": device, "torch": torch.__version__}
