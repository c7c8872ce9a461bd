"""Every experiment of the repository in one table: settings, Dice of both arms, difference, time -> HTML and CSV.

No stage of the pipeline: experiments are git refs, and those are no dependency that DVC could follow.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nightshift.commands import experiments
from nightshift.reporting import render as report
from nightshift.console.errors import UserError, run
from nightshift.commands.experiments import ARMS, Experiment
from nightshift.core.io import write_csv, write_text


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.leaderboard", description=__doc__)
    parser.add_argument("-o", type=Path, default=Path("reports/leaderboard"), metavar="FOLDER", help="where to write")
    folder = parser.parse_args(arguments).o
    found = experiments.load()
    if not found:
        raise UserError("no results and no experiments yet; `dvc repro` or `dvc exp run` makes some")
    settings = experiments.differing(found)
    rows = [record(one) | {key: texts[i] for key, texts in settings.items()} for i, one in enumerate(found)]
    write_csv(folder / "leaderboard.csv", list(rows[0]), rows)
    page = folder / "leaderboard.html"
    write_text(page, report.render("leaderboard.html.j2", {"rows": rows, "settings": list(settings)}))
    print(f"{sum(one.rank is not None for one in found)} of {len(found)} ranked: {page.as_posix()}")


def record(one: Experiment) -> dict[str, Any]:
    """A row of the CSV and of the page, None where there is nothing: Dice from 0 to 1, 95 % intervals, seconds."""
    metrics = one.metrics or {"dice": {}}
    dice, arms = metrics["dice"], metrics.get("arms") or {}
    row = {
        "rank": one.rank,
        "experiment": ", ".join(one.names) or one.revision,
        "why_not_ranked": one.why,
        "delta": dice.get("delta"),
        **interval("delta", dice),
        "p": dice.get("p"),
        "verdict": metrics.get("verdict"),
    }
    for arm in ARMS:
        row |= {arm: dice.get(arm), **interval(arm, arms.get(arm) or {})}
    row |= {f"{arm}_seconds": one.seconds[arm] for arm in ARMS}
    return row | {"patients": metrics.get("patients"), "created": one.created, "revision": one.revision}


def interval(name: str, numbers: dict[str, Any]) -> dict[str, float | None]:
    low, high = numbers.get("ci95") or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


if __name__ == "__main__":
    run(main)
