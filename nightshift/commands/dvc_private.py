"""All that is used of DVC's private interface: its queue of experiments, and the stages of a dvc.yaml.

DVC has no public one for them. tests/commands/test_dvc_adapter.py fails when an upgrade changes what is used;
requirements.txt pins DVC.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from nightshift.console.errors import UserError

if TYPE_CHECKING:
    from dvc.repo import Repo

SNAPSHOTS = "refs/nightshift"  # commits of the workspace as `snapshot` found it, by name

State = Literal["queued", "running", "killed", "stopped", "failed", "done"]
STATES: dict[str, State] = {"Queued": "queued", "Running": "running", "Failed": "failed", "Success": "done"}


@dataclass(frozen=True)
class Task:
    """An experiment in DVC's queue, or one that runs elsewhere (see cluster.py).

    `revision`: the commit that DVC made of the workspace when it was queued, all 40 digits. `log`: None before it
    starts. `pid`: of DVC's own process for it, None where that is not alive. `stopped` is what queue_runs.py makes of
    one that was killed or failed because `nightshift queue stop` asked it to.
    """

    name: str
    revision: str
    created: datetime
    state: State
    log: Path | None
    pid: int | None


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml by name (`train@lora`), and the paths that it depends on."""

    name: str
    deps: tuple[str, ...]


@contextmanager
def _repo() -> Iterator["Repo"]:
    """DVC's view of this repository. Raises UserError outside of one, and for what DVC refuses."""
    from dvc.exceptions import DvcException  # a second
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            yield repo
    except DvcException as error:
        raise UserError(f"DVC: {error}") from None


def tasks() -> list[Task]:
    """What DVC's queue holds, the newest last; `killed` is a run that DVC itself takes for running for ever.

    Raises UserError outside of a DVC repository.
    """
    found = []
    with _repo() as repo:
        queue = repo.experiments.celery_queue
        for entry in queue.status():
            process = queue.proc.get(entry["rev"])
            pid = process.pid if process and process.returncode is None and psutil.pid_exists(process.pid) else None
            state = STATES[entry["status"]]
            if state == "running" and pid is None and entry["rev"] not in repr(queue.worker_status()):
                state = "killed"  # nothing runs, and no worker is about to start it or to collect what it made
            log = Path(process.stdout) if process and process.stdout else None
            name = entry["name"] or entry["rev"][:7]
            found.append(Task(name, entry["rev"], entry["timestamp"], state, log, pid))
        if any(task.state == "killed" for task in found):  # or it ended while its workers were asked
            now = {entry["rev"]: STATES[entry["status"]] for entry in queue.status()}
            found = [
                replace(task, state=now.get(task.revision, task.state)) if now.get(task.revision) != "running" else task
                for task in found
            ]
    return sorted(found, key=lambda task: task.created)


def queue_again(name: str) -> None:
    """Put a failed run back into DVC's queue, as it was queued: the workspace's edits since are not in it.

    Raises UserError where DVC has no failed run of that name.
    """
    from dvc.repo.experiments.queue.tasks import run_exp

    with _repo() as repo:
        queue = repo.experiments.celery_queue
        entry = next((done.entry for done in queue.iter_failed() if done.entry.name == name), None)
        if entry is None:
            raise UserError(f"{name}: DVC's queue has no failed run of that name")
        message = queue.stash.format_message(entry.head_rev, entry.baseline_rev, entry.name, entry.branch)
        queue.remove([name])
        repo.scm.set_ref(queue.stash.ref, entry.stash_rev, message=f"commit: {message}")
        queue.celery.signature(run_exp.s(entry.asdict())).delay()


def snapshot(name: str, targets: Sequence[str], changes: Sequence[str]) -> str:
    """The commit that DVC makes of the workspace for a queued run with `changes`; it is kept as SNAPSHOTS/name.

    Its first parent is HEAD. Nothing is put into DVC's queue. Raises UserError.
    """
    from dvc.repo import lock_repo
    from dvc.utils.cli_parse import to_path_overrides

    with _repo() as repo, lock_repo(repo):
        queue = repo.experiments.tempdir_queue
        params = to_path_overrides(changes) if changes else {}
        revision = str(repo.experiments.queue_one(queue, targets=list(targets), params=params, name=name).stash_rev)
        repo.scm.set_ref(f"{SNAPSHOTS}/{name}", revision)
        queue.stash.remove_revs([queue.stash.stash_revs[revision]])
    return revision


def stages_of(targets: Iterable[str]) -> list[Stage]:
    """The stages of the root's dvc.yaml that `targets` need, themselves too; not the one that always runs.

    Raises UserError for a target that dvc.yaml does not have.
    """
    from dvc.dependency.param import ParamsDependency

    found: dict[str, Stage] = {}
    with _repo() as repo:
        for target in targets:
            for stage in repo.stage.collect(target, with_deps=True):
                paths = (dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency))
                if ":" not in stage.addressing:  # stages/dvc.yaml:inputs
                    found[stage.addressing] = Stage(stage.addressing, tuple(map(str, paths)))
    return list(found.values())
