"""The guard of the queue: a process beside it that starts workers and puts killed runs back, until all runs are over.

DVC's worker may end with runs left, killed or by itself, and a run that something killed stays as it is. The guard
looks every few seconds. There is one in each checkout, which `nightshift queue start` and `wait` start.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from filelock import FileLock, Timeout

from nightshift.commands import cluster, dvc_adapter, queue_runs
from nightshift.commands.dvc_private import Task
from nightshift.commands.notes import NOTES, Note, read_note
from nightshift.console.errors import UserError
from nightshift.console.progress import steps_bar
from nightshift.core.project import root

LOCK, LOG = NOTES / "guard.lock", NOTES / "guard.txt"
POLL = 10.0  # seconds
WORKER_STARTS = 60.0  # seconds until a worker is sure to have taken a run


def start() -> None:
    """Start a guard in the background; it ends at once where there is one."""
    (root() / NOTES).mkdir(parents=True, exist_ok=True)
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.DETACHED_PROCESS | subprocess.CREATE_NEW_PROCESS_GROUP
    with (root() / LOG).open("ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "nightshift", "queue", "guard"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # it outlives the terminal; Windows has the flags for it
            creationflags=flags,
        )


def guard() -> None:
    """Look after the queue until all runs are over, and say what was done; end at once where another guard does."""
    try:
        # one that found the queue empty a moment ago is about to end
        with FileLock(root() / LOCK, timeout=3 * POLL):
            _guard()
    except Timeout:
        return


def _guard() -> None:
    told = {run.name for run in queue_runs.runs() if queue_runs.is_over(run)}
    worker_started = 0.0
    while True:
        try:
            runs = queue_runs.runs()
            for run in runs:
                if queue_runs.goes_on(run):
                    queue_runs.put_back(run)
                    _say(f"{run.name} was killed and is put back: {queue_runs.last_line(run)}")
                elif queue_runs.is_over(run) and run.name not in told:
                    told.add(run.name)
                    _tell(run)
            rest = [run for run in runs if not queue_runs.is_over(run)]
            if not rest:
                return
            notes = {run.name: read_note(run.name) for run in rest}
            _start_local([run for run in rest if notes[run.name].on == "local"], notes)
            queue = [run for run in rest if not notes[run.name].on]
            workers = max((notes[run.name].workers for run in queue), default=0)
            waits = sum(run.state == "running" for run in queue) < min(workers, len(queue))
            if waits and time.monotonic() - worker_started > WORKER_STARTS:
                dvc_adapter.dvc("queue", "start", "-j", str(workers))  # starts those that are missing
                worker_started = time.monotonic()
        except UserError as error:  # a cluster that does not answer, a DVC that is locked: the next time
            _say(str(error))
        time.sleep(POLL)


def _start_local(runs: Sequence[Task], notes: Mapping[str, Note]) -> None:
    """Start runs of `--on local` that wait, as many at a time as `--workers` allowed."""
    waiting = [run for run in runs if run.state == "queued"]
    free = max((notes[run.name].workers for run in runs), default=0) - (len(runs) - len(waiting))
    for run in waiting[: max(free, 0)]:
        cluster.submit({run.name: notes[run.name]})


def _tell(run: Task) -> None:
    """Say how a run ended, also to the command that its note names: as its last three arguments."""
    line = queue_runs.last_line(run)
    _say(f"{run.name} is {run.state}: {line}")
    if command := read_note(run.name).notify:
        try:
            words = shlex.split(command, posix=os.name == "posix")
            subprocess.run([*words, run.name, run.state, line], check=True, timeout=60)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            _say(f"--notify {command}: {error}")


def _say(line: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", flush=True)


def wait(name: str | None) -> None:
    """Wait until a run, or all of them, are over, with a guard beside it; print a line for each.

    Raises UserError where one of them is not done in the end: exit status 1.
    """
    runs = {run.name: run for run in ([queue_runs.find(name)] if name else queue_runs.runs())}
    left = {one for one, run in runs.items() if not queue_runs.is_over(run)}
    start()
    with steps_bar("queue", len(left)) as advance:
        while left:
            runs |= {run.name: run for run in queue_runs.runs() if run.name in runs}
            ended = {one for one in left if queue_runs.is_over(runs[one])}
            for one in sorted(ended):
                print(f"{one} is {runs[one].state}: {queue_runs.last_line(runs[one])}", flush=True)
            left -= ended
            advance(len(ended))
            if left:
                time.sleep(POLL)
    if bad := [one for one, run in runs.items() if run.state != "done"]:
        raise UserError(f"{len(bad)} of {len(runs)} run(s) not done: {', '.join(bad)}; see nightshift queue logs NAME")
    print(f"{len(runs)} run(s) done; nightshift leaderboard ranks them, nightshift queue collect takes one")
