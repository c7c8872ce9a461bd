"""`nightshift curve`: Dice against the number of training patients, and from which number on an arm pays.

No stage of the pipeline: each number is an experiment of its own, as those of the leaderboard.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.commands.options import add_changes
from nightshift.console.errors import UserError

if TYPE_CHECKING:
    from nightshift.commands.curve_runs import Curve, Run

HELP = "Dice against the number of training patients, and from which number on an arm pays"
EXAMPLE = """nightshift curve -S train.patients=8,16,32,64,all
nightshift curve"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nightshift curve`."""
    add_changes(parser)
    parser.add_argument(
        "-o", type=Path, default=Path("reports/learning-curve"), metavar="FOLDER", help="where to write"
    )


def main(arguments: argparse.Namespace) -> None:
    """Queue the numbers of train.patients that are missing, and draw what is there.

    Raises UserError where there is nothing to draw and nothing on its way.
    """
    from nightshift.commands.curve_runs import KEY, ON_THEIR_WAY, Curve

    numbers, changes = split(arguments.changes)
    curve = Curve(changes)
    runs = curve.runs()
    queued = curve.queue(numbers, runs) if numbers else []
    waiting = [*queued, *(run.patients for run in runs.values() if run.state in ON_THEIR_WAY)]
    done = [run for run in runs.values() if run.state == "done"]
    if queued:
        print(f"queued: {KEY} {', '.join(queued)}; see `nightshift queue status`")
    if done:
        draw(curve, done, arguments.o)
    if waiting:
        print(f"still to come: {', '.join(waiting)}; draw them when they are done: nightshift curve")
    elif not done:
        raise UserError(f"no run of these settings yet; nightshift curve -S {KEY}=8,16,32,64,all makes some")


def draw(curve: Curve, done: Sequence[Run], folder: Path) -> None:
    """Write the page and the table of the runs that are done. Raises UserError where they are not comparable."""
    import pandas as pd

    from nightshift.reporting import learning_curve_page
    from nightshift.reporting.learning_curve import learning_curves
    from nightshift.reporting.text import of_random_weights

    settings = curve.settings
    tables = [curve.cases(run) for run in done]
    curves = learning_curves(pd.concat(tables), settings.compare.reference, settings.compare.level)
    shown = {int(table["patients"].iloc[0]): run.name for table, run in zip(tables, done, strict=True)}
    weights = {name: settings.arm(name).weights for name in settings.arms}
    random = [name for name, one in weights.items() if one is not None and one.given == "random"]
    notes = [of_random_weights(random, len(weights))] if random else []
    for sentence in learning_curve_page.write(curves, shown, notes, folder):
        print(sentence)
    numbers = ", ".join(map(str, curves.numbers))
    print(f"{numbers} training patients: {(folder / 'learning-curve.html').as_posix()}")


def split(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The numbers that a change of train.patients lists, and the other changes.

    Raises UserError for a list with a gap.
    """
    mine = [change.partition("=")[2] for change in given if change.startswith("train.patients=")]
    numbers = [number.strip() for text in mine for number in text.split(",")]
    if not all(numbers):
        raise UserError(f"-S train.patients={','.join(mine)}: expected numbers, and all, with commas between them")
    return list(dict.fromkeys(numbers)), [change for change in given if not change.startswith("train.patients=")]
