"""`nightshift queue`: arms in DVC's queue, while the workspace stays free: start, status, logs, stop, collect.

A thin layer over `dvc exp run --queue` and `dvc queue`, which keep working by themselves.
"""

import argparse

from nightshift.commands.options import add_changes

HELP = "train arms in the background on a copy of the workspace, and take the result"
EXAMPLE = """nightshift queue start frozen -S +arms.frozen.epochs=200
nightshift queue status
nightshift queue collect"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `nightshift queue`."""
    parsers = parser.add_subparsers(dest="action", required=True, metavar="start|status|logs|stop|collect")

    def add(name: str, text: str, example: str) -> argparse.ArgumentParser:
        return parsers.add_parser(name, help=text, description=text, epilog=f"example: nightshift queue {example}")

    start = add("start", "queue arms as they stand now, and start a worker", "start frozen -S +arms.frozen.epochs=200")
    start.add_argument("arms", nargs="*", metavar="ARM", help="of params.yaml; without one the reference")
    add_changes(start)
    add("status", "every run in the queue, and how it is doing", "status")
    logs = add("logs", "what a run has printed", "logs -n 50")
    logs.add_argument("-n", type=int, default=20, metavar="LINES", help="that many of the last lines")
    stop = add("stop", "write a checkpoint and stop; start goes on from there", "stop")
    collect = add("collect", "put the result of a run beside the other arms', and compare", "collect")
    collect.add_argument("--snapshot", action="store_true", help="compare with its result though code has changed")
    for one in (logs, stop, collect):
        one.add_argument("name", nargs="?", help="of the run; the last one without it")


def main(arguments: argparse.Namespace) -> None:
    """Run one action. Raises UserError."""
    from nightshift.commands import queue_actions, queue_runs

    if arguments.action == "start":
        queue_actions.start(arguments.arms, arguments.changes)
    elif arguments.action == "status":
        queue_actions.status()
    elif arguments.action == "logs":
        queue_actions.logs(queue_runs.find(arguments.name), arguments.n)
    elif arguments.action == "stop":
        queue_actions.stop(queue_runs.find(arguments.name))
    else:
        queue_actions.collect(queue_runs.find(arguments.name), snapshot=arguments.snapshot)
