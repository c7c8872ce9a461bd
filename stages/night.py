"""The frozen arm overnight, while the workspace stays free: start, status, logs, stop, and in the morning collect.

A thin layer over `dvc exp run --queue` and `dvc queue`, which keep working by themselves.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import psutil

from nightshift.commands import collect as morning
from nightshift.commands import queue as night
from nightshift.config import params as settings
from nightshift.console.errors import UserError, run
from nightshift.console.progress import bar, gigabytes, hours
from nightshift.config.params import Settings


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.night", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    begin = verbs.add_parser("start", help="queue the frozen arm as it stands now, and start a worker")
    begin.add_argument("-S", action="append", default=[], metavar="KEY=VALUE", help="with this setting changed")
    verbs.add_parser("status", help="every night run, and how it is doing")
    read, end, take = (
        verbs.add_parser(verb, help=text)
        for verb, text in (
            ("logs", "what a night run has printed"),
            ("stop", "write a checkpoint and stop; start goes on from there"),
            ("collect", "put the night's result beside the LoRA arm's, and compare"),
        )
    )
    for verb in (read, end, take):
        verb.add_argument("name", nargs="?", help="of the night run; the last one without it")
    read.add_argument("-n", type=int, default=20, metavar="LINES", help="that many of the last lines")
    take.add_argument("--snapshot", action="store_true", help="compare with the night's result though code has changed")
    chosen = parser.parse_args(arguments)
    {"start": start, "status": status, "logs": logs, "stop": stop, "collect": collect}[chosen.verb](chosen)


def start(chosen: argparse.Namespace) -> None:
    changed = settings.read(chosen.S)
    if unknown := night.untracked():
        raise UserError(f"a queued run does not see what git does not know: `git add {' '.join(unknown[:5])}` first")
    said = forecast(changed)
    name = f"{night.PREFIX}{datetime.now():%m%d-%H%M%S}"
    morning.remember(name, chosen.S)
    night.queue(name, chosen.S)
    print(f"{name}: the frozen arm of {changed.use.encoder} on {changed.use.data}, as the workspace is now")
    print(said)
    print(
        "the workspace is free; see `python -m stages.night status`, and in the morning: python -m stages.night collect"
    )


def forecast(changed: Settings) -> str:
    """When it ends and what it takes. Raises UserError where the probe refuses the arm, or it does not fit."""
    from nightshift.commands import planning
    from nightshift.probe import cases as probing
    from nightshift.probe import summary as verdicts  # torch: seconds, after the settings were checked
    from nightshift.engine.device import device, seed_everything

    seed_everything(0)
    verdict = verdicts.arm_verdict(probing.configured(changed, "none"), changed)
    if not verdict["ok"]:
        raise UserError(f"the probe refuses the frozen arm: {verdict['cause']}. {verdict['cure']}")
    process, free = psutil.Process().memory_info().rss, shutil.disk_usage(Path.cwd()).free
    found = planning.forecast("frozen", changed, device(), process, bar("measuring", "step"))
    if not found.took:
        told = planning.advice("frozen", changed, device(), process, found.memory)
        raise UserError(f"it needs {gigabytes(found.need)} of {gigabytes(found.memory)} of memory; try {told}")
    if found.kept > free:
        raise UserError(f"its cache needs {gigabytes(found.kept)} of disk and {gigabytes(free)} are free")
    end = datetime.now() + timedelta(seconds=found.seconds)
    day = "" if end.date() == datetime.now().date() else f" on {end:%a %d %b}"
    memory, disk = f"{gigabytes(found.need)} of {gigabytes(found.memory)}", f"{gigabytes(found.kept)} of cache"
    return f"ends about {end:%H:%M}{day} ({hours(found.seconds)}), {memory}, {disk} ({gigabytes(free)} free)"


def status(chosen: argparse.Namespace) -> None:
    found = night.nights()
    for one in found:
        line = (night.last_lines(one, 1) or ["nothing printed yet"])[0]
        print(f"{one.name}  {one.created:%a %H:%M}  {one.state:8} {line}")
    print(f"{len(found)} night run(s)")


def logs(chosen: argparse.Namespace) -> None:
    one = night.find(chosen.name)
    print("\n".join(night.last_lines(one, chosen.n)))
    print(f"{one.name}: {one.state}, {one.log.as_posix() if one.log else 'nothing printed yet'}")


def stop(chosen: argparse.Namespace) -> None:
    one = night.find(chosen.name)
    if one.state in ("done", "failed"):
        raise UserError(f"{one.name} is {one.state}, there is nothing to stop")
    night.stop(one)
    print(f"{one.name} is stopped; `python -m stages.night start` with the same settings goes on from its checkpoint")


def collect(chosen: argparse.Namespace) -> None:
    one = night.find(chosen.name)
    if one.state != "done":
        print("\n".join(night.last_lines(one, 20)))
    if one.state in ("queued", "running"):
        raise UserError(f"{one.name} is {one.state}, see its last lines above; collect it when it is done")
    if one.state == "killed":
        night.forget(one)
    if one.state in ("killed", "failed"):
        again = "; `python -m stages.night start` with the same settings goes on from its checkpoint"
        raise UserError(f"{one.name} {'was killed' if one.state == 'killed' else 'failed'}, see above{again}")
    if chosen.snapshot:
        morning.snapshot(one.name)
    else:
        morning.collect(one.name)


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
