"""`nightshift queue`: arms in the background, on this machine or on a cluster, while the workspace stays free.

On this machine it is a thin layer over `dvc exp run --queue` and `dvc queue`, which keep working by themselves.
"""

import argparse

from nightshift.commands.options import add_changes
from nightshift.console.errors import UserError

HELP = "train arms in the background on a copy of the workspace, here or on a cluster, and take the result"
EXAMPLE = """nightshift queue start frozen -S +arms.frozen.epochs=200
nightshift queue start --sweep arms.lora.rank=4,8 --on slurm
nightshift queue wait
nightshift queue collect"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nightshift queue`."""
    parsers = parser.add_subparsers(
        dest="action", required=True, metavar="start|status|logs|wait|stop|collect|remove|guard"
    )

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return parsers.add_parser(name, help=text, description=text, epilog=f"example: nightshift queue {example}")

    _add_start(add("start", "queue arms as they stand now, and start them", "start frozen -S +arms.frozen.epochs=200"))
    add("status", "every run, and how it is doing", "status")
    logs = add("logs", "what a run has printed", "logs -n 50")
    logs.add_argument("-n", type=int, default=20, metavar="LINES", help="that many of the last lines")
    wait = add("wait", "wait until a run, or all of them, are over; exit status 1 where one is not done", "wait")
    stop = add("stop", "write a checkpoint and stop; start goes on from there", "stop")
    collect = add("collect", "put the result of a run beside the other arms', and compare", "collect")
    remove = add(
        "remove", "take a run that is over off the list; an experiment that it made stays", "remove run-1128-2210"
    )
    remove.add_argument("name", help="of the run")
    collect.add_argument("--snapshot", action="store_true", help="compare with its result though code has changed")
    for one in (logs, stop, collect):
        one.add_argument("name", nargs="?", help="of the run; the last one without it")
    wait.add_argument("name", nargs="?", help="of the run; all of them without it")
    add("guard", "what start and wait leave in the background: start workers, put killed runs back", "guard")


def _add_start(start: argparse.ArgumentParser) -> None:
    start.add_argument("arms", nargs="*", metavar="ARM", help="of params.yaml; without one the reference")
    add_changes(start)
    start.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY=V1,V2",
        help="a run for each value, of all arms and their comparison; several keys: each with each",
    )
    start.add_argument("--on", choices=("slurm", "local"), default="", help="jobs of SLURM, or the same path here")
    start.add_argument(
        "--share", type=int, default=1, metavar="N", help="with --on: jobs that share a run's folds and seeds (1)"
    )
    start.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time on this machine (1)")
    start.add_argument(
        "--restarts", type=int, default=3, metavar="N", help="how often a run that was killed is put back (3)"
    )
    start.add_argument("--notify", default="", metavar="COMMAND", help="run it with NAME STATE LINE when a run is over")


def main(arguments: argparse.Namespace) -> None:
    """Run one action. Raises UserError."""
    from nightshift.commands import guard, queue_actions, queue_runs
    from nightshift.commands.notes import Note

    if arguments.action == "start":
        if min(arguments.workers, arguments.share) < 1 or arguments.restarts < 0:
            raise UserError("--workers and --share take a number from 1, --restarts one from 0")
        if arguments.share > 1 and not arguments.on:
            raise UserError("--share goes with --on slurm or --on local: a run in DVC's queue is one process")
        options = {key: getattr(arguments, key) for key in ("on", "share", "workers", "restarts", "notify")}
        queue_actions.start(arguments.arms, arguments.changes, arguments.sweep, Note(**options))
    elif arguments.action == "status":
        queue_actions.status()
    elif arguments.action == "logs":
        queue_actions.logs(queue_runs.find(arguments.name), arguments.n)
    elif arguments.action == "wait":
        guard.wait(arguments.name)
    elif arguments.action == "stop":
        queue_actions.stop(queue_runs.find(arguments.name))
    elif arguments.action == "remove":
        queue_actions.remove(queue_runs.find(arguments.name))
    elif arguments.action == "collect":
        queue_actions.collect(queue_runs.find(arguments.name), snapshot=arguments.snapshot)
    else:
        guard.guard()
