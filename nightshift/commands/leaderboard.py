"""`nightshift leaderboard`: every experiment in one table, settings, Dice of each arm, difference, time.

No stage of the pipeline: experiments are git refs, and those are no dependency that DVC could follow.
"""

import argparse
from pathlib import Path

from nightshift.console.errors import UserError

HELP = "every experiment in one table, the best one first"
EXAMPLE = """nightshift leaderboard
nightshift leaderboard --mlflow sqlite:///reports/mlflow.db"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nightshift leaderboard`."""
    parser.add_argument("-o", type=Path, default=Path("reports/leaderboard"), metavar="FOLDER", help="where to write")
    parser.add_argument("--history", action="store_true", help="also every commit that has a result")
    parser.add_argument("--mlflow", metavar="URI", help="also make a run of MLflow of each that has none there")


def main(arguments: argparse.Namespace) -> None:
    """Write leaderboard.html and leaderboard.csv. Raises UserError: nothing to show, or as `export` does."""
    import pandas as pd

    from nightshift.commands import experiments, mlflow_export
    from nightshift.commands.experiments_table import arms_of, differing, table
    from nightshift.core.io import write_text
    from nightshift.core.tables import write_table
    from nightshift.reporting.render import render
    from nightshift.reporting.styles import styles, variables

    found = experiments.load(history=arguments.history)
    if not found:
        raise UserError("no results and no experiments yet; `dvc repro` or `dvc exp run` makes some")
    settings, arms = differing(found), arms_of(found)
    frame = pd.concat([table(found, arms), settings], axis=1)
    write_table(arguments.o / "leaderboard.csv", frame)
    page = arguments.o / "leaderboard.html"
    values = {
        "rows": frame.astype(object).where(frame.notna(), None).to_dict("records"),
        "settings": [key for key in settings if not _is_arm(key)],
        "sections": [key for key in settings if _is_arm(key)],
        "styles": list(styles(arms).values()),
        "variables": variables,
    }
    write_text(page, render("leaderboard.html.j2", values))
    print(f"{sum(one.rank is not None for one in found)} of {len(found)} ranked: {page.as_posix()}")
    if arguments.mlflow:
        mlflow_export.export(found, arguments.mlflow)


def _is_arm(key: str) -> bool:
    """Whether a setting is a whole section of `arms`, which is long."""
    return key.startswith("arms.") and key.count(".") == 1
