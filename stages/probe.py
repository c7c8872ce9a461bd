"""Why SAM 3's RoPE asserts, for the installed versions and the configured run -> reports/probe.

With arguments, an answer to a question of one's own: nothing is written, and params.yaml plays no part.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nightshift.probe import heatmap as matrix
from nightshift.probe import cases as probing
from nightshift.config import params as settings
from nightshift.probe import summary as verdicts
from nightshift.console.errors import run
from nightshift.core.io import read_json, write_csv, write_json, write_text
from nightshift.backbone.rope import SAM3, grids_of_file
from nightshift.config.params import Encoder
from nightshift.probe.wrappers import ADAPTERS

FOLDER = Path("reports/probe")
FRAME = 512  # pixels: the usual side of an angiogram


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.probe", description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", metavar="PIXELS", help="ask these sizes of full-size SAM 3")
    parser.add_argument("--adapters", nargs="+", choices=ADAPTERS, default=["none"], help="with these adapters")
    parser.add_argument("--wrappers", nargs="+", choices=list(probing.WRAPPERS), default=["none"], help="wrapped so")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="say what the tables in it are made for")
    chosen = parser.parse_args(arguments)
    full = settings.read_preset("encoder", "sam3", Encoder)
    if chosen.weights:
        for grid, blocks in grids_of_file(chosen.weights).items():
            pixels = grid * full.patch_size
            print(f"{chosen.weights}: the tables of {blocks} blocks are for {grid} x {grid} tokens, {pixels} px")
    if chosen.sides:
        rows = probing.asked(full, chosen.sides, chosen.adapters, chosen.wrappers)
        print(verdicts.table(rows))
    if not chosen.weights and not chosen.sides:
        stage(full)
    print(f"tested: {SAM3}")


def stage(full: Encoder) -> None:
    """All cases, and the verdict of each arm -> reports/probe."""
    chosen = settings.read()
    rows = probing.probe_cases(chosen)
    versions = read_json("reports/env.json")
    sizes = verdicts.resolutions(full)
    verdict = {
        "torch": versions["torch"],
        "sam3": versions["sam3"],
        "hypotheses": verdicts.hypotheses(rows),
        "fixes": verdicts.fixes(rows),
        "resolutions": sizes,
        "recommended": {"frame": FRAME, "side": verdicts.recommended(sizes, FRAME)},
    }
    write_csv(FOLDER / "cases.csv", probing.COLUMNS, rows)
    write_json(FOLDER / "verdict.json", verdict)
    write_text(FOLDER / "report.md", verdicts.report(verdict, rows))
    write_text(FOLDER / "matrix.svg", matrix.matrix(rows))
    for arm, row in zip(("frozen", "lora"), rows[-2:], strict=True):
        write_json(FOLDER / f"{arm}.json", verdicts.arm_verdict(row, chosen))
    print(verdicts.table([r for r in rows if r["adapter"] == "none" and r["encoder"] == "sam3"]))
    print("\n".join(verdicts.sentences(verdict, rows)))
    print(f"{len(rows)} cases: {FOLDER.as_posix()}")


if __name__ == "__main__":
    run(main)
