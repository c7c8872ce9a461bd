"""A bar with the time left, on a terminal; nothing where the output is a log file (stages print their own lines)."""

from collections.abc import Callable, Iterable

from tqdm import tqdm


def bar(label: str, unit: str) -> Callable[[Iterable], Iterable]:
    """Wrap an iterable in a bar: `for case in bar("encode", "case")(cases)`."""
    return lambda items: tqdm(items, desc=label, unit=unit, dynamic_ncols=True, disable=None)


def say(line: str) -> None:
    """Print a line above any bar that is running."""
    tqdm.write(line)
