"""The night run: the frozen arm as an experiment in DVC's queue, which works on a copy of the workspace.

`dvc exp run --queue` and `dvc queue start` do the work and keep working by themselves. What is here knows how a run in
the queue is doing, also where DVC does not (it says "Running" of one that was killed), and what it was made from.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from nightshift.console.errors import UserError
from nightshift.config.yaml_io import at, parse, read_yaml
from nightshift.reporting.load import ARMS, STEPS

PREFIX, TARGET = "night-", "evaluate_frozen"
STAGES = ("synthesize", "prepare", "encode_frozen", "train_frozen", "evaluate_frozen")  # not probe: LoRA's changes, too
WATCHED = ("conf", "nightshift", "stages", "params.yaml", "dvc.yaml")  # a queued run does not see what git does not
GRACE = 60.0  # seconds that a trainer has to write its checkpoint when it is asked to stop


@dataclass(frozen=True)
class Night:
    """`state`: queued, running, killed, failed or done. `revision`: of the stash, full; `log`: None before it starts.

    `pid`: of DVC's own process for the run, None where it is not alive.
    """

    name: str
    revision: str
    created: datetime
    state: str
    log: Path | None
    pid: int | None


def nights() -> list[Night]:
    """All night runs that DVC's queue knows, the last one last. Raises UserError outside of a DVC repository."""
    from dvc.exceptions import DvcException  # a second
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            queue = repo.experiments.celery_queue
            tasks = [one for one in queue.status() if (one["name"] or "").startswith(PREFIX)]
            found = []
            for task in tasks:
                process = queue.proc.get(task["rev"])
                pid = process.pid if process and process.returncode is None and psutil.pid_exists(process.pid) else None
                state = {"Success": "done"}.get(task["status"], task["status"].lower())
                if state == "running" and pid is None and task["rev"] not in repr(queue.worker_status()):
                    state = "killed"  # nothing runs, and no worker is about to start it or to collect what it made
                log = Path(process.stdout) if process else None
                found.append(Night(task["name"], task["rev"], task["timestamp"], state, log, pid))
    except DvcException as error:
        raise UserError(f"DVC's queue cannot be read: {error}") from None
    return sorted(found, key=lambda night: night.created)


def find(name: str | None) -> Night:
    """The night of that name, or the last one. Raises UserError."""
    known = {night.name: night for night in nights()}
    if name is None and known:
        return list(known.values())[-1]
    if name not in known:
        there = f"; there are {', '.join(known)}" if known else "; start one: python -m stages.night start"
        raise UserError(f"no night run{f' {name!r}' if name else ''}{there}")
    return known[name]


def untracked() -> list[str]:
    """Files of WATCHED that git does not know: a queued run works on a copy that lacks them."""
    listed = output("git", "ls-files", "--others", "--exclude-standard", "--", *WATCHED)
    return [path for path in listed.splitlines() if Path(path).name != "dvc.lock"]  # which a run makes anew


def queue(name: str, changes: list[str]) -> None:
    """Queue the frozen arm from the workspace as it stands, with `changes`, and start a worker. Raises UserError."""
    settings = [word for change in changes for word in ("-S", change)]
    dvc("exp", "run", "--queue", "-n", name, *settings, TARGET)
    dvc("queue", "start")


def stop(night: Night) -> None:
    """Ask the trainer to write a checkpoint and end, then see that DVC has no run of that name in the works any more.

    `dvc queue kill` alone would leave the trainer running: DVC does not hand the signal on.
    """
    if night.state == "queued":
        dvc("queue", "remove", night.name)
        return
    if night.pid is not None:
        ours = psutil.Process(night.pid).children(recursive=True)
        for process in ours:
            process.terminate()
        psutil.wait_procs(ours, timeout=GRACE)
    if any(one.name == night.name and one.state in ("running", "killed") for one in nights()):
        forget(night)


def forget(night: Night) -> None:
    """Tell DVC that a run is over that was killed; it would say "Running" for ever."""
    done = _run(sys.executable, "-m", "dvc", "queue", "kill", "-f", night.name)
    if done.returncode and find(night.name).state in ("running", "killed"):
        raise UserError(f"{night.name} cannot be cleaned up: {_last(done.stderr)}")


