"""`nightshift predict`: a trained model on pictures, cines (.npy) and DICOM files -> masks and overlays as PNG.

MODEL is models/ARM/fold-F/seed-S, or models/ARM for the mean probability of all its models. Cards say all that is
needed, so params.yaml is not read.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from nightshift.console.errors import UserError

if TYPE_CHECKING:
    from nightshift.carm import Angles
    from nightshift.commands.inputs import Frame
    from nightshift.config.params import ArmSettings
    from nightshift.evaluation.rules import Rule
    from nightshift.model.base import ArmModel
    from nightshift.model.card import Card

HELP = "masks of pictures, cines and DICOM files by a trained model, or by all of an arm"
EXAMPLE = """nightshift predict models/lora/fold-0/seed-0 frames/ -o out --angles "RAO 30" "CRA 20"
nightshift predict models/frozen study/IM0001 -o out --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add MODEL, INPUT and the options."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="folder of a model, as models/lora/fold-0/seed-0, or of an arm, as models/lora: the mean of its models",
    )
    parser.add_argument("input", type=Path, metavar="INPUT", nargs="+", help="files, or folders of them")
    parser.add_argument("-o", dest="out", type=Path, metavar="DIR", required=True, help="where to write; a new folder")
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
    parser.add_argument("--weights", type=Path, metavar="FILE", help="pretrained, where they have been moved")
    parser.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="how masks are made, as reports/evaluation/lora/rules.json; without it by the model's own threshold",
    )
    parser.add_argument("--json", action="store_true", help="also write area and confidence to DIR/predictions.json")


def main(arguments: argparse.Namespace) -> None:
    """Write DIR/masks, DIR/overlays and, with --json, DIR/predictions.json.

    Raises UserError before anything is written: DIR is not empty, no such model, an input that cannot be read or has
    no angles where the model needs them, other weights than those of the training, rules of other models.
    """
    from nightshift.commands import inputs
    from nightshift.console.progress import bar
    from nightshift.model import card as model_card

    out = arguments.out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{arguments.out}: is there already; name a new folder with -o, nothing is overwritten")
    if (project := project_folder()) not in (None, Path.cwd()):
        os.environ.setdefault("DVC_ROOT", str(project))  # of hardware.yaml, and of weights given by a relative path
    cards, files = model_card.read_cards(arguments.model), inputs.list_files(arguments.input)
    card = next(iter(cards.values()))
    given: dict[Path, Angles] = {}
    if arguments.angles:
        given = dict.fromkeys(files, inputs.angles_from(arguments.angles, "--angles"))
    elif arguments.angles_csv:
        given = inputs.angles_by_file(arguments.angles_csv, files)
    count = sum(1 for _ in bar("read", "frame")(frames(files, given, card)))  # a mistake in the last ends it here
    settings = {folder: model_card.settings_of(one, folder, arguments.weights) for folder, one in cards.items()}
    from nightshift.commands import prediction  # torch: seconds, after the command was checked
    from nightshift.core.io import write_json
    from nightshift.engine.device import seed_everything
    from nightshift.jobs import gpu_lock

    rule = _rule(cards, arguments.rules)
    with gpu_lock.locked("predict"):
        seed_everything(0)
        models = [partial(_open, folder, of_model) for folder, of_model in settings.items()]
        progress = bar("predict", "frame", count * len(models))
        predictions = prediction.predict(models, rule, lambda: frames(files, given, card), out, progress)
    if arguments.json:
        write_json(out / "predictions.json", [one.model_dump() for one in predictions])
    of = f", by the mean of {len(cards)} models at the mean of their thresholds" if len(cards) > 1 else ""
    print(f"{count} masks of {len(files)} file(s){of}: {arguments.out.as_posix()}")


def _rule(cards: dict[Path, Card], file: Path | None) -> Rule:
    """How the masks of these models are made: the mean of their thresholds, those of their cards or those in `file`.

    Raises UserError for a file that does not have every model.
    """
    from nightshift.evaluation.rules import Rule, Rules

    if file is None:
        return Rule(mirror=False, threshold=mean(card.threshold for card in cards.values()))
    known, names = Rules.read(file).rules, [f"fold-{card.fold}/seed-{card.seed}" for card in cards.values()]
    if missing := [name for name in names if name not in known]:
        raise UserError(f"{file}: no {missing[0]} in it, only {', '.join(known)}; give that of the models' own arm")
    of_models = [known[name] for name in names]
    lower = [one.low for one in of_models if one.low is not None]  # all have one, or none
    threshold = mean(one.threshold for one in of_models)
    return Rule(mirror=of_models[0].mirror, threshold=threshold, low=mean(lower) if lower else None)


def _open(folder: Path, settings: ArmSettings) -> ArmModel:
    from nightshift.engine.device import device
    from nightshift.model.kinds import kind_of

    model: ArmModel = kind_of(settings).open_model(folder, settings).to(device())
    return model


def project_folder() -> Path | None:
    """The nearest folder with params.yaml and dvc.yaml, from the current one upwards; None where there is none."""
    here = Path.cwd()
    places = (here, *here.parents)
    return next((path for path in places if (path / "params.yaml").is_file() and (path / "dvc.yaml").is_file()), None)


def frames(files: Sequence[Path], given: dict[Path, Angles], card: Card) -> Iterator[tuple[Path, Frame, Angles]]:
    """Every frame of the files with its angles: those in `given`, else the file's own.

    They are (0, 0) for a model that does not use them. Raises UserError where it does and a frame has none.
    """
    from nightshift.commands.inputs import frames_of

    mode = card.settings.view.mode
    for path in files:
        for frame in frames_of(path):
            angles = given.get(path, frame.angles) if mode == "film" else (0.0, 0.0)
            if angles is None:
                raise UserError(
                    f"{path}: no view angles, and this model was trained with them (view.mode: {mode}); "
                    "give them with --angles PRIMARY SECONDARY or --angles-csv FILE"
                )
            yield path, frame, angles
