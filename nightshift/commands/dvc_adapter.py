"""All that the commands ask of git and of `dvc`: what it prints, what a revision has. Its queue: dvc_private.py."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from nightshift.commands.dvc_private import tasks
from nightshift.config.yaml_io import parse
from nightshift.console.errors import UserError
from nightshift.core.io import replacing

EXPERIMENT = re.compile(r"refs/exps/([0-9a-f]{2})/([0-9a-f]{38})/(.+)")  # the commit it is based on, and its name


def queue_experiment(name: str, targets: Sequence[str], changes: Sequence[str]) -> None:
    """Queue `targets` of the workspace as it stands, with `changes` as `-S` takes them. Raises UserError."""
    settings = [word for change in changes for word in ("-S", change)]
    dvc("exp", "run", "--queue", "-n", name, *settings, *targets)


def experiments() -> dict[str, str]:
    """The commits of finished experiments by name, the newest last, and of several with a name the newest."""
    listed = git("for-each-ref", "--sort=creatordate", "--format=%(objectname) %(refname)", "refs/exps").splitlines()
    return {ref[3]: line.split()[0] for line in listed if (ref := EXPERIMENT.search(line))}


def experiment(name: str) -> str:
    """The commit of a finished experiment. Raises UserError."""
    found = experiments()
    if name not in found:
        raise UserError(f"{name}: no result of that name; see `dvc exp list` and `nightshift queue status`")
    return found[name]


def show_experiments(history: bool) -> str:
    """The JSON of `dvc exp show`: the workspace, and commits with their experiments. Raises UserError.

    Commits are HEAD, the tips of local branches and what experiments are based on; with `history` all of them, which
    takes DVC a quarter of a second each the first time.
    """
    if history:
        chosen = ["--all-commits"]
    else:
        experiments = git("for-each-ref", "--format=%(refname)", "refs/exps").splitlines()
        bases = [ref[1] + ref[2] for line in experiments if (ref := EXPERIMENT.fullmatch(line))]
        queued = [git("rev-parse", f"{task.revision}^1").strip() for task in tasks()]
        chosen = [word for rev in dict.fromkeys([*tips(), *bases, *queued]) for word in ("--rev", rev)]
    return dvc("exp", "show", "--json", *chosen)


def tips() -> list[str]:
    """The commits of HEAD and of the local branches. Raises UserError where there is no commit."""
    head = git("rev-parse", "--verify", "HEAD").strip()
    return list(dict.fromkeys([head, *git("for-each-ref", "--format=%(objectname)", "refs/heads").split()]))


def untracked(paths: Iterable[str]) -> list[str]:
    """Files below `paths` that git does not know, lock files of DVC apart (a run makes them anew)."""
    listed = git("ls-files", "--others", "--exclude-standard", "--", *paths).splitlines()
    return [path for path in listed if Path(path).name != "dvc.lock"]


def changed_files(revision: str, paths: Sequence[str], other: str | None = None) -> list[str]:
    """Files below `paths` that the workspace, or the revision `other`, has otherwise than `revision`; new ones too."""
    revisions = [revision] if other is None else [revision, other]
    known = git("diff", "--name-only", "--relative", *revisions, "--", *paths).splitlines()
    return sorted({*known, *([] if other else untracked(paths))})


def file_at(revision: str, path: str) -> str | None:
    """The text of a file at a revision, None where it has none."""
    try:
        return git("show", f"{revision}:./{path}")
    except UserError:
        return None


def settings_files(revision: str, folder: Path) -> None:
    """Write params.yaml and conf/ as `revision` has them below `folder`."""
    for path in ["params.yaml", *git("ls-tree", "-r", "--name-only", revision, "conf").splitlines()]:
        text = file_at(revision, path)
        if text is not None:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")


def locked(text: str | None) -> dict[str, Any]:
    """The stages of a dvc.lock by name; empty where it is None or no lock."""
    lock = parse(text or "")
    stages = lock.get("stages") if isinstance(lock, dict) else None
    return stages if isinstance(stages, dict) else {}


def files_of(lock: dict[str, Any], kind: Literal["deps", "outs"]) -> dict[str, str]:
    """Hashes by path of all `deps` or `outs` in the stages that `locked` gives."""
    return {file["path"]: file.get("md5", "") for stage in lock.values() for file in stage.get(kind, [])}


def cache_folder() -> Path:
    """Where DVC keeps files by their hash. Raises UserError outside of a DVC repository."""
    return Path(dvc("cache", "dir").strip()) / "files" / "md5"


def cached(cache: Path, md5: str) -> Path:
    """Where the file with this hash lies in `cache`, if it does."""
    return cache / md5[:2] / md5[2:]


def cached_json(cache: Path, md5: str) -> dict[str, Any] | None:
    """The JSON object with this hash in `cache`, None where it is not there."""
    try:
        value = json.loads(cached(cache, md5).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def cached_folder(cache: Path, md5: str) -> dict[str, Path]:
    """Where the files of the folder with this hash lie in `cache`, by their path in it; empty where it is not there."""
    try:
        listed = json.loads(cached(cache, md5).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {file["relpath"]: cached(cache, file["md5"]) for file in listed}


def fetch(revision: str, paths: Iterable[str], folder: Path) -> None:
    """Files and folders of a revision, from DVC's cache or git, into `folder` under their own paths."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        dvc("get", ".", path, "--rev", revision, "-o", str(folder / path), "-f")


@contextmanager
def put_aside(path: Path) -> Iterator[None]:
    """Without this file for the block; afterwards it is there again."""
    content = path.read_bytes() if path.is_file() else None
    path.unlink(missing_ok=True)
    try:
        yield
    finally:
        if content is not None:
            with replacing(path) as temporary:  # its folder, too: git removes one that is empty
                temporary.write_bytes(content)


def dvc(*arguments: str, **environment: str) -> str:
    """What `dvc ...` prints. Raises UserError with the line that says why it failed."""
    done = _run(sys.executable, "-m", "dvc", *arguments, **environment)
    if done.returncode:
        raise UserError(_reason(done.stderr))
    return done.stdout


def tried(*arguments: str) -> str | None:
    """Run `dvc ...`: None where it worked, else the line that says why it did not."""
    done = _run(sys.executable, "-m", "dvc", *arguments)
    return _reason(done.stderr) if done.returncode else None


def git(*arguments: str) -> str:
    """What `git ...` prints. Raises UserError."""
    try:
        done = _run("git", "-c", "core.quotepath=off", *arguments)
    except FileNotFoundError:
        raise UserError("git is not installed, or not on the PATH") from None
    if done.returncode:
        raise UserError(f"`git {' '.join(arguments[:3])}` failed: {_reason(done.stderr)}")
    return done.stdout


def _run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """With this Python's folder first on the path: DVC starts `dvc` and `python` by name.

    Output goes through files: a pipe would stay open, and be waited for, as long as the worker that DVC leaves behind.
    """
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        done = subprocess.run(
            command, env=os.environ | {"PATH": path} | environment, stdout=stdout, stderr=stderr, check=False
        )
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read().decode("utf-8", errors="replace"))
    return subprocess.CompletedProcess(command, done.returncode, *texts)


def _reason(stderr: str) -> str:
    """The line of a stage that says what a user did wrong, else the first of DVC's errors, else the last line."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for mark in ("error: ", "ERROR: "):
        for line in lines:
            if line.startswith(mark):
                return line.removeprefix(mark)
    return lines[-1] if lines else "no reason given"
