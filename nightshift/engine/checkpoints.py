"""Checkpoints of runs that were not finished, where DVC does not know of them: it deletes outputs before a stage runs.

    .nightshift/checkpoints/STAGE/FINGERPRINT/...      below DVC_ROOT, so that a queued run leaves them there, too

A stage is `train@lora`. The fingerprint is of all that the result depends on: with other settings, data, code or
versions a run never goes on from these states. A checkpoint is one safetensors file, written under a temporary name and
renamed, with the hash of its bytes in its name; no pickle. When a stage has finished, its states stay until the stage
after it starts: only then DVC has the output in its cache.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nightshift.console.errors import UserError
from nightshift.console.progress import say
from nightshift.core.hashing import sha256
from nightshift.core.io import unprotect, write_json
from nightshift.core.project import root

FOLDER = Path(".nightshift/checkpoints")
STOPS = Path(".nightshift/stop")  # files, named by the number of a process
PACKAGES = ("torch", "sam3", "peft", "monai", "scikit-image", "safetensors", "numpy")
UNTRACKED = ("console", "config", "jobs", "commands")  # packages that cannot change a byte of a result
FINISHED = "finished.json"  # in the folder of a run
KEPT = 2  # checkpoints of a run
POLL = 0.1  # seconds
SECOND_SIGNAL = 1.0  # seconds


class Interrupted(UserError):
    """Ctrl-C or SIGTERM came, and a checkpoint was written."""


def fingerprint(**parts: Any) -> str:
    """Sixteen digits for what a result depends on: settings and data, versions of PACKAGES, and code.

    Code is the source of every module of ours that is loaded, by its path in the package, but for those of UNTRACKED:
    an edited error text does not make a checkpoint useless.

    Args:
        parts: anything that is JSON.
    """
    package = Path(__file__).parents[1]
    everything = {
        "parts": parts,
        "versions": {name: version(name) for name in PACKAGES},
        "code": {path.relative_to(package).as_posix(): sha256(path) for path in _loaded_modules(package)},
    }
    return digest(**everything)


def digest(**parts: Any) -> str:
    """Sixteen digits for `parts`, anything that is JSON."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _loaded_modules(package: Path) -> list[Path]:
    """Files of the loaded modules of a package, but for those of UNTRACKED."""
    names = [name.split(".") for name in sys.modules if name.startswith(f"{package.name}.")]
    files = {sys.modules[".".join(parts)].__file__ for parts in names if parts[1] not in UNTRACKED}
    return sorted(Path(file) for file in files if file)


def folder_of(stage: str, identity: str) -> Path:
    """The folder of the run of `stage` whose fingerprint is `identity`."""
    return root() / FOLDER / stage / identity


@contextmanager
def claimed(stage: str, identity: str) -> Iterator[Path | None]:
    """Lock the folder of this run as long as the block runs, and yield it; the lock ends with its process.

    Yields None where another process has it: a second worker of the queue, or a trainer whose DVC was killed.

    Args:
        stage: such as `train@lora`.
        identity: fingerprint of the run.
    """
    folder = folder_of(stage, identity)
    lock = FileLock(folder / "lock", timeout=0)
    while not lock.is_locked:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except FileNotFoundError:  # removed in this moment, by `tidy`
            continue
        except Timeout:
            yield None
            return
    try:
        yield folder
    finally:
        lock.release()


@contextmanager
def run_folder(stage: str, identity: str, *, wait: bool = False) -> Iterator[Path]:
    """As `claimed`, but where another process is at this very run, wait for it and go on from what it leaves.

    Where the run is finished already, a line says so: what follows takes its result.

    Raises:
        UserError: another process is at it, and `wait` is false.
    """
    printed = False
    while True:
        with claimed(stage, identity) as folder:
            if folder is not None:
                say_finished(stage, folder)
                yield folder
                return
        if not wait:
            raise UserError(f"{busy(stage, identity)}; wait for it, or stop it")
        if not printed:
            print(f"{busy(stage, identity)}; this one waits for it", flush=True)  # at once, also into a log
        printed = True
        time.sleep(POLL)


