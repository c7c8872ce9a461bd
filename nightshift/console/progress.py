"""Progress bars with the time left, on a terminal only: in a log file the stages print lines of their own."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Wraps an iterable and shows how far its user has come; `iter` does the same and shows nothing."""

    def __call__(self, items: Iterable[T], /) -> Iterable[T]: ...


def bar(label: str, unit: str, total: int | None = None) -> Progress:
    """A function that wraps an iterable in a progress bar: `for case in bar("encode", "case")(cases)`.

    Args:
        label: stands before the bar.
        unit: what is counted, in the singular.
        total: length of the iterable, if it has no `len`.
    """

    def wrap(items: Iterable[T], /) -> Iterable[T]:
        from tqdm import tqdm  # here and below: `inputs`, which always runs, starts without it

        wrapped: Iterable[T] = tqdm(items, desc=label, unit=unit, total=total, dynamic_ncols=True, disable=None)
        return wrapped

    return wrap


@contextmanager
def steps_bar(label: str, total: int, done: int = 0, unit: str = "step") -> Iterator[Callable[[int], object]]:
    """Show a progress bar of `total` steps, and yield a function that adds to the steps that are done.

    Only the first of several processes shows it (`RANK`, as torchrun sets it).

    Args:
        label: stands before the bar.
        total: steps of the whole run.
        done: steps that an earlier process took.
        unit: what a step is, in the singular.
    """
    from tqdm import tqdm

    hidden = None if os.environ.get("RANK", "0") == "0" else True
    with tqdm(total=total, initial=done, desc=label, unit=unit, dynamic_ncols=True, disable=hidden) as steps:
        yield steps.update


def say(line: str) -> None:
    """Print a line above any progress bar that is shown."""
    from tqdm import tqdm

    tqdm.write(line)


def gigabytes(size: float) -> str:
    """A number of bytes in units of 10^9: `2.4 GB`."""
    return f"{size / 1e9:.1f} GB"


def hours(seconds: float) -> str:
    """A duration in hours, minutes or seconds: `1.6 h` above 90 minutes, `12 min` above 90 seconds, `45 s`."""
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
