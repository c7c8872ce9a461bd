"""States of a run that was not finished, outside of what DVC knows: DVC deletes a stage's outputs before it runs it.

    .nightshift/checkpoints/STAGE/FINGERPRINT/...      below DVC_ROOT, so that a queued run leaves them there, too

The fingerprint is of everything that the result follows from: other settings, data, code or versions never go on with
this run. A checkpoint is one safetensors file, written under a temporary name and renamed; the hash of its bytes is in
its name. No pickle. When a stage has finished, its run stays until the stage after it starts: only then DVC has the
output in its cache.
"""

import hashlib
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nightshift.console.errors import UserError
from nightshift.core.io import write_json
from nightshift.core.hashing import sha256
from nightshift.console.progress import say
from nightshift.config.project import root

FOLDER = Path(".nightshift/checkpoints")
PACKAGES = ("torch", "sam3", "peft", "safetensors", "numpy")
KEPT = 2
POLL = 0.1  # seconds


class Interrupted(UserError):
    """Ctrl-C or SIGTERM, after a checkpoint was written."""


def fingerprint(**parts: Any) -> str:
    """Sixteen digits for these values, the versions of PACKAGES and the source of every module of ours in use."""
    ours = (m.__file__ for name, m in sys.modules.items() if name.startswith("nightshift.") and m.__file__)
    sources = [Path(file) for file in ours]
    everything = {
        "parts": parts,
        "versions": {name: version(name) for name in PACKAGES},
        "code": {path.name: sha256(path) for path in sorted(sources)},
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def folder_of(stage: str, identity: str) -> Path:
    return root() / FOLDER / stage / identity


@contextmanager
def run_folder(stage: str, identity: str, *, wait: bool = False) -> Iterator[Path]:
    """The folder of this run of `stage`, locked while in use; the lock dies with its process.

    Another process may be at this very run: a second worker of the queue, or a trainer whose DVC was killed.
    With `wait`, this one goes on from what that one leaves; else raises UserError.
    """
    folder = folder_of(stage, identity)
    lock, busy, told = FileLock(folder / "lock", timeout=0), f"another process is at this very run of {stage}", False
    while not lock.is_locked:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except FileNotFoundError:  # tidied away in this moment
            continue
        except Timeout:
            if not wait:
                raise UserError(f"{busy} ({folder}); wait for it, or stop it") from None
            if not told:
                print(f"{busy} ({folder}); this one waits for it", flush=True)  # at once, also into a log
            told = True
            time.sleep(POLL)
    try:
        yield folder
    finally:
        lock.release()


def finished(stage: str, identity: str, output: Path) -> None:
    """Note that the run made `output`."""
    write_json(folder_of(stage, identity) / "finished.json", {"output": _mark(output)})


def tidy(stage: str, output: Path) -> None:
    """Remove the run of `stage` that made `output`; called by the next stage, which starts when DVC has it."""
    notes = list((root() / FOLDER / stage).glob("*/finished.json"))
    made = _mark(output) if notes else ""
    for note in notes:
        try:
            if json.loads(note.read_text(encoding="utf-8"))["output"] == made:
                with FileLock(note.parent / "lock", timeout=0):
                    shutil.rmtree(note.parent, ignore_errors=True)
        except (FileNotFoundError, Timeout):  # another worker of the queue tidied it away, or goes on with it
            pass


def _mark(output: Path) -> str:
    """Names, sizes and first bytes of all files: tells two outputs apart without reading gigabytes."""
    total = hashlib.sha256()
    for path in sorted(p for p in output.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            total.update(f"{path.relative_to(output).as_posix()} {path.stat().st_size}".encode() + file.read(2**16))
    return total.hexdigest()


def save(folder: Path, step: int, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Write the state after `step`, then drop all but the last two. `values`: anything that is JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / "state.tmp"
    save_file(tensors, temporary, metadata={"values": json.dumps(values)})
    temporary.replace(folder / f"{step:08d}-{sha256(temporary)[:16]}.safetensors")
    for old in _states(folder)[:-KEPT]:
        old.unlink()


def latest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and values of the last whole state, None where there is none. One that is damaged is passed over."""
    for path in reversed(_states(folder)):
        try:
            if path.stem.split("-")[1] == sha256(path)[:16]:
                with safe_open(path, framework="pt") as file:
                    tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                    return tensors, json.loads(file.metadata()["values"])
        except (OSError, SafetensorError):
            pass
        say(f"{path} is damaged; going back to the one before it")
    return None


def _states(folder: Path) -> list[Path]:
    """By step as a number: by name, the first of epoch 100 came before those of epoch 99 and was dropped."""
    return sorted(folder.glob("*-*.safetensors"), key=lambda path: int(path.stem.split("-")[0]))


@contextmanager
def stop_asked() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C or SIGTERM came; a second Ctrl-C stops at once.

    At once after the first it is the same one: a terminal sends it to every process, and a parent passes it on.
    """
    asked: float | None = None

    def note(*_: object) -> None:
        nonlocal asked
        if asked is None:
            asked = time.monotonic()
            say("stopping after this step; a checkpoint is written first")
        elif time.monotonic() - asked > 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