def busy(stage: str, identity: str) -> str:
    """Of a run that another process has."""
    return f"another process is at this very run of {stage} ({folder_of(stage, identity)})"


def say_finished(stage: str, folder: Path) -> None:
    """Say when a run was finished, if it was."""
    note = folder / FINISHED
    if note.is_file():
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(note.stat().st_mtime))
        say(f"{stage}: taken from the run that finished at {when}; to compute it anew, delete {folder}")


def finished(stage: str, identity: str, output: Path) -> None:
    """Note that the run made `output`."""
    write_json(folder_of(stage, identity) / FINISHED, {"output": _mark(output)})


def tidy(stage: str, outputs: Iterable[Path]) -> None:
    """Remove the runs of `stage` that made `outputs`; called by the next stage, which starts when DVC has them."""
    notes = list((root() / FOLDER / stage).glob(f"*/{FINISHED}"))
    marks = {_mark(output) for output in outputs} if notes else set()
    for note in notes:
        try:
            if json.loads(note.read_text(encoding="utf-8"))["output"] in marks:
                with FileLock(note.parent / "lock", timeout=0):
                    unprotect(note.parent)
                    shutil.rmtree(note.parent, ignore_errors=True)  # Windows keeps the lock, which is open
        except (FileNotFoundError, Timeout):  # another worker of the queue removed it, or goes on with it
            pass


def _mark(output: Path) -> str:
    """A hash of names, sizes and first bytes of all files: it distinguishes outputs without reading gigabytes."""
    total = hashlib.sha256()
    for path in sorted(p for p in output.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            total.update(f"{path.relative_to(output).as_posix()} {path.stat().st_size}".encode() + file.read(2**16))
    return total.hexdigest()


def save(folder: Path, step: int, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write a checkpoint, and delete all but the last KEPT.

    Args:
        folder: of the run, or one in it.
        step: by which checkpoints are ordered.
        tensors: on the CPU, contiguous.
        values: anything that is JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "state.tmp"
    save_file(tensors, temporary, metadata={"values": json.dumps(values)})
    temporary.replace(folder / f"{step:08d}-{sha256(temporary)[:16]}.safetensors")
    for old in _states(folder)[:-KEPT]:
        with suppress(PermissionError):  # Windows keeps a file that another process reads; it goes the next time
            old.unlink()


def forget(folder: Path) -> None:
    """Delete the checkpoints of a run that has its result: they are several times as large."""
    for path in _states(folder):
        path.unlink()


def latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and values of the last checkpoint that is not damaged, None where there is none."""
    for path in reversed(_states(folder)):
        try:
            if path.stem.split("-")[1] == sha256(path)[:16]:
                with safe_open(path, framework="pt") as file:
                    # copies: on Windows a file that is mapped cannot be deleted
                    tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
                    return tensors, json.loads(file.metadata()["values"])
        except (OSError, SafetensorError):
            pass
        say(f"{path} is damaged; going back to the one before it")
    return None


def _states(folder: Path) -> list[Path]:
    """Checkpoints in the order of their steps as numbers; names of steps with more digits sort otherwise."""
    return sorted(folder.glob("*-*.safetensors"), key=lambda path: int(path.stem.split("-")[0]))


def ask_to_stop(process: int) -> None:
    """Ask a trainer of this project, by the number of its process, as SIGTERM does; on Windows that ends it at once."""
    file = _stop_file(process)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def _stop_file(process: int) -> Path:
    return root() / STOPS / str(process)


@contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C, SIGTERM or `ask_to_stop` came; a second Ctrl-C ends the process.

    Signals within SECOND_SIGNAL are one: a terminal sends Ctrl-C to every process, and a parent passes it on, too.
    """
    first: float | None = None
    file = _stop_file(os.getpid())
    file.unlink(missing_ok=True)  # meant for another process that had this number

    def note(*_: object) -> None:
        nonlocal first
        if first is None:
            first = time.monotonic()
            say("stopping after this step; a checkpoint is written first")
        elif time.monotonic() - first > SECOND_SIGNAL:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: first is not None or file.exists()
    finally:
        file.unlink(missing_ok=True)
        for number, handler in before.items():
            signal.signal(number, handler)
