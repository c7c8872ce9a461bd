"""Folders of pictures: a mask for each by its name, and maybe a table of their patients and angles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.carm import view_or_none
from nightshift.console.errors import UserError
from nightshift.ingest.windowing import Window
from nightshift.ingest.images import SUFFIXES, mask_picture, named, picture
from nightshift.ingest.record import Problems, RawCase, checked
from nightshift.ingest.user_table import Row, at, check_width, groups, read_rows, spacing
from nightshift.config.params import Folder

if TYPE_CHECKING:
    import numpy as np

COLUMNS = ("case_id", "patient_id", "primary_angle", "secondary_angle")


def folder_cases(data: Folder, root: Path, problems: Problems) -> list[RawCase]:
    """A case per pair, named by its picture; per row of `cases` where there is that CSV. Paths are relative to `root`.

    What has no partner goes to `problems`. Raises UserError: no such folder, no pictures, no CSV or no case_id in it.
    """
    pairs = _pairs(root / data.images, root / data.masks, data.mask_suffix, problems)
    window = None if data.window == "own" else data.window
    if data.cases is None:
        return [_case(name, pair, window, str(pair[0]), {}) for name, pair in pairs.items()]
    needed = ("case_id", "split") if data.split == "given" else ("case_id",)
    path, cases = root / data.cases, []
    rows = read_rows(path, needed, "table of cases")
    for where, row in rows:
        with problems.kept(), at(where):
            check_width(row)
            if row["case_id"] not in pairs:
                raise UserError(f"case '{row['case_id']}': no picture with a mask is called so in {root / data.images}")
            cases.append(_case(row["case_id"], pairs[row["case_id"]], window, where, row))
    for name in sorted(pairs.keys() - {row["case_id"] for _, row in rows}):
        problems.append(f"{pairs[name][0]}: no row for case '{name}' in {path}; add one, or take the picture away")
    return cases


def _pairs(images: Path, masks: Path, suffix: str, problems: Problems) -> dict[str, tuple[Path, Path]]:
    """Picture and mask by the picture's name, sorted."""
    one = images.resolve() == masks.resolve()
    if one and not suffix:
        raise UserError(f"{images}: images and masks are one folder; set mask_suffix, as _gt for NAME_gt.png")
    frames, wrong = named(images)
    found, more = named(masks)
    problems += wrong if one else [*wrong, *more]
    if not frames:
        raise UserError(f"{images}: no pictures ({', '.join(sorted(SUFFIXES))}) in it")
    if one:
        frames = {name: path for name, path in frames.items() if not name.endswith(suffix)}
    found = {name: path for name, path in found.items() if not one or name.endswith(suffix)}
    wanted = {name: f"{name}{suffix}" for name in frames}
    problems += [f"{frames[n]}: no mask '{m}' for it in {masks}" for n, m in wanted.items() if m not in found]
    problems += [f"{path}: no picture for it in {images}" for n, path in found.items() if n not in wanted.values()]
    return {name: (frames[name], found[mask]) for name, mask in sorted(wanted.items()) if mask in found}


def _case(name: str, pair: tuple[Path, Path], window: Window, where: str, row: Row) -> RawCase:
    """`row`: its cells in the table of cases; empty where there is none."""

    def read() -> tuple[np.ndarray, np.ndarray]:
        image, mask = pair
        with at(where):
            return checked(picture(image, window), mask_picture(mask), mask)

    return RawCase(
        case_id=name,
        patient_id=row.get("patient_id", ""),
        angles=view_or_none(row.get("primary_angle", ""), row.get("secondary_angle", "")),
        split=row.get("split", ""),
        files=pair,
        read=read,
        where=where,
        spacing=spacing(row.get("spacing", "")),
        groups=groups(row, {*COLUMNS, "split", "spacing"}),
    )
