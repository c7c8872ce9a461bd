"""A bar with the time left, on a terminal; nothing where the output is a log file (stages print their own lines)."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


def bar(label: str, unit: str, total: int | None = None) -> Callable[[Iterable], Iterable]:
    """Wrap an iterable in a bar: `for case in bar("encode", "case")(cases)`; `total` if it has no length."""
    return lambda items: tqdm(items, desc=label, unit=unit, total=total, dynamic_ncols=True, disable=None)


@contextmanager
def steps_bar(label: str, total: int, done: int = 0) -> Iterator[Callable[[int], object]]:
    """A bar of `total` steps of which `done` are done, by the first of several processes; what is yielded adds."""
    hidden = None if os.environ.get("RANK", "0") == "0" else True
    with tqdm(total=total, initial=done, desc=label, unit="step", dynamic_ncols=True, disable=hidden) as steps:
        yield steps.update


def say(line: str) -> None:
    """Print a line above any bar that is running."""
    tqdm.write(line)


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def hours(seconds: float) -> str:
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
