"""Resolves the paths in a user's table, which may be written on another system or for a drive that has moved."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from nightshift.console.errors import UserError


def resolved(cell: str, folder: Path, moved: Mapping[str, Path]) -> Path:
    """The file that `cell` names.

    Args:
        cell: with `/` or `\\`, absolute or relative to `folder`.
        folder: that of the table.
        moved: where folders are now, by their names in the table. The longest that the cell begins with counts, whole
            names only; names of Windows match in any case.

    Raises:
        UserError: a Windows drive that this system does not have, a relative path that leaves `folder`.
    """
    if "\0" in cell:
        raise UserError(f"path {cell!r} has a zero byte in it")
    plain = cell.replace("\\", "/")
    for old in sorted(moved, key=len, reverse=True):
        start = old.replace("\\", "/").rstrip("/")
        rest = plain[len(start) :]
        if _key(plain[: len(start)]) == _key(start) and rest[:1] in ("", "/"):
            return moved[old] / rest.lstrip("/")
    if os.name != "nt" and _of_windows(plain, cell):
        raise UserError(f"'{cell}' is on a Windows drive; say where that is now: rewrite, in the data preset")
    return inside(folder, plain)


def inside(folder: Path, cell: str) -> Path:
    """The file that `cell` names, absolute or relative to `folder`. Raises UserError for a relative one outside it."""
    if not Path(cell).is_absolute() and ".." in Path(os.path.normpath(cell)).parts:
        raise UserError(f"{cell} leaves {folder}; give an absolute path if that is meant")
    return folder / cell


def _key(start: str) -> str:
    return start.casefold() if _of_windows(start) else start


def _of_windows(plain: str, cell: str = "") -> bool:
    return bool(re.match(r"[A-Za-z]:", plain)) or plain.startswith("//") or cell.startswith("\\")
