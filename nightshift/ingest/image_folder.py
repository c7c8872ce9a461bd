"""Reads folders of pictures and masks, paired by name, with an optional table of their patients and angles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.carm import view_or_none
from nightshift.config.presets import ImageFolder
from nightshift.console.errors import UserError
from nightshift.ingest.images import SUFFIXES, mask_picture, named, picture
from nightshift.ingest.record import Problems, SourceCase, checked, error_prefix
from nightshift.ingest.user_table import Row, check_width, groups, read_rows, spacing
from nightshift.ingest.windowing import Window, window_of

if TYPE_CHECKING:
    from nightshift.ingest.record import Pixels

COLUMNS = ("case_id", "patient_id", "primary_angle", "secondary_angle")


def folder_cases(data: ImageFolder, root: Path, problems: Problems) -> list[SourceCase]:
    """A case per picture with a mask, named by the picture; per row of the CSV `cases` where the preset has one.

    Args:
        data: the preset.
        root: the folder that the preset's paths are relative to.
        problems: gets a line for each file without its partner and each row with a mistake.

    Raises:
        UserError: no such folder, no pictures in it, no such CSV, no column case_id (or split) in it.
    """
    pairs = _pairs(root / data.images, root / data.masks, data.mask_suffix, problems)
    window = window_of(data.window)
    if data.cases is None:
        return [_case(name, pair, window, str(pair[0]), {}) for name, pair in pairs.items()]
    needed = ("case_id", "split") if data.split == "given" else ("case_id",)
    path, cases = root / data.cases, []
    rows = read_rows(path, needed, "table of cases")
    for where, row in rows:
        with problems.collecting(), error_prefix(where):
            check_width(row)
            if row["case_id"] not in pairs:
                raise UserError(f"case '{row['case_id']}': no picture with a mask is called so in {root / data.images}")
            cases.append(_case(row["case_id"], pairs[row["case_id"]], window, where, row))
    for name in sorted(pairs.keys() - {row["case_id"] for _, row in rows}):
        problems.append(f"{pairs[name][0]}: no row for case '{name}' in {path}; add one, or take the picture away")
    return cases


def _pairs(images: Path, masks: Path, suffix: str, problems: Problems) -> dict[str, tuple[Path, Path]]:
    """Picture and mask by the picture's name, sorted. Both may lie in one folder, masks with `suffix`."""
    same_folder = images.resolve() == masks.resolve()
    if same_folder and not suffix:
        raise UserError(f"{images}: images and masks are one folder; set mask_suffix, as _gt for NAME_gt.png")
    frames, wrong = named(images)
    marked, more = named(masks)
    problems += wrong if same_folder else [*wrong, *more]
    if not frames:
        raise UserError(f"{images}: no pictures ({', '.join(sorted(SUFFIXES))}) in it")
    if same_folder:
        frames = {name: path for name, path in frames.items() if not name.endswith(suffix)}
    marked = {name: path for name, path in marked.items() if not same_folder or name.endswith(suffix)}
    wanted = {name: f"{name}{suffix}" for name in frames}
    problems += [f"{frames[n]}: no mask '{m}' for it in {masks}" for n, m in wanted.items() if m not in marked]
    problems += [f"{path}: no picture for it in {images}" for n, path in marked.items() if n not in wanted.values()]
    return {name: (frames[name], marked[mask]) for name, mask in sorted(wanted.items()) if mask in marked}


def _case(name: str, pair: tuple[Path, Path], window: Window, where: str, row: Row) -> SourceCase:
    """One case; `row`: its cells in the table of cases, empty where there is no table."""

    def read() -> tuple[Pixels, Pixels]:
        image, mask = pair
        with error_prefix(where):
            return checked(picture(image, window), mask_picture(mask), mask)

    return SourceCase(
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
