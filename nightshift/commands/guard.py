"""The guard of the queue: a process beside it that starts workers and puts killed runs back, until all runs are over.

DVC's worker may end with runs left, killed or by itself, and a run that something killed stays as it is. The guard
looks every few seconds. There is one in each checkout, which `nightshift queue start` and `wait` start.
"""

import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence

from filelock import FileLock, Timeout

from nightshift.commands import cluster, dvc_adapter, queue_runs
from nightshift.commands.dvc_private import Task
from nightshift.commands.notes import NOTES, Note, note_path, read_note, update
from nightshift.console.errors import UserError
from nightshift.console.progress import steps_bar
from nightshift.core.project import root

LOCK, LOG = NOTES / "guard.lock", NOTES / "guard.txt"
POLL = 10.0  # seconds
WORKER_STARTS = 60.0  # seconds until a worker is sure to have taken a run
LAST_LOOK = 120.0  # seconds in which a guard that saw nothing left has ended
GUARDED = 300.0  # seconds after which `wait` starts a guard again, in case something ended it
NOTIFIED = 60.0  # seconds that a command of --notify has
MOST_ERRORS = 60  # in a row


def start() -> None:
    """Start a guard in the background; it ends at once where there is one."""
    (root() / NOTES).mkdir(parents=True, exist_ok=True)
    flags = 0
    if sys.platform == "win32":
        flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
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
        with FileLock(root() / LOCK, timeout=LAST_LOOK):  # another one may be about to end
            _guard()
    except Timeout:
        return


def _guard() -> None:
    nothing, errors, worker_started = 0, 0, -WORKER_STARTS
    while nothing < 2:  # a run that just begins is not seen for a moment
        try:
            rest = _look()
            if _lacks_workers(rest) and time.monotonic() - worker_started > WORKER_STARTS:
                workers = max(read_note(run.name).workers for run in rest)
                dvc_adapter.dvc("queue", "start", "-j", str(workers))  # starts those that are missing
                worker_started = time.monotonic()
            nothing, errors = 0 if rest else nothing + 1, 0
        except UserError as error:  # a cluster that does not answer, a DVC that is locked: the next time
            _say(str(error))
        except Exception:  # the queue is better looked after with a bug than not at all
            errors += 1
            if errors > MOST_ERRORS:
                raise
            traceback.print_exc()
        time.sleep(POLL)


def _look() -> list[Task]:
    """Put back what was killed, tell what is over, start local runs; the runs that are not over."""
    runs = queue_runs.runs()
    killed = [run for run in runs if queue_runs.goes_on(run)]
    for run in killed:
        try:
            queue_runs.put_back(run)
            _say(f"{run.name} was killed and is put back: {queue_runs.last_line(run)}")
        except UserError as error:
            update(run.name, restarted=read_note(run.name).restarted + 1)  # not for ever
            _say(f"{run.name} was killed, and cannot be put back: {error}")
    for run in runs:
        if run not in killed and queue_runs.is_over(run):
            _tell(run)
    rest = [run for run in runs if run in killed or not queue_runs.is_over(run)]
    notes = {run.name: read_note(run.name) for run in rest}
    _start_local([run for run in rest if notes[run.name].on == "local"], notes)
    return rest


def _lacks_workers(runs: Sequence[Task]) -> bool:
    """Whether fewer runs of DVC's queue are running than might be."""
    queue = [run for run in runs if not read_note(run.name).on]
    workers = max((read_note(run.name).workers for run in queue), default=0)
    return sum(run.state == "running" for run in queue) < min(workers, len(queue))


def _start_local(runs: Sequence[Task], notes: Mapping[str, Note]) -> None:
    """Start runs of `--on local` that wait, as many at a time as `--workers` allowed."""
    waiting = [run for run in runs if run.state == "queued"]
    free = max((notes[run.name].workers for run in runs), default=0) - (len(runs) - len(waiting))
    for run in waiting[: max(free, 0)]:
        cluster.submit({run.name: notes[run.name]})


def _tell(run: Task) -> None:
    """Say once how a run with a note ended, also to the command that the note names: as its last three arguments."""
    note = read_note(run.name)
    if note.told or not note_path(run.name).is_file():
        return
    update(run.name, told=True)
    if note.helpers:
        cluster.cancel(run.name, note.model_copy(update={"job": ""}))
    line = queue_runs.last_line(run)
    _say(f"{run.name} is {run.state}: {line}")
    if note.notify:
        words = [run.name, run.state, line]
        try:
            if sys.platform == "win32":
                subprocess.run(f"{note.notify} {subprocess.list2cmdline(words)}", check=True, timeout=NOTIFIED)
            else:
                subprocess.run([*shlex.split(note.notify), *words], check=True, timeout=NOTIFIED)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            _say(f"--notify: {type(error).__name__} of {note.notify.split()[0]}")  # the rest may be secret


def _say(line: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", flush=True)


def wait(name: str | None) -> None:
    """Wait until a run is over, or all that no earlier call has reported, with a guard beside it; a line for each.

    Raises UserError where one of them is not done in the end: exit status 1.
    """
    runs = {run.name: run for run in ([queue_runs.find(name)] if name else queue_runs.runs())}
    runs = {one: run for one, run in runs.items() if one == name or _is_news(run)}
    left, gone, guarded = set(runs), set[str](), -GUARDED
    with steps_bar("queue", len(left)) as advance:
        while left:
            if time.monotonic() - guarded > GUARDED:
                start()
                guarded = time.monotonic()
            try:
                found = {run.name: run for run in queue_runs.runs()}
            except UserError as error:  # SLURM does not answer now, say
                print(error, flush=True)
                time.sleep(POLL)
                continue
            runs |= {one: run for one, run in found.items() if one in runs}
            removed, gone = gone - found.keys(), left - found.keys()  # twice in a row: one that begins is not seen
            ended = removed | {one for one in left & found.keys() if queue_runs.is_over(runs[one])}
            for one in sorted(ended):
                print(f"{one} is {runs[one].state}: {queue_runs.last_line(runs[one])}", flush=True)
                if note_path(one).is_file():
                    update(one, reported=True)
            left -= ended
            advance(len(ended))
            if left:
                time.sleep(POLL)
    if bad := [one for one, run in runs.items() if run.state != "done"]:
        raise UserError(f"{len(bad)} of {len(runs)} run(s) not done: {', '.join(bad)}; see nightshift queue logs NAME")
    print(f"{len(runs)} run(s) done; nightshift leaderboard ranks them, nightshift queue collect takes one")


def _is_news(run: Task) -> bool:
    """Whether it is not over, or no `wait` has said how it ended."""
    return not queue_runs.is_over(run) or (note_path(run.name).is_file() and not read_note(run.name).reported)
