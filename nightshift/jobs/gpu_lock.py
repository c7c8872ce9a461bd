"""Who computes on which device: no two runs of this machine land on the same GPU.

A lock per device, in a folder that all checkouts and users of the machine share, and beside it a note for those who
wait. The lock alone decides, and the system frees it the moment its process ends, however it ends. A GPU's lock is
named by its UUID: with CUDA_VISIBLE_DEVICES one card may have different numbers in two processes. Without CUDA there is
nothing to lease, unless hardware.yaml lists devices: the numbers are then slots, so that `[0]` lets one run in at a
time. The probe (seconds, and little memory) and `stages.plan` lease nothing.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout

from nightshift.engine.device import device
from nightshift.console.errors import UserError
from nightshift.core.io import write_json
from nightshift.config.hardware import hardware
from nightshift.config.project import root

POLL = 0.25  # seconds
EVERYONE = 0o666  # other users of the machine lock the same files


@contextmanager
def leased(stage: str, count: int = 1, among: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Hold `count` devices of `among` (all that `numbers` has) and yield their numbers, none where it has none.

    All or nothing, so two runs never wait for each other. While too few are free, says on one line who has them, and
    waits. A single GPU is made the current one. Raises UserError as `numbers` does, and instead of waiting where
    hardware.yaml says `busy: refuse`.
    """
    names = _names(numbers(count) if among is None else among)
    if not names:
        yield []
        return
    refuse, said = hardware().busy == "refuse", ""
    locks, busy = _take(stage, names, count)
    while busy:
        if refuse:
            raise UserError(f"{busy}; run it again later, or set busy: wait in hardware.yaml")
        if busy != said:
            print(f"{stage} waits: {busy}", flush=True)  # at once, also into the log of a queued run
            said = busy
        time.sleep(POLL)
        locks, busy = _take(stage, names, count)
    try:
        if count == 1 and device().type == "cuda":
            torch.cuda.set_device(*locks)
        yield list(locks)
    finally:
        for lock in locks.values():
            lock.release()


def numbers(count: int) -> list[int]:
    """The devices that `count` processes may run on, as torch counts them; none where nothing is to be leased.

    Raises UserError as `allowed` does.
    """
    gpus = torch.cuda.device_count() if device().type == "cuda" else None
    return allowed(hardware().devices, gpus, count)


def allowed(wanted: Literal["auto"] | Sequence[int], gpus: int | None, count: int) -> list[int]:
    """`numbers`, where hardware.yaml says `devices: wanted` and torch sees so many `gpus`, or None without CUDA.

    Raises UserError for a GPU that is not there, and where there are fewer devices than `count`.
    """
    there = list(range(gpus or 0)) if wanted == "auto" else list(wanted)
    if gpus is not None and (unknown := [number for number in there if number >= gpus]):
        seen = ", ".join(map(str, range(gpus)))
        raise UserError(f"hardware.yaml: devices: there is no GPU {unknown[0]}, torch sees {seen}")
    if there and count > len(there):
        found = f"there are {gpus} GPUs" if wanted == "auto" else f"hardware.yaml has devices: {there}"
        raise UserError(f"{count} processes, but {found}; set processes: {len(there)} in hardware.yaml")
    return there


def _names(there: Sequence[int]) -> dict[int, str]:
    """Number -> a name that is the device's own, whatever its number: of a GPU the one that nvidia-smi gives it."""
    if device().type == "cuda":
        return {number: f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in there}
    return {number: f"slot-{number}" for number in there}


def _take(stage: str, names: dict[int, str], count: int) -> tuple[dict[int, FileLock], str]:
    """The locks of the first `count` devices that are free, with notes; or none, and one line that says who has them.

    One process at a time: what it sees holds still, and a note beside a lock that is held is the holder's own.
    """
    folder = _folder()
    locks: dict[int, FileLock] = {}
    with FileLock(folder / "door.lock", mode=EVERYONE):
        for number, name in names.items():
            lock = FileLock(folder / f"{name}.lock", mode=EVERYONE, blocking=False)
            if len(locks) < count:
                with suppress(Timeout):
                    lock.acquire()
                    locks[number] = lock
        if len(locks) == count:
            for number in locks:
                write_json(folder / f"{names[number]}.json", _note(stage))
            return locks, ""
        for lock in locks.values():
            lock.release()
        holders: dict[str, list[str]] = {}
        for number in sorted(names.keys() - locks.keys()):
            what = f"{names[number].partition('-')[0]} {number}"
            holders.setdefault(_holder(folder / f"{names[number]}.json"), []).append(what)
    return {}, "; ".join(f"{' and '.join(which)} in use by {who}" for who, which in holders.items())


def _note(stage: str) -> dict[str, str | int]:
    queued = root().resolve() != Path.cwd()
    return {
        "stage": stage,
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "checkout": str(root().resolve()),
        "queued": os.environ.get("DVC_EXP_NAME", "unnamed") if queued else "",
    }


def _holder(note: Path) -> str:
    try:
        told = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "another user's run"  # whose umask keeps the note from us
    queued = f"the queued run {told['queued']} of " if told["queued"] else ""
    return f"{told['stage']} of {queued}{told['checkout']} (process {told['process']}, since {told['since']})"


def _folder() -> Path:
    """Below the system's temporary folder, and without its sticky bit: users could not open each other's files."""
    folder = Path(tempfile.gettempdir()) / "nightshift-leases"
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o777)  # only one that was made here, never what a link points to
    return folder
