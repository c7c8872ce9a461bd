"""What each run of the queue was asked to make: a file for each, .nightshift/queue/NAME.json of the main checkout."""

import time
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import Field

from nightshift.core.project import root
from nightshift.core.records import Record

NOTES = Path(".nightshift/queue")
JOBS = Path(".nightshift/jobs")  # logs of runs on a cluster, by name
Place = Literal["", "local", "slurm"]


class Change(Record):
    """One -S of a run: `text` as it was given, and the key's value in params.yaml without and with it."""

    text: str
    key: str
    before: Any = None
    after: Any = None


class Note(Record):
    """A run, of which `dvc exp run --queue` alone leaves none: the defaults hold for it.

    Attributes:
        arms: that it makes.
        changes: the -S that it was given.
        stopped: by `nightshift queue stop`.
        restarts: how many times it may be put back into the queue, killed from outside; `restarted`: how many it was.
        workers: of DVC's queue, or runs of `--on local` at a time.
        notify: a command for its end; empty for none. `told`: whether its end was said.
        on: the cluster; empty is DVC's queue.
        share: how many jobs of a cluster share its folds and seeds.
        targets, revision: of `dvc repro`; the commit of the queued state.
        created: seconds since 1970.
        job, helpers: ids of the job that makes the result and of those that help it: SLURM's, or `NUMBER:SECONDS` of a
            local process and when it began, as numbers are given again.
        killed: by something outside, which is known before it is put back.
        reported: by `nightshift queue wait`.
    """

    arms: list[str] = Field(default_factory=list)
    changes: list[Change] = Field(default_factory=list)
    stopped: bool = False
    restarts: int = 3
    restarted: int = 0
    workers: int = 1
    notify: str = ""
    told: bool = False
    on: Place = ""
    share: int = 1
    targets: list[str] = Field(default_factory=list)
    revision: str = ""
    created: float = Field(default_factory=time.time)
    job: str = ""
    helpers: list[str] = Field(default_factory=list)
    killed: bool = False
    reported: bool = False


def note_path(name: str) -> Path:
    """Where the note of this run lies: the same file, also from within a queued run."""
    return root() / NOTES / f"{name}.json"


def read_note(name: str) -> Note:
    """The note of a run; an empty one where there is none. Raises UserError for one that is damaged."""
    path = note_path(name)
    note: Note = Note.read(path) if path.is_file() else Note()
    return note


def update(name: str, **changes: Any) -> Note:
    """Change the note of a run, and return it: the guard and a command may do so at the same time."""
    (root() / NOTES).mkdir(parents=True, exist_ok=True)
    with FileLock(root() / NOTES / "notes.lock"):
        note = read_note(name).model_copy(update=changes)
        note.write(note_path(name))
    return note


def all_notes() -> dict[str, Note]:
    """The notes of all runs by name. Raises UserError for one that is damaged."""
    return {path.stem: Note.read(path) for path in sorted((root() / NOTES).glob("*.json"))}
