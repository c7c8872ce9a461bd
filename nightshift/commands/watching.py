"""What every training and every queued run is doing, read from files: nothing here locks, writes to or asks a run."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from nightshift.commands import queue_runs
from nightshift.commands.dvc_private import Task
from nightshift.commands.notes import all_notes, read_note
from nightshift.console.errors import UserError
from nightshift.core.io import read_csv
from nightshift.core.project import root
from nightshift.engine.checkpoints import FINISHED, FOLDER
from nightshift.jobs.running import CURVE, NAME, Running

SHOWN_FOR = 24 * 3600  # seconds that a training is shown after its last change
ORDER = ("running", "elsewhere", "dead", "finished")


@dataclass(frozen=True)
class Watched:
    """A training, by whom it is done, how it is, and the rows of its curve.

    `state`: running, finished, dead (its process has ended before it was finished) or elsewhere (on another machine).
    `left`: seconds to the last epoch, by those that this process has done; None before the first one. `changed`: when
    it wrote last, in seconds since 1970.
    """

    running: Running
    state: str
    curve: list[dict[str, str]]
    left: float | None
    changed: float

    @property
    def best(self) -> float | None:
        """The highest validation Dice so far."""
        return max((float(row["val_dice"]) for row in self.curve), default=None)

    @property
    def name(self) -> str:
        """`lora, fold 0, seed 1`."""
        return f"{self.running.arm}, fold {self.running.fold}, seed {self.running.seed}"


@dataclass(frozen=True)
class Queued:
    """A run: its state as `nightshift queue status` says it, its arms, and what it printed last."""

    name: str
    state: str
    arms: str
    line: str


@dataclass(frozen=True)
class View:
    """All that is shown, at `time` in seconds since 1970: those that run first, then the last changed."""

    time: float
    trainings: Sequence[Watched]
    queue: Sequence[Queued]


def view() -> View:
    """As things are now. Raises UserError for a file that is not what a training writes."""
    now, found, runs = time.time(), list[Watched](), _runs()
    states = {run.name: run.state for run in runs}
    for path in (root() / FOLDER).glob(f"train@*/*/{NAME}"):
        try:
            found.append(_watched(path, now, states))
        except FileNotFoundError:  # a finished one, which was tidied up in this moment
            continue
    shown = [one for one in found if one.state == "running" or now - one.changed < SHOWN_FOR]
    return View(now, sorted(shown, key=lambda one: (ORDER.index(one.state), -one.changed)), _shown(runs))


def _watched(path: Path, now: float, states: Mapping[str, str]) -> Watched:
    running, curve = Running.read(path), path.with_name(CURVE)
    rows = read_csv(curve) if curve.is_file() else []
    began, changed = path.stat().st_mtime, max(file.stat().st_mtime for file in (path, curve) if file.exists())
    alive = running.alive
    if alive is None and states.get(running.run, "running") != "running":
        alive = False  # on another machine, whose job has ended
    state = "elsewhere" if alive is None else "running" if alive else "dead"
    if path.with_name(FINISHED).is_file():
        state = "finished"
    done, left = len(rows) - running.before, None
    if done > 0 and state in ("running", "elsewhere"):
        each = (changed - began) / done
        left = max(0.0, (running.epochs - len(rows)) * each - (now - changed))
    return Watched(running, state, rows, left, changed)


def _runs() -> list[Task]:
    """All runs, none without DVC. Raises UserError where SLURM does not answer."""
    try:
        return queue_runs.runs()
    except UserError:
        if any(note.on == "slurm" for note in all_notes().values()):
            raise
        return []


def _shown(runs: Sequence[Task]) -> list[Queued]:
    """Those that wait, run or were killed, and what failed in the last day."""
    return [
        Queued(run.name, run.state, ", ".join(read_note(run.name).arms), queue_runs.last_line(run))
        for run in runs
        if run.state not in queue_runs.OVER
        or (run.state == "failed" and datetime.now() - run.created < timedelta(seconds=SHOWN_FOR))
    ]
