"""`nightshift export`: a trained model for use where nobody has Nightshift, with what it takes to check it there."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.commands.options import some_of
from nightshift.console.errors import UserError
from nightshift.core.io import replacing

if TYPE_CHECKING:
    from nightshift.config.params import ArmSettings
    from nightshift.evaluation.rules import Rule
    from nightshift.model.card import Card

HELP = "a trained model as ONNX with a check, as torch.export's .pt2, or merged into a file of SAM 3"
EXAMPLE = """nightshift export models/lora/fold-0/seed-0 -o reports/lora-bundle
nightshift export models/lora/fold-0/seed-0 -o reports/lora-bundle --to onnx,float16,pt2,sam3"""
FORMATS = ("onnx", "float16", "pt2", "sam3", "transformers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add MODEL and the options."""
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="folder of one trained model, as models/lora/fold-0/seed-0"
    )
    parser.add_argument("-o", dest="out", type=Path, metavar="DIR", required=True, help="where to write; a new folder")
    parser.add_argument(
        "--to",
        type=some_of(FORMATS, "--to"),
        action="extend",
        metavar="FORMAT",
        help="onnx (the default; a frame of any size and its angles in, a probability map out), float16 (the same with "
        "the encoder in half precision), pt2 (the same for torch.export.load), sam3 (the trained encoder merged into "
        "the file of SAM 3 that it started from), transformers (the same in transformers' layout); several with commas",
    )
    parser.add_argument(
        "--rules",
        type=Path,
        metavar="FILE",
        help="how masks are made; without it as in the project's reports/evaluation, or by the model's own threshold",
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="pretrained weights, where they have been moved")
    parser.add_argument(
        "--with-cases",
        action="store_true",
        help="check by six of your own test cases, whose frames are then in the folder; without it by simulated frames",
    )


def main(arguments: argparse.Namespace) -> None:
    """Write DIR. Raises UserError before that: it is there, no such model, a kind of which nothing was trained."""
    if arguments.out.exists():
        raise UserError(f"{arguments.out}: is there already; name a new folder with -o, nothing is overwritten")
    from nightshift.commands.models import rule_of_models, rules_of_project
    from nightshift.model import card as model_card

    folder, to = arguments.model, arguments.to or ["onnx"]
    if arguments.with_cases and not set(to) & {"onnx", "float16", "pt2"}:
        raise UserError("--with-cases goes with --to onnx, float16 or pt2: a file of SAM 3 is not checked by cases")
    card = model_card.read_card(folder)
    settings = model_card.settings_of(card, folder, arguments.weights)
    if not card.epoch:
        raise UserError(f"{folder}: {_needs_none(settings)}")
    evaluated = rule_of_models({folder: card}, rules_of_project(folder))
    rule = rule_of_models({folder: card}, arguments.rules) if arguments.rules else evaluated
    with replacing(arguments.out) as out:
        out.mkdir(parents=True)
        said = write(arguments, card, settings, rule, rule == evaluated, to, out)
    print("\n".join([*said, f"{', '.join(to)} of {folder.as_posix()}: {arguments.out.as_posix()}"]))


def _needs_none(settings: ArmSettings) -> str:
    """Why there is nothing to export of a kind that is not trained."""
    if settings.arm.kind == "zero_shot":
        return "nothing was trained of it; it is transformers' Sam3Model, with the prompt and the threshold of its card"
    return "needs no export: it is a filter of scikit-image, with the scales in its filter.json"


def write(
    arguments: argparse.Namespace,
    card: Card,
    settings: ArmSettings,
    rule: Rule,
    evaluated: bool,
    to: list[str],
    out: Path,
) -> list[str]:
    """Write all formats and the model card into the folder `out`; sentences on what SAM 3's files hold.

    `evaluated`: whether the project's evaluation made masks by `rule`.
    """
    from nightshift.core.io import write_text
    from nightshift.engine.device import seed_everything
    from nightshift.export import bundle, example_frames, merged, model_card

    seed_everything(0)
    folder, said = arguments.model, []
    for layout in ("sam3", "transformers"):
        if layout in to:
            (out / layout).mkdir()
            said.append(merged.write_merged(folder, layout, out / layout, arguments.weights))
    if set(to) & set(bundle.FORMATS):
        examples = example_frames.of_cases(card) if arguments.with_cases else example_frames.simulated()
        bundle.write_bundle(folder, card, settings, rule, to, examples, out)
    about = model_card.model_card(folder, card, rule, evaluated)
    about.write(out / model_card.JSON)
    write_text(out / model_card.MARKDOWN, model_card.as_markdown(about))
    return said
