"""The runs in DVC's queue and on a cluster: how each is doing, also where DVC does not know.

`dvc exp run --queue` and `dvc queue start` do the work on one machine and keep working by themselves.
"""

import re
import sys
from dataclasses import replace

import psutil

from nightshift.commands import cluster, dvc_adapter, dvc_private
from nightshift.commands.dvc_private import Task
from nightshift.commands.notes import JOBS, note_path, read_note, update
from nightshift.console.errors import UserError
from nightshift.core import io
from nightshift.core.project import root

GRACE = 60.0  # seconds that a trainer has to write its checkpoint when it is asked to stop
OVER = ("done", "failed", "stopped")
# The end of a stage that SIGKILL or SIGTERM ended, as Python, Windows or a shell count them, or that was asked to stop
KILLED = re.compile(r"ERROR: .*exited with (-9|-15|15|137|143)$|error: stopped in epoch")
EPOCH = re.compile(r"^(?P<training>(?P<arm>[\w-]+), [^:]*seed \d+[^:]*): epoch (?P<epoch>\d+)/(?P<epochs>\d+)")
# What DVC prints around the stages, which says nothing about how they are doing.
NOISE = re.compile("Updating lock|To track the|To enable auto|Use `dvc push`|git add |dvc config |> ")


def runs() -> list[Task]:
    """All runs, the last one last. Raises UserError outside of a DVC repository, and where SLURM does not answer."""
    found = sorted([*dvc_private.tasks(), *cluster.tasks()], key=lambda task: task.created)
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


def killed_from_outside(run: Task) -> bool:
    """Whether it ended because somebody or something killed it, and not for a reason of its own."""
    if run.state != "failed":
        return run.state == "killed"
    last = lines(run)
    begins = [i for i, line in enumerate(last) if line.startswith(f"{run.name} on ")]  # attempts on a cluster
    last = last[begins[-1] if begins else 0 :][-10:]
    return read_note(run.name).killed or any(KILLED.match(line) for line in last)


def goes_on(run: Task) -> bool:
    """Whether the queue's guard will put it back; a run that it has put back often enough stays as it is.

    So does one that `dvc exp run --queue` alone made: to kill it may have been meant.
    """
    note = read_note(run.name)
    return note_path(run.name).is_file() and note.restarted < note.restarts and killed_from_outside(run)


def is_over(run: Task) -> bool:
    """Whether nothing is going to happen to it any more."""
    return run.state in (*OVER, "killed") and not goes_on(run)


def put_back(run: Task) -> None:
    """Queue a run that was killed once more, as it was queued: it goes on from its checkpoint. Raises UserError."""
    note = update(run.name, killed=True)
    if note.on:
        cluster.submit({run.name: note.model_copy(update={"restarted": note.restarted + 1})})
        return
    if run.state == "killed":
        forget(run)
    dvc_private.queue_again(run.name)
    update(run.name, restarted=note.restarted + 1, killed=False)


def stop(run: Task) -> None:
    """Ask the trainer to write a checkpoint and end, then see that DVC has no run of that name in the works any more.

    `dvc queue kill` alone would leave the trainer running: DVC does not hand the signal on.
    """
    if run.state == "queued" and not read_note(run.name).on:
        dvc_adapter.dvc("queue", "remove", run.name)
        return
    note = update(run.name, stopped=True)
    if note.on:
        cluster.cancel(run.name, note)
        return
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


def remove(run: Task) -> None:
    """Take a run that is over off the list, with its log."""
    if read_note(run.name).on:
        dvc_adapter.git("update-ref", "-d", f"{dvc_private.SNAPSHOTS}/{run.name}")
        io.remove(root() / JOBS / run.name)
    else:
        dvc_adapter.dvc("queue", "remove", run.name)
    note_path(run.name).unlink(missing_ok=True)


def forget(run: Task) -> None:
    """Tell DVC that a run is over that was killed; it would say "Running" for ever. Raises UserError."""
    failure = dvc_adapter.tried("queue", "kill", "-f", run.name)
    if failure and _is_in_the_works(run.name):
        raise UserError(f"{run.name} cannot be cleaned up: {failure}")


def _is_in_the_works(name: str) -> bool:
    return any(task.name == name and task.state in ("running", "killed") for task in dvc_private.tasks())


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