def last_lines(night: Night, count: int) -> list[str]:
    """Of what the run printed, without empty ones; of a bar only its last state."""
    if night.log is None or not night.log.is_file():
        return []
    text = night.log.read_text(encoding="utf-8", errors="replace")
    return [line.split("\r")[-1] for line in text.splitlines() if line.strip()][-count:]


def result(name: str) -> str:
    """The commit of a finished experiment. Raises UserError."""
    found = output("git", "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}").split()
    if not found:
        raise UserError(f"{name}: no result of that name; see `dvc exp list` and `python -m stages.night status`")
    return found[-1]


def changed(revision: str) -> tuple[list[str], dict[str, tuple[Any, Any]]]:
    """What the workspace has otherwise than the frozen arm of `revision`: modules, and settings (there, here).

    A module is named by its path, a setting as `-S` takes it. What only LoRA depends on is not asked.
    """
    stages = parse(output("git", "show", f"{revision}:dvc.lock"))["stages"]
    modules, settings = set(), {}
    for stage in STAGES:
        own = stages.get(stage, {})  # a night of an older version may lack one
        for dep in own.get("deps", []):
            path = Path(dep["path"])
            if path.suffix == ".py" and dep["md5"] != _md5(path):
                modules.add(path.as_posix())
        for file, values in own.get("params", {}).items():
            here = read_yaml(Path(file)) if Path(file).is_file() else {}
            for key, value in values.items():
                for name, there, now in _leaves(key, value, at(here, key)):
                    if there != now:
                        settings[name if file == "params.yaml" else f"{file}:{name}"] = (there, now)
    return sorted(modules), settings


def _md5(path: Path) -> str:
    """As DVC hashes a file; empty where there is none."""
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else ""


def _leaves(key: str, there: Any, here: Any) -> list[tuple[str, Any, Any]]:
    if not isinstance(there, dict) or not isinstance(here, dict):
        return [(key, there, here)]
    names = dict.fromkeys([*there, *here])
    return [leaf for name in names for leaf in _leaves(f"{key}.{name}", there.get(name), here.get(name))]


def put_back() -> None:
    """The outputs of both arms as they were before a stage that DVC had made room for was not run."""
    names = [f"{step}_{arm}" for arm in ARMS for step in STEPS]
    for name in names:
        _run(sys.executable, "-m", "dvc", "checkout", name)  # one that never ran has nothing to put back


def fetch(revision: str, paths: list[str], folder: Path) -> None:
    """Files and folders of a revision, from DVC's cache or git, into `folder` under their own paths."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        dvc("get", ".", path, "--rev", revision, "-o", str(folder / path), "-f")


def dvc(*arguments: str, **environment: str) -> str:
    """What `dvc ...` prints. Raises UserError with the line that says why it failed."""
    done = _run(sys.executable, "-m", "dvc", *arguments, **environment)
    if done.returncode:
        raise UserError(_last(done.stderr))
    return done.stdout


def output(*command: str) -> str:
    """What a command prints. Raises UserError."""
    done = _run(*command)
    if done.returncode:
        raise UserError(f"`{' '.join(command[:3])}` failed: {_last(done.stderr)}")
    return done.stdout


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess:
    """With this Python's folder first on the path: DVC starts `dvc` and `python` by name.

    Output goes through files: a pipe would stay open, and be waited for, as long as the worker that DVC leaves behind.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    with tempfile.TemporaryFile() as printed, tempfile.TemporaryFile() as said:
        done = subprocess.run(
            command, env=os.environ | {"PATH": path} | environment, stdout=printed, stderr=said, check=False
        )
        texts = []
        for file in (printed, said):
            file.seek(0)
            texts.append(file.read().decode("utf-8", errors="replace"))
    return subprocess.CompletedProcess(command, done.returncode, *texts)


def _last(stderr: str) -> str:
    """The line of a stage that says what a user did wrong, else the first of DVC's errors, else the last one."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for mark in ("error: ", "ERROR: "):
        for line in lines:
            if line.startswith(mark):
                return line.removeprefix(mark)
    return lines[-1] if lines else "no reason given"
