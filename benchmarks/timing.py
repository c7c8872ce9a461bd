"""Ratios of times: both sides are timed in turn, in one process, as the speed of a machine varies over a day."""

import statistics
import time
from collections.abc import Callable

import torch

from nightshift.jobs.resources import machine

Row = dict[str, str | float | None]  # of reports/benchmark.json; without a value there is a note


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock time of a call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def in_turn(pairs: int, *actions: Callable[[], object], warm: int = 0) -> list[list[float]]:
    """Seconds of each action in each of `pairs` rounds, in which they run one after the other.

    Args:
        pairs: number of rounds.
        actions: what is timed.
        warm: rounds before those, which are not counted.
    """
    rounds = [[seconds(action) for action in actions] for _ in range(warm + pairs)]
    return [list(times) for times in zip(*rounds[warm:], strict=True)]


def ratio(name: str, one: list[float], other: list[float]) -> Row:
    """The median over the pairs of one / other."""
    return row(name, statistics.median(a / b for a, b in zip(one, other, strict=True)), "ratio")


def row(name: str, value: float, unit: str) -> Row:
    """A row of the table, with the device and the version of torch."""
    return {"name": name, "value": round(value, 5), "unit": unit, **_where()}


def noted(name: str, note: str) -> Row:
    """A row that has words instead of a value: a kernel's name, or why there is no value."""
    return {"name": name, "value": None, "unit": "", **_where(), "note": " ".join(note.split())[:200]}


def line(one: Row) -> str:
    """A row as it is printed."""
    value = one.get("note", "") if one["value"] is None else f"{one['value']:10.4f} {one['unit']:6}"
    return f"{one['name']:44} {value} {one['device']}, torch {one['torch']}"


def _where() -> dict[str, str]:
    gpu = machine()["gpu"]
    device = f"cpu, {torch.get_num_threads()} threads" if gpu == "none" else gpu
    return {"device": device, "torch": torch.__version__}
