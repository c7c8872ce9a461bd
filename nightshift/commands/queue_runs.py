"""The runs in DVC's queue: how each is doing, also where DVC does not know, and what it was asked to make.

`dvc exp run --queue` and `dvc queue start` do the work and keep working by themselves. Beside them there is a note for
each run that `nightshift queue start` queued, in .nightshift/queue/NAME.json of the main checkout.
"""

import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from pydantic import Field

from nightshift.commands import dvc_adapter
from nightshift.commands.dvc_adapter import Task
from nightshift.console.errors import UserError
from nightshift.core.project import root
from nightshift.core.records import Record

NOTES = Path(".nightshift/queue")
GRACE = 60.0  # seconds that a trainer has to write its checkpoint when it is asked to stop
OVER = ("done", "failed", "stopped")
EPOCH = re.compile(r"^(?P<training>(?P<arm>[\w-]+), [^:]*seed \d+[^:]*): epoch (?P<epoch>\d+)/(?P<epochs>\d+)")
# What DVC prints around the stages, which says nothing about how they are doing.
NOISE = re.compile("Updating lock|To track the|To enable auto|Use `dvc push`|git add |dvc config |> ")


class Change(Record):
    """One -S of a run: `text` as it was given, and the key's value in params.yaml without and with it."""

    text: str
    key: str
    before: Any = None
    after: Any = None


class Note(Record):
    """What a run was asked to make: `arms` is empty for one that `dvc exp run --queue` queued by itself."""

    arms: list[str] = Field(default_factory=list)
    changes: list[Change] = Field(default_factory=list)
    stopped: bool = False


def note_path(name: str) -> Path:
    """Where the note of this run lies: the same file, also from within a queued run."""
    return root() / NOTES / f"{name}.json"


def read_note(name: str) -> Note:
    """The note of a run; an empty one where there is none. Raises UserError for one that is damaged."""
    path = note_path(name)
    note: Note = Note.read(path) if path.is_file() else Note()
    return note


def runs() -> list[Task]:
    """All runs that DVC's queue knows, the last one last. Raises UserError outside of a DVC repository."""
    found = dvc_adapter.tasks()
    return [
        replace(run, state="stopped") if run.state in ("failed", "killed") and read_note(run.name).stopped else run
        for run in found
    ]


def find(name: str | None) -> Task:
    """The run of that name, or the last one. Raises UserError."""
    known = {run.name: run for run in runs()}
    if name is None and known:
        return list(known.values())[-1]
    if name not in known:
        there = f"; there are {', '.join(known)}" if known else "; start one: nightshift queue start"
        raise UserError(f"no run{f' {name!r}' if name else ''} in the queue{there}")
    return known[name]


def stop(run: Task) -> None:
    """Ask the trainer to write a checkpoint and end, then see that DVC has no run of that name in the works any more.

    `dvc queue kill` alone would leave the trainer running: DVC does not hand the signal on.
    """
    if run.state == "queued":
        dvc_adapter.dvc("queue", "remove", run.name)
        return
    read_note(run.name).model_copy(update={"stopped": True}).write(note_path(run.name))
    if run.pid is not None:
        ours = psutil.Process(run.pid).children(recursive=True)
        if sys.platform == "win32":  # terminate() would leave no time for a checkpoint
            from nightshift.engine.checkpoints import ask_to_stop  # torch: seconds

            for process in ours:
                ask_to_stop(process.pid)
            _, ours = psutil.wait_procs(ours, timeout=GRACE)
        for process in ours:
            process.terminate()
        psutil.wait_procs(ours, timeout=GRACE)
    if _is_in_the_works(run.name):
        forget(run)


def forget(run: Task) -> None:
    """Tell DVC that a run is over that was killed; it would say "Running" for ever. Raises UserError."""
    failure = dvc_adapter.tried("queue", "kill", "-f", run.name)
    if failure and _is_in_the_works(run.name):
        raise UserError(f"{run.name} cannot be cleaned up: {failure}")


def _is_in_the_works(name: str) -> bool:
    return any(task.name == name and task.state in ("running", "killed") for task in dvc_adapter.tasks())


def lines(run: Task) -> list[str]:
    """What the run printed, without empty lines; of a bar only its last state."""
    if run.log is None or not run.log.is_file():
        return []
    text = run.log.read_text(encoding="utf-8", errors="replace")
    return [line.split("\r")[-1] for line in text.splitlines() if line.strip()]


def last_line(run: Task) -> str:
    """The line that says most about the run: the error of one that failed, else the last epoch, else the last line."""
    printed = lines(run)
    if run.state == "failed":
        for mark in ("error: ", "ERROR: "):
            if errors := [line for line in printed if line.startswith(mark)]:
                return errors[-1].removeprefix(mark)
    said = [line for line in printed if not NOISE.match(line.strip())]
    epochs = [line for line in said if EPOCH.match(line)]
    if epochs and run.state in ("done", "stopped", "killed"):
        return epochs[-1]
    return said[-1] if said else "nothing printed yet"


def share_trained(run: Task, arm: str, trainings: int) -> float:
    """How much of all `trainings` of an arm the run had done when it ended, from 0 to 1, by what it printed."""
    done = [match for line in lines(run) if (match := EPOCH.match(line)) and match["arm"] == arm]
    if not done:
        return 0.0
    before = len({match["training"] for match in done}) - 1
    return min(1.0, (before + int(done[-1]["epoch"]) / int(done[-1]["epochs"])) / trainings)
