"""Content hashes of source files, computed once per (path, size, time) and remembered in the main checkout."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

from nightshift.console.errors import UserError
from nightshift.core.io import read_json, write_json
from nightshift.config.project import root

CACHE = Path(".nightshift/hashes.json")  # ignored by git and DVC, shared with queued runs through DVC_ROOT


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_folder(*folders: Path) -> str:
    """One hash for the names and contents of all files below `folders`."""
    total = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            total.update(f"{path.relative_to(folder).as_posix()} {sha256(path)}\n".encode())
    return total.hexdigest()


def hash_files(paths: list[Path], progress: Callable[[Iterable], Iterable]) -> list[dict[str, str | int]]:
    """For each file a row of path (as given, POSIX), size in bytes and sha256. Raises UserError for a missing one.

    Neither time nor absolute path is in a row: touching or moving a data set changes nothing.
    """
    cache_file = root() / CACHE
    known = read_json(cache_file) if cache_file.exists() else {}
    rows, fresh = [], {}
    for path in progress(paths):
        try:
            status = path.stat()
        except OSError:
            raise UserError(f"{path}: named by the data set, but there is no such file") from None
        key, stamp = str(path.absolute()), [status.st_size, status.st_mtime_ns]
        entry = known.get(key)
        if entry is None or entry[:2] != stamp:
            fresh[key] = entry = [*stamp, sha256(path)]
        name = path.relative_to(root()) if path.is_relative_to(root()) else path  # the same from a queued run
        rows.append({"path": name.as_posix(), "size": status.st_size, "sha256": entry[2]})
    if fresh:
        there = {key: entry for key, entry in known.items() if Path(key).exists()}  # not those of past queued runs
        write_json(cache_file, there | fresh)
    return rows
