"""The frozen arm against the LoRA arm -> reports/comparison: metrics.json, measures.csv, plots/, report.html and .md.

With --frozen, --lora and --truth: the same report of two folders of masks, whatever made them, paired by name.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from nightshift.reporting import compare as comparison
from nightshift.reporting import render as report
from nightshift.config import params as settings
from nightshift.console.errors import UserError, run
from nightshift.reporting.mask_folders import read_folders
from nightshift.reporting.load import ARMS, read_arm


def main(arguments: Sequence[str] = ()) -> None:
    asked = parse(arguments)
    chosen = settings.read()
    if asked.truth is None:
        arms = {name: read_arm(name) for name in ARMS}
        about, out = report.about_run(chosen, arms), Path("reports/comparison")
    else:
        arms = read_folders(asked.frozen, asked.lora, asked.truth, asked.frames, asked.cases, asked.o / "pictures")
        command = shlex.join(["python", "-m", "stages.compare", *arguments])
        what = f"Masks of {asked.frozen.as_posix()} and {asked.lora.as_posix()}, truth {asked.truth.as_posix()}."
        about, out = report.About(what, [command]), asked.o
    comparison.write(arms, chosen.compare.level, about, out)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.compare", description=__doc__)
    for name in ("frozen", "lora", "truth"):
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", help=f"folder of masks: {name}")
    parser.add_argument("--frames", type=Path, metavar="DIR", help="folder of frames, for the report's pictures")
    parser.add_argument("--cases", type=Path, metavar="CSV", help="case_id, patient_id, primary_angle, secondary_angle")
    parser.add_argument("-o", type=Path, metavar="DIR", default=Path("reports/folders"), help="where to write")
    asked = parser.parse_args(arguments)
    three = [asked.frozen, asked.lora, asked.truth]
    if any([*three, asked.frames, asked.cases]) and not all(three):
        raise UserError("--frozen, --lora and --truth belong together; give all three folders")
    return asked


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
