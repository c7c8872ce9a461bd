"""Starts the processes that share one run: `processes` of hardware.yaml on this machine, or those of a launcher.

`accelerate` joins what torchrun or `accelerate launch` describe in the environment (RANK, WORLD_SIZE, MASTER_ADDR ...).
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from datetime import timedelta
from importlib import import_module

import torch
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from nightshift.config.hardware import hardware
from nightshift.console import errors
from nightshift.console.errors import UserError
from nightshift.engine.device import device
from nightshift.engine.distributed import backend, leads
from nightshift.jobs.gpu_lock import device_numbers, locked

LONGEST_WAIT = timedelta(hours=12)  # of a process for the others: a GPU of half the speed encodes for twice as long
SLURM_LINE = "srun --ntasks-per-node=1 torchrun --nnodes=$SLURM_NNODES --nproc-per-node=N --rdzv-backend=c10d "
SLURM_LINE += "--rdzv-endpoint=$(hostname):29500 -m"


def run(stage: str, *arguments: str, joined: bool = True) -> None:
    """Call `work(*arguments)` of a stage's module: here, in new processes of this machine, or as one of a launcher's.

    Each process has a device to itself; where none is free, the run waits.

    Args:
        stage: the module, such as `stages.train`.
        arguments: of its `work`, such as the name of an arm. The GPU lock then is that of `train@lora`.
        joined: several processes are one process group; else each works by itself.

    Raises:
        UserError: as `gpu_lock.locked` does; several tasks of SLURM that are not said to be one run.
    """
    if "RANK" not in os.environ and "SLURM_STEP_ID" in os.environ and int(os.environ.get("SLURM_NTASKS", 1)) > 1:
        line = " ".join([SLURM_LINE, stage, *arguments])
        raise UserError(f"srun started {os.environ['SLURM_NTASKS']} tasks, each of which would run alone; use: {line}")
    label, processes = "@".join([stage.rpartition(".")[2], *arguments]), hardware().processes
    if "RANK" in os.environ:
        _run_launched(stage, arguments, label, joined)
    elif processes == 1:
        with locked(label):
            _work(stage, arguments)
    else:
        with locked(label, processes) as devices:
            _spawn(stage, arguments, devices or list(range(processes)), joined)


def _work(stage: str, arguments: Sequence[str]) -> None:
    import_module(stage).work(*arguments)


def _run_launched(stage: str, arguments: Sequence[str], label: str, joined: bool) -> None:
    """Run as one of the processes that a launcher started. The first one of a machine locks the devices of all of them.

    The others wait where all processes meet. One lock each would not do: two runs could then hold one device each and
    wait for the other one. Where SLURM shows each task its own GPU alone, nobody else is given it.
    """
    if os.environ.get("SLURM_GPUS_PER_TASK") == "1" and device().type == "cuda" and torch.cuda.device_count() == 1:
        os.environ["LOCAL_RANK"] = "0"  # of the GPUs that this process sees
        with locked(label):
            _one_of_several(lambda: _work(stage, arguments), joined)
        return
    local = int(os.environ.get("LOCAL_RANK", 0))
    count = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1))
    devices = device_numbers(count)[:count]
    with locked(label, count, devices) if local == 0 else nullcontext():
        if devices:
            os.environ["LOCAL_RANK"] = str(devices[local])
        _one_of_several(lambda: _work(stage, arguments), joined)


def _one_of_several(work: Callable[[], None], joined: bool) -> None:
    """Call `work`; `joined`: in a group with the other processes of the run, as the environment describes them."""
    from accelerate import PartialState

    on = device()
    state = PartialState(cpu=on.type == "cpu", backend=backend(on), timeout=LONGEST_WAIT) if joined else None
    try:
        work()
    except UserError:
        if not leads():
            time.sleep(5)  # all processes met the same mistake: the first one reports it, and ends the others
        raise
    if state is not None:
        state.destroy_process_group()


def _spawn(stage: str, arguments: Sequence[str], devices: Sequence[int], joined: bool) -> None:
    """Start a process for each of the devices and wait for all; SIGINT and SIGTERM are passed on to them.

    Not on Windows: there it would end them at once, and the console has told them of Ctrl-C itself.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = (stage, arguments, devices, port, joined)
    context = spawn(_run_spawned, place, len(devices), join=False)

    def pass_on(number: int, _: object) -> None:
        for process in context.processes:
            if process.is_alive() and sys.platform != "win32":
                os.kill(process.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    try:
        while not context.join():
            pass
    except ProcessExitedException as error:  # the process has reported why, unless it was killed
        sys.exit(128 - error.exit_code if error.exit_code < 0 else 1)


def _run_spawned(
    number: int, stage: str, arguments: Sequence[str], devices: Sequence[int], port: int, joined: bool
) -> None:
    """Describe the place of this process in the environment, as torchrun does, and run.

    accelerate and `engine.device.device` take LOCAL_RANK for the number of the GPU.
    """
    size = len(devices)
    place = {"RANK": number, "LOCAL_RANK": devices[number], "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({key: str(value) for key, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    os.environ["MASTER_PORT"] = str(port)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else by host name: a VPN that drops would end the run
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    errors.run(lambda: _one_of_several(lambda: _work(stage, arguments), joined))


def _exit_with_parent() -> None:
    """End this process as soon as its parent has ended: a parent that is killed cannot do it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
