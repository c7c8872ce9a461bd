"""Atomic writing and reading of files: everything goes to a temporary name first and is renamed when it is complete.

DVC links outputs into the workspace (reflink, hardlink, symlink), so an existing file is never opened for writing: a
write into a link would change the cache behind it.
"""

import csv
import glob
import io
import json
import math
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nightshift.console.errors import UserError


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename what the caller makes there, a file or a folder, to `path`.

    After an exception it is removed, and whatever was at `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    for stale in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):  # left by a process that was killed
        if stale == temporary or not _runs(int(stale.suffixes[-2][1:])):
            remove(stale)
    try:
        yield temporary
        if temporary.is_dir():
            remove(path)  # a folder cannot be renamed onto a folder, nor onto a link to one
        temporary.replace(path)
    finally:
        remove(temporary)


def _runs(process: int) -> bool:
    import psutil  # only where something was killed

    return psutil.pid_exists(process)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        unprotect(path)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def unprotect(folder: Path) -> None:
    """Make all files in a folder writable on Windows, which else would not remove them: DVC's links are read-only."""
    if sys.platform == "win32":
        for path in folder.rglob("*"):
            path.chmod(path.stat().st_mode | stat.S_IWUSR)


def link(source: Path | str, target: Path | str) -> None:
    """Give a file a second name where the disk can do that, else copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8 with `\\n` line ends on every system, so that two machines write the same bytes."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON. Raises ValueError for NaN and infinity, which JSON does not have."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path | str) -> Any:
    """The value in a JSON file that a stage wrote. Raises UserError if it is not there yet."""
    return json.loads(_text(path))


def write_csv(path: Path | str, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    """Write `rows` as CSV with exactly `columns`; floats with six decimals, NaN as an empty cell."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: object) -> object:
    if not isinstance(value, float):
        return value
    return "" if math.isnan(value) else f"{value:.6f}"


def read_csv(path: Path | str) -> list[dict[str, str]]:
    """The rows of a CSV file that a stage wrote, all values as text. Raises UserError if it is not there yet."""
    return list(csv.DictReader(io.StringIO(_text(path), newline="")))


def _text(path: Path | str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file yet; `dvc repro` makes it") from None
