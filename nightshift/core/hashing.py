"""Content hashes of files. Those of a user's own files are remembered, by path, size and time of the last change."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nightshift.console.errors import UserError
from nightshift.console.progress import Progress
from nightshift.core.io import read_json, write_json
from nightshift.core.project import root

CACHE = Path(".nightshift/hashes.json")  # below root(): ignored by git and DVC, shared with queued runs


def sha256(path: Path) -> str:
    """Hash of a file's bytes, as 64 hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def hash_folder(*paths: Path) -> str:
    """One hash of the names and contents of all files below folders, and of single files' contents."""
    total = hashlib.sha256()
    for top in paths:
        for path in sorted(p for p in (top, *top.rglob("*")) if p.is_file()):
            total.update(f"{path.relative_to(top).as_posix()} {sha256(path)}\n".encode())
    return total.hexdigest()


def hash_files(paths: Iterable[Path], progress: Progress) -> list[dict[str, str | int]]:
    """For each file its `path` (as given, POSIX), `size` in bytes and `sha256`, in the order of `paths`.

    A row has neither time nor absolute path, so that touching or moving a data set changes no row.

    Raises:
        UserError: a file is missing.
    """
    cache_file = root() / CACHE
    known = read_json(cache_file) if cache_file.exists() else {}
    rows: list[dict[str, str | int]] = []
    added = {}
    for path in progress(paths):
        try:
            status = path.stat()
        except OSError:
            raise UserError(f"{path}: named by the data set, but there is no such file") from None
        key, stamp = str(path.absolute()), [status.st_size, status.st_mtime_ns]
        entry = known.get(key)
        if entry is None or entry[:2] != stamp:
            added[key] = entry = [*stamp, sha256(path)]
        name = path.relative_to(root()) if path.is_relative_to(root()) else path  # the same from a queued run
        rows.append({"path": name.as_posix(), "size": status.st_size, "sha256": entry[2]})
    if added:
        kept = {key: entry for key, entry in known.items() if Path(key).exists()}  # drops those of past queued runs
        write_json(cache_file, kept | added)
    return rows
