"""Sums and messages between the processes that share one run (nightshift/jobs/launch.py starts them).

Every process takes its share of each batch and gradients are added up, so N processes train as one does, with the same
global batch. All functions work in a single process, too.
"""

import os
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nightshift.config.hardware import hardware

T = TypeVar("T")


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def leads() -> bool:
    """Whether this process writes what the processes of a run share: the first of them, joined or not."""
    return int(os.environ.get("RANK", 0)) == 0


def processes() -> int:
    """How many processes a run has, joined or not: a launcher's, or those of hardware.yaml."""
    return int(os.environ.get("WORLD_SIZE", hardware().processes))


def size() -> int:
    """How many processes are joined."""
    return dist.get_world_size() if dist.is_initialized() else 1


def backend(device: torch.device) -> str:
    """What the processes of a run talk by: NCCL between GPUs where torch has it, which is not on Windows, else gloo.

    What is on the CPU goes by gloo in any case.
    """
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" and dist.is_nccl_available() else "gloo"


def add_up(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in place. All are of one type and on one device.

    gloo gets them on the CPU: on Windows it crashes with those of a GPU (pytorch/pytorch#186535).
    """
    if size() > 1:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        flat = flat.cpu() if backend(flat.device) == "gloo" else flat
        dist.all_reduce(flat)
        totals = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, totals, strict=True):
            tensor.copy_(total.view_as(tensor))


def of_all(value: T) -> list[T]:
    """The values of all processes, by number of the process."""
    values = [value] * size()
    if size() > 1:
        dist.all_gather_object(values, value)
    return values


def of_first(value: T) -> T:
    """The value of process 0."""
    values = [value]
    if size() > 1:
        dist.broadcast_object_list(values)
    return values[0]
