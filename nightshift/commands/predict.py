"""`nightshift predict`: a trained model on pictures, cines (.npy) and DICOM files -> masks as PNG, DICOM-SEG or NIfTI.

MODEL is models/ARM/fold-F/seed-S, models/ARM for the mean probability of all its models, or a bundle. Cards say all
that is needed, so params.yaml is not read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.commands.options import some_of
from nightshift.console.errors import UserError, is_out_of_memory

if TYPE_CHECKING:
    from nightshift.carm import Angles
    from nightshift.commands.models import Models
    from nightshift.commands.prediction import Input
    from nightshift.commands.prediction_record import Predictions

FORMATS = ("png", "dicom-seg", "nifti")
HELP = "masks of pictures, cines and DICOM files by a trained model, or by all of an arm"
EXAMPLE = """nightshift predict models/lora/fold-0/seed-0 frames/ -o out --angles "RAO 30" "CRA 20"
nightshift predict models/frozen studies/ -o out --recursive --on-problem skip --to png,dicom-seg"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, INPUT and the options."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="folder of a model, as models/lora/fold-0/seed-0, of an arm, as models/lora: the mean of its models, or a "
        "bundle that `nightshift export` has written",
    )
    parser.add_argument(
        "input",
        type=Path,
        metavar="INPUT",
        nargs="+",
        help="files, or folders of them, but for names in these that begin with a dot",
    )
    parser.add_argument(
        "-o",
        dest="out",
        type=Path,
        metavar="DIR",
        required=True,
        help="where to write; a new folder, or that of the same command, which goes on where it was stopped",
    )
    parser.add_argument("--recursive", action="store_true", help="look into the folders in a folder, too")
    parser.add_argument(
        "--on-problem",
        choices=("stop", "skip"),
        default="stop",
        help="at a file that cannot be read: write nothing at all (stop), or leave it out and say so (skip)",
    )
    view = parser.add_mutually_exclusive_group()
    view.add_argument(
        "--angles",
        nargs=2,
        metavar=("PRIMARY", "SECONDARY"),
        help='of all INPUTs: degrees as -30 20, or text as "RAO 30" "CRA 20"',
    )
    view.add_argument(
        "--angles-csv", type=Path, metavar="FILE", help="table with columns file, primary_angle, secondary_angle"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="pretrained weights, where they have been moved")
    parser.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="how masks are made, as reports/evaluation/lora/rules.json; without it by the model's own threshold",
    )
    parser.add_argument(
        "--to",
        type=some_of(FORMATS, "--to"),
        action="extend",
        metavar="FORMAT",
        help="png (masks and overlays), dicom-seg, nifti; may be given several times, or as png,nifti",
    )
    parser.add_argument(
        "--identifiers",
        action="store_true",
        help="copy patient, study and descriptions from DICOM headers to DICOM-SEG, and let outputs be named after "
        "them; without it they are left out, but for the UIDs by which a DICOM-SEG refers to its source",
    )
    parser.add_argument(
        "--batch", type=batch_size, default=8, metavar="N", help="frames that the model gets at once; 8 by default"
    )


def batch_size(text: str) -> int:
    """A whole number from 1. Raises UserError for any other text."""
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--batch {text}: expected a whole number from 1")
    return int(text)


def main(arguments: argparse.Namespace) -> None:
    """Write predictions.json into DIR, and a folder for each kind of file (nightshift/commands/mask_files.py).

    Raises UserError before anything is written: DIR is not of this command, no such model, an input that cannot be read
    or has no angles where the model needs them, other weights than those of the training, rules of other models.
    """
    from nightshift.commands import inputs
    from nightshift.commands.prediction_record import Asked, LeftOutFiles, Predictions, check_same, read_begun

    begun, left_out = read_begun(arguments.out), LeftOutFiles(arguments.on_problem == "skip")
    if (project := project_folder()) not in (None, Path.cwd()):
        os.environ.setdefault("DVC_ROOT", str(project))  # of hardware.yaml, and of weights given by a relative path
    files = inputs.list_files(arguments.input, arguments.recursive, arguments.out, left_out)
    given: dict[Path, Angles] = {}
    if arguments.angles:
        given = dict.fromkeys(files, inputs.angles_from(arguments.angles, "--angles"))
    elif arguments.angles_csv:
        given = inputs.angles_by_file(arguments.angles_csv, list(files))
    from nightshift.commands.models import models_of
    from nightshift.commands.prediction import read_inputs  # torch: seconds, after the command was checked

    models = models_of(arguments.model, arguments.weights, arguments.rules)
    to = sorted(set(arguments.to or ["png"]))
    todo = read_inputs(files, given, models.takes_angles, to, arguments.identifiers, left_out)
    rule = models.rule
    record = Predictions(
        asked=Asked(
            models=models.hashes,
            threshold=rule.threshold,
            low=rule.low,
            mirror=rule.mirror,
            to=to,
            identifiers=arguments.identifiers,
            files=[one.asked for one in todo],
        ),
        left_out=left_out,
    )
    if begun is not None:
        check_same(begun.asked, record.asked, arguments.out)
    if begun is None or not begun.finished:
        run(models, todo, record, arguments)
    count = len(models.makers)
    of = f", by the mean of {count} models at the mean of their thresholds" if count > 1 else ""
    without = f", {len(left_out)} left out (see predictions.json)" if left_out else ""
    frames = sum(one.asked.frames for one in todo)
    print(f"{frames} masks of {len(todo)} file(s){of}{without}: {arguments.out.as_posix()}")


def run(models: Models, inputs: Sequence[Input], record: Predictions, arguments: argparse.Namespace) -> None:
    """Predict on the device, one run at a time. Raises UserError where a batch is too large for it."""
    from nightshift.commands.prediction import Run
    from nightshift.console.progress import steps_bar
    from nightshift.engine.device import seed_everything
    from nightshift.jobs import gpu_lock

    one = Run(models, inputs, record, arguments.out.resolve(), arguments.batch)
    with gpu_lock.locked("predict"), steps_bar("predict", *one.steps(), unit="frame") as advance:
        seed_everything(0)
        try:
            one.predict(advance)
        except Exception as error:
            if arguments.batch > 1 and is_out_of_memory(error):
                raise UserError(f"out of memory with --batch {arguments.batch}; give a lower one to go on") from None
            raise


def project_folder() -> Path | None:
    """The nearest folder with params.yaml and dvc.yaml, from the current one upwards; None where there is none."""
    here = Path.cwd()
    places = (here, *here.parents)
    return next((path for path in places if (path / "params.yaml").is_file() and (path / "dvc.yaml").is_file()), None)
