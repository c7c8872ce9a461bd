"""The comparison's report of folders of predicted masks, whatever made them, paired by the names of their files."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.console.errors import UserError, nearest

if TYPE_CHECKING:
    from nightshift.config.sections import Compare

HELP = "the report of folders of masks, whatever made them, against the truth"
EXAMPLE = "nightshift compare --masks unet=masks/unet --masks lora=masks/lora --truth masks/truth -o reports/folders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nightshift compare`."""
    parser.add_argument(
        "--masks",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="an arm and the folder of its masks; to be given once for each arm",
    )
    parser.add_argument("--truth", type=Path, required=True, metavar="DIR", help="folder of true masks")
    parser.add_argument(
        "--reference", metavar="NAME", help="the arm that the others are measured against, or the first"
    )
    parser.add_argument("--frames", type=Path, metavar="DIR", help="folder of frames, for the report's pictures")
    parser.add_argument("--cases", type=Path, metavar="CSV", help="case_id, patient_id, primary_angle, secondary_angle")
    parser.add_argument("-o", type=Path, metavar="DIR", default=Path("reports/folders"), help="where to write")


def main(arguments: argparse.Namespace) -> None:
    """Measure all masks and write the report to arguments.o. Raises UserError before anything is written."""
    masks = folders(arguments.masks)
    reference = arguments.reference or next(iter(masks))
    if reference not in masks:
        raise UserError(f"--reference {reference}: no --masks of that name; {nearest(reference, masks)}")
    if len(masks) < 2:
        raise UserError("one --masks only: nothing to compare; give --masks NAME=DIR for each arm")
    from nightshift.reporting import compare  # matplotlib and MONAI: seconds
    from nightshift.reporting.about import About
    from nightshift.reporting.mask_folders import read_folders

    arms = read_folders(masks, arguments.truth, arguments.frames, arguments.cases, arguments.o / "pictures")
    where = ", ".join(path.as_posix() for path in masks.values())
    about = About(f"Masks of {where}, truth {arguments.truth.as_posix()}.", [_command(arguments)])
    compare.write(arms, _chosen(reference), about, arguments.o)


def folders(given: list[str]) -> dict[str, Path]:
    """Folder by name of the arm, from NAME=DIR. Raises UserError for a name that is no arm's, or comes twice."""
    from nightshift.config.params import ARM_NAME  # pydantic

    by_name: dict[str, Path] = {}
    for one in given:
        name, sign, folder = one.partition("=")
        if not sign or not folder:
            raise UserError(f"--masks {one}: expected NAME=DIR, as unet=masks/unet")
        if not ARM_NAME.fullmatch(name):
            raise UserError(f"--masks {one}: name '{name}': expected letters, digits, _ and -, which is not the first")
        if name.casefold() in (other.casefold() for other in by_name):
            raise UserError(f"--masks {one}: a second folder of '{name}'; give each a name of its own")
        by_name[name] = Path(folder)
    return by_name


def _chosen(reference: str) -> Compare:
    """Level and margin of params.yaml, where there is one."""
    from nightshift.config import params
    from nightshift.config.sections import Compare

    if params.PARAMS.is_file():
        return params.read().compare.model_copy(update={"reference": reference})
    return Compare(reference=reference, level=0.05, margin=0.01)


def _command(arguments: argparse.Namespace) -> str:
    """The command again, for the report."""
    parts = ["nightshift", "compare"]
    for one in arguments.masks:
        parts += ["--masks", one]
    for name in ("truth", "reference", "frames", "cases"):
        if (value := getattr(arguments, name)) is not None:
            parts += [f"--{name}", str(value)]
    return shlex.join([*parts, "-o", arguments.o.as_posix()])
