"""A trained arm alone on pictures, cines (.npy) and DICOM files -> masks and overlays as PNG, at their own size.

MODEL is models/ARM/seed-N; its card says all that is needed, so params.yaml is not read. No stage of the pipeline.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from nightshift.model import card as cards
from nightshift.commands import inputs
from nightshift.console.errors import UserError, run
from nightshift.core.io import write_json
from nightshift.commands.inputs import Frame
from nightshift.console.progress import bar
from nightshift.carm import Angles


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL", help="a trained arm, as models/lora/seed-0")
    parser.add_argument("input", type=Path, metavar="INPUT", nargs="+", help="files, or folders of them")
    parser.add_argument("-o", type=Path, metavar="DIR", required=True, help="where to write; a new folder")
    view = parser.add_mutually_exclusive_group()
    view.add_argument("--angles", nargs=2, metavar=("PRIMARY", "SECONDARY"), help="of all INPUTs, in degrees")
    view.add_argument("--angles-csv", type=Path, metavar="FILE", help=f"with columns {', '.join(inputs.COLUMNS)}")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="the encoder's, where they are no longer there")
    parser.add_argument("--json", action="store_true", help="also write area and confidence to DIR/predictions.json")
    chosen = parser.parse_args(arguments)
    out = chosen.o.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{chosen.o}: is there already; name a new folder with -o, nothing is overwritten")
    card, files = cards.read(chosen.model), inputs.listed(chosen.input)
    given: dict[Path, Angles] = {}
    if chosen.angles:
        given = dict.fromkeys(files, inputs.angles_from(chosen.angles, "--angles"))
    elif chosen.angles_csv:
        given = inputs.angles_in(chosen.angles_csv, files)
    count = sum(1 for _ in bar("read", "frame")(frames(files, given, card)))  # what is wrong ends it before it begins
    settings = cards.settings_of(card, chosen.model, chosen.weights)
    from nightshift.evaluation.evaluate import evaluate as evaluation
    from nightshift.jobs import gpu_lock as leases
    from nightshift.commands import prediction  # torch: seconds, after what was asked is in order
    from nightshift.engine.device import seed_everything

    merge = evaluation.nothing
    if card.arm == "lora":
        from nightshift.arms.lora import merge_adapters as merge
    with leases.leased("predict"):
        seed_everything(0)
        arm = evaluation.open_arm(chosen.model, settings, merge)
        todo = bar("predict", "frame", count)(frames(files, given, card))
        rows = prediction.predict(arm, card.threshold, todo, out)
    if chosen.json:
        write_json(out / "predictions.json", rows)
    print(f"{count} masks of {len(files)} file(s): {chosen.o.as_posix()}")


def frames(files: Sequence[Path], given: dict[Path, Angles], card: cards.Card) -> Iterator[tuple[Path, Frame, Angles]]:
    """Every frame with its view: the given one, else the file's own. Raises UserError where the arm needs one.

    (0, 0) for an arm that does not look at it.
    """
    mode = card.settings.view.mode
    for path in files:
        for frame in inputs.frames_of(path):
            angles = given.get(path, frame.angles) if mode == "film" else (0.0, 0.0)
            if angles is None:
                raise UserError(
                    f"{path}: no view angles, and this arm was trained with them (view.mode: {mode}); "
                    "give them with --angles PRIMARY SECONDARY or --angles-csv FILE"
                )
            yield path, frame, angles


if __name__ == "__main__":
    # from wherever it is called: hardware.yaml, weights by a relative path and hashes are those of this project
    os.environ.setdefault("DVC_ROOT", str(Path(__file__).resolve().parents[1]))
    run(main)
