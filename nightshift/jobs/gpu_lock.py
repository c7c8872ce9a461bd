"""File locks on devices, so that no two runs of this machine use the same GPU.

There is one lock per device, in a folder that all checkouts and users of the machine share, and beside it a note for
those who wait. The lock alone decides; the system frees it when its process ends, however it ends. A GPU's lock has the
GPU's UUID in its name: with CUDA_VISIBLE_DEVICES one card may have different numbers in two processes. Without CUDA
nothing is locked, unless hardware.yaml lists devices: the numbers are then slots, and `[0]` lets one run in at a time.
The probe and `nightshift plan` take a device where one is free, and never wait.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import torch
from filelock import FileLock, Timeout

from nightshift.config.hardware import hardware
from nightshift.console.errors import UserError
from nightshift.core.io import write_json
from nightshift.core.project import root
from nightshift.engine.device import device

POLL = 0.25  # seconds
EVERYONE = 0o666  # permissions of a lock: other users of the machine open the same file


@contextmanager
def locked(stage: str, count: int = 1, among: Sequence[int] | None = None) -> Iterator[list[int]]:
    """Lock devices for as long as the block runs, and make a single GPU the current one.

    It locks all of them or none, so that two runs never wait for each other. While too few are free it prints one line
    that says which runs have them, and waits.

    Args:
        stage: told to those who wait, such as `train@lora`.
        count: how many devices.
        among: numbers of those that may be taken; by default what `device_numbers` gives.

    Yields:
        The numbers of the locked devices; none where nothing is to be locked.

    Raises:
        UserError: as `device_numbers` does; and instead of waiting where hardware.yaml has `busy: refuse`.
    """
    names = _lock_names(device_numbers(count) if among is None else among)
    if not names:
        yield []
        return
    refuse, printed = hardware().busy == "refuse", ""
    locks, busy = _try_to_lock(stage, names, count)
    while busy:
        if refuse:
            raise UserError(f"{busy}; run it again later, or set busy: wait in hardware.yaml")
        if busy != printed:
            print(f"{stage} waits: {busy}", flush=True)  # at once, also into the log of a queued run
            printed = busy
        time.sleep(POLL)
        locks, busy = _try_to_lock(stage, names, count)
    with _held(locks):
        yield list(locks)


@contextmanager
def if_free(stage: str, count: int = 1) -> Iterator[tuple[list[int], str]]:
    """Lock devices as `locked` does, but never wait: their numbers and "", or none and a line that says who has them.

    Where nothing is to be locked, none and "". Raises UserError as `device_numbers` does.
    """
    names = _lock_names(device_numbers(count))
    locks, busy = _try_to_lock(stage, names, count) if names else ({}, "")
    with _held(locks):
        yield list(locks), busy


@contextmanager
def _held(locks: dict[int, FileLock]) -> Iterator[None]:
    """Make a single GPU the current one, and release the locks at the end."""
    try:
        if len(locks) == 1 and device().type == "cuda":
            torch.cuda.set_device(*locks)
            if sys.platform == "win32":  # beyond what is free, Windows takes the CPU's memory, and ten times as long
                free, total = torch.cuda.mem_get_info()
                torch.cuda.set_per_process_memory_fraction(free / total)
        yield
    finally:
        for lock in locks.values():
            lock.release()


def device_numbers(count: int) -> list[int]:
    """Numbers of the devices that `count` processes may run on, as torch counts; none where nothing is to be locked.

    Raises:
        UserError: as `allowed_devices` does.
    """
    gpus = torch.cuda.device_count() if device().type == "cuda" else None
    return allowed_devices(hardware().devices, gpus, count)


def allowed_devices(wanted: Literal["auto"] | Sequence[int], gpus: int | None, count: int) -> list[int]:
    """Numbers of the devices that `count` processes may run on.

    Args:
        wanted: `devices` of hardware.yaml.
        gpus: how many torch sees, None without CUDA.
        count: processes, each of which needs a device of its own.

    Raises:
        UserError: a GPU is not there, or there are fewer devices than processes.
    """
    numbers = list(range(gpus or 0)) if wanted == "auto" else list(wanted)
    if gpus is not None and (unknown := [number for number in numbers if number >= gpus]):
        visible = ", ".join(map(str, range(gpus)))
        raise UserError(f"hardware.yaml: devices: there is no GPU {unknown[0]}, torch sees {visible}")
    if numbers and count > len(numbers):
        available = f"there are {gpus} GPUs" if wanted == "auto" else f"hardware.yaml has devices: {numbers}"
        raise UserError(f"{count} processes, but {available}; set processes: {len(numbers)} in hardware.yaml")
    return numbers


def _lock_names(numbers: Sequence[int]) -> dict[int, str]:
    """Names of the locks by number of the device: of a GPU the UUID that nvidia-smi shows."""
    if device().type == "cuda":
        return {number: f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in numbers}
    return {number: f"slot-{number}" for number in numbers}


def _try_to_lock(stage: str, names: dict[int, str], count: int) -> tuple[dict[int, FileLock], str]:
    """The locks of the first `count` free devices, with notes; or none of them, and a line about who has the others.

    One process at a time does this: so nothing changes while it looks, and a note beside a held lock is its holder's.
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
        devices_of: dict[str, list[str]] = {}
        for number in sorted(names.keys() - locks.keys()):
            label = f"{names[number].partition('-')[0]} {number}"
            devices_of.setdefault(_holder(folder / f"{names[number]}.json"), []).append(label)
    return {}, "; ".join(f"{' and '.join(devices)} in use by {holder}" for holder, devices in devices_of.items())


def _note(stage: str) -> dict[str, str | int]:
    """Who this process is, for those who wait for it."""
    queued = root().resolve() != Path.cwd()
    return {
        "stage": stage,
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "checkout": str(root().resolve()),
        "queued": os.environ.get("DVC_EXP_NAME", "unnamed") if queued else "",
    }


def _holder(path: Path) -> str:
    """A note as a phrase: `train@lora of /home/me/nightshift (process 71, since ...)`."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "another user's run"  # a note that the holder's umask keeps from us
    queued = f"the queued run {note['queued']} of " if note["queued"] else ""
    return f"{note['stage']} of {queued}{note['checkout']} (process {note['process']}, since {note['since']})"


def _folder() -> Path:
    """The folder of the locks, in the system's temporary folder; without that folder's sticky bit.

    With it, users could not open each other's files.
    """
    folder = Path(tempfile.gettempdir()) / "nightshift-locks"
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(0o777)  # only a folder that was made here, never what a link points to
    return folder
