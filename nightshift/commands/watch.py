"""`nightshift watch`: what every training and queued run is doing, in the terminal and as a page."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.console.errors import UserError

if TYPE_CHECKING:
    from rich.console import Group

    from nightshift.commands.watching import View

HELP = "what trains, here and in the queue: epoch, losses, Dice, time left, and what has died"
EXAMPLE = """nightshift watch
nightshift watch --once --html"""
PAGE = Path("reports/watch.html")
STYLES = {"running": "green", "dead": "bold red", "killed": "bold red", "failed": "red", "finished": "dim"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --every, --once and --html."""
    parser.add_argument("--every", type=float, default=5, metavar="SECONDS", help="look again after so long (5)")
    parser.add_argument("--once", action="store_true", help="look once and end")
    parser.add_argument("--html", action="store_true", help=f"also write {PAGE.as_posix()}, which loads itself again")


def main(arguments: argparse.Namespace) -> None:
    """Show everything until Ctrl-C, or once. Raises UserError for a time that is not positive."""
    from rich.console import Console
    from rich.live import Live

    from nightshift.commands import watch_page, watching
    from nightshift.core.io import write_text

    if arguments.every <= 0:
        raise UserError(f"--every {arguments.every:g}: expected seconds, more than 0")

    def look() -> "Group":
        view = watching.view()
        if arguments.html:
            write_text(PAGE, watch_page.page(view, arguments.every))
        return tables(view)

    console, where = Console(), f"the page: {PAGE.absolute().as_uri()}"
    if arguments.once:
        console.print(look())
    else:
        if arguments.html:
            print(where, flush=True)
        with Live(look(), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(arguments.every)
                live.update(look(), refresh=True)
    if arguments.html:
        print(where)


def tables(view: "View") -> "Group":
    """A table of the trainings and one of the queue."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from nightshift.console.progress import hours

    trainings = Table("training", "state", "epoch", "loss", "in validation", "Dice", "best", "left", "run", "device")
    for one in view.trainings:
        running, last = one.running, one.curve[-1] if one.curve else {}
        numbers = [f"{float(last[key]):.3f}" if last else "" for key in ("train_loss", "val_loss", "val_dice")]
        best = f"{one.best:.3f}" if one.best is not None else ""
        left = hours(one.left) if one.left is not None else ""
        cells = [f"{len(one.curve)}/{running.epochs}", *numbers, best, left, running.run or "workspace", running.device]
        state = Text(one.state, STYLES.get(one.state, ""))
        trainings.add_row(Text(one.name), state, *map(Text, cells))
    queue = Table("queue", "state", "arms", "last line")
    for run in view.queue:
        queue.add_row(Text(run.name), Text(run.state, STYLES.get(run.state, "")), Text(run.arms), Text(run.line))
    seen = time.strftime("%H:%M:%S", time.localtime(view.time))
    parts = [trainings] if view.trainings else [Text("no training in the last day")]
    return Group(
        *parts,
        queue if view.queue else Text("no run waits, runs or has failed in the queue"),
        Text(f"at {seen}", "dim"),
    )
