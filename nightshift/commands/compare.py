"""The comparison's report of bundles and trained models on a data set, or of folders of masks, whatever made them."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.console.errors import UserError, nearest

if TYPE_CHECKING:
    from nightshift.config.sections import Compare
    from nightshift.reporting.about import About
    from nightshift.reporting.load import ArmResults

HELP = "the report of bundles or trained models on a data set, or of folders of masks against the truth"
EXAMPLE = """nightshift compare --bundle lora=models/lora/fold-0/seed-0 --data synthetic
nightshift compare --masks unet=masks/unet --masks lora=masks/lora --truth masks/truth -o reports/folders"""
ONLY = {"masks": ("truth", "frames", "cases"), "bundle": ("data",)}  # options that go with no other


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nightshift compare`."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--bundle",
        action="append",
        metavar="NAME=DIR",
        help="an arm and its bundle, or a trained model, as models/lora/fold-0/seed-0; once for each arm",
    )
    what.add_argument(
        "--masks", action="append", metavar="NAME=DIR", help="an arm and the folder of its masks; once for each arm"
    )
    parser.add_argument(
        "--reference", metavar="NAME", help="the arm that the others are measured against, or the first"
    )
    parser.add_argument(
        "--data", metavar="PRESET", help="with --bundle: a data set, as conf/data/PRESET.yaml; else that of params.yaml"
    )
    parser.add_argument("--truth", type=Path, metavar="DIR", help="with --masks: folder of true masks")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="with --masks: folder of frames, for the pictures")
    parser.add_argument(
        "--cases", type=Path, metavar="CSV", help="with --masks: case_id, patient_id, primary_angle, secondary_angle"
    )
    parser.add_argument("-o", type=Path, metavar="DIR", help="where to write; else reports/bundles or reports/folders")


def main(arguments: argparse.Namespace) -> None:
    """Measure all masks and write the report to arguments.o. Raises UserError before a report is written."""
    of_masks = arguments.masks is not None
    kind, other = ("masks", "bundle") if of_masks else ("bundle", "masks")
    if wrong := [name for name in ONLY[other] if getattr(arguments, name) is not None]:
        raise UserError(f"--{wrong[0]} goes with --{other}, not with --{kind}; leave one of them out")
    if of_masks and arguments.truth is None:
        raise UserError("--masks: nothing to measure them against; give the folder of true masks with --truth DIR")
    arguments.o = arguments.o or Path("reports/folders" if of_masks else "reports/bundles")
    given = folders(kind, getattr(arguments, kind))
    reference = arguments.reference or next(iter(given))
    if reference not in given:
        raise UserError(f"--reference {reference}: no --{kind} of that name; {nearest(reference, given)}")
    from nightshift.reporting import compare  # matplotlib and MONAI: seconds

    arms, about = (_masks if of_masks else _bundles)(given, arguments)
    compare.write(arms, _chosen(reference), about, arguments.o)


def _masks(given: Mapping[str, Path], arguments: argparse.Namespace) -> tuple[dict[str, ArmResults], About]:
    """Results of folders of masks, and what the report is about."""
    from nightshift.reporting.about import About
    from nightshift.reporting.mask_folders import read_folders

    arms = read_folders(given, arguments.truth, arguments.frames, arguments.cases, arguments.o / "pictures")
    what = f"Masks of {_places(given)}, truth {arguments.truth.as_posix()}."
    return arms, About(what, [_command(arguments)])


def _bundles(given: Mapping[str, Path], arguments: argparse.Namespace) -> tuple[dict[str, ArmResults], About]:
    """Results of bundles and trained models, and what the report is about."""
    from nightshift.commands import judging
    from nightshift.commands.judged_cases import judged_cases
    from nightshift.engine.device import seed_everything
    from nightshift.jobs import gpu_lock
    from nightshift.reporting.about import About

    models = {name: judging.open_judged(folder) for name, folder in given.items()}
    with judged_cases(models, arguments.data) as judged, gpu_lock.locked("compare"):
        seed_everything(0)
        arms = {
            name: judging.judge(name, one, judged.cases, arguments.o / "evaluation" / name)
            for name, one in models.items()
        }
    for note in judged.notes:
        print(f"warning: {note}")
    return arms, About(f"{judged.what} Models of {_places(given)}.", [_command(arguments)], notes=judged.notes)


def _places(given: Mapping[str, Path]) -> str:
    return ", ".join(path.as_posix() for path in given.values())


def folders(option: str, given: list[str]) -> dict[str, Path]:
    """Folder by name of the arm, from NAME=DIR. Raises UserError for a name that is no arm's, or comes twice.

    Args:
        option: `masks` or `bundle`, for messages.
        given: what came with it.
    """
    from nightshift.config.params import ARM_NAME  # pydantic

    by_name: dict[str, Path] = {}
    for one in given:
        name, sign, folder = one.partition("=")
        if not sign or not folder:
            raise UserError(f"--{option} {one}: expected NAME=DIR, as unet=folder/of/unet")
        if not ARM_NAME.fullmatch(name):
            raise UserError(
                f"--{option} {one}: name '{name}': expected letters, digits, _ and -, which is not the first"
            )
        if name.casefold() in (other.casefold() for other in by_name):
            raise UserError(f"--{option} {one}: a second folder of '{name}'; give each a name of its own")
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
    for kind in ONLY:
        for one in getattr(arguments, kind) or ():
            parts += [f"--{kind}", one]
    for name in ("data", "truth", "reference", "frames", "cases"):
        if (value := getattr(arguments, name)) is not None:
            parts += [f"--{name}", str(value)]
    return shlex.join([*parts, "-o", arguments.o.as_posix()])
