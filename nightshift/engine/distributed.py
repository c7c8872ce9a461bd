"""The processes that share one run: `hardware.processes` of them on this machine, or those that a launcher started.

Every rank takes its share of each batch and gradients are added up, so N processes train as one does, with the same
global batch. `accelerate` finds the backend (NCCL, gloo without CUDA and on Windows) and joins what torchrun,
`accelerate launch` or SLURM describe in the environment (RANK, WORLD_SIZE, MASTER_ADDR ...).
"""

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nightshift.console import errors
from nightshift.jobs import gpu_lock as leases
from nightshift.engine.device import device
from nightshift.config.hardware import hardware


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def add_up(tensors: list[Tensor]) -> None:
    """Sum each tensor over the ranks, in place."""
    if size() > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))


def of_all(value: Any) -> list[Any]:
    """The values of all ranks, in order."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather_object(values, value)
    return values


def of_first(value: Any) -> Any:
    """What rank 0 has."""
    values = [value]
    if size() > 1:
        dist.broadcast_object_list(values)
    return values[0]


def run(stage: str) -> None:
    """Run `work()` of a stage module here, in new processes of this machine, or as the rank that this process is.

    It has a device to itself in each process, and waits for it. Raises UserError as `leases.leased` does.
    """
    name, processes = stage.rpartition(".")[2], hardware().processes
    if "RANK" in os.environ:
        _launched(stage, name)
    elif processes == 1:
        with leases.leased(name):
            import_module(stage).work()
    else:
        with leases.leased(name, processes) as devices:
            _spawn(stage, devices or list(range(processes)))


def _launched(stage: str, name: str) -> None:
    """As a rank that a launcher has started. The first rank of a machine leases the first devices for all of them.

    The others wait where all ranks meet, as long as torch lets them (10 minutes or more). One each would not do: two
    runs could then hold one device each and wait for the other one.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    count = int(os.environ.get("LOCAL_WORLD_SIZE", local + 1))
    devices = leases.numbers(count)[:count]
    with leases.leased(name, count, devices) if local == 0 else nullcontext():
        if devices:
            os.environ["LOCAL_RANK"] = str(devices[local])
        _joined(import_module(stage).work)


def _joined(work: Callable[[], None]) -> None:
    from accelerate import PartialState

    state = PartialState(cpu=device().type == "cpu")
    try:
        work()
    except errors.UserError:
        if rank():
            time.sleep(5)  # all ranks met the same mistake: the first one says it, and ends the others
        raise
    state.destroy_process_group()


def _spawn(stage: str, devices: list[int]) -> None:
    """A process for each of the devices. accelerate and `compute.device` take LOCAL_RANK for the number of the GPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.spawn(_rank, (stage, devices, port), len(devices), join=False)

    def pass_on(number: int, _: object) -> None:
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    try:
        while not context.join():
            pass
    except torch.multiprocessing.ProcessExitedException:
        sys.exit(1)  # the rank has said why


def _rank(number: int, stage: str, devices: list[int], port: int) -> None:
    size = len(devices)
    place = {"RANK": number, "LOCAL_RANK": devices[number], "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ.update({key: str(value) for key, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    os.environ["MASTER_PORT"] = str(port)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    errors.run(lambda: _joined(import_module(stage).work))


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
