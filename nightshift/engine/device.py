"""Where and how a stage computes: the device, and what makes two runs of it give the same bytes."""

import ctypes
import os
import random
import sys

import numpy as np
import torch

from nightshift.console.errors import UserError
from nightshift.config.hardware import hardware

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by encoder.precision; fp32 is not halved


def device() -> torch.device:
    """The device of hardware.yaml; `auto` is CUDA where there is some.

    Raises UserError if it asks for CUDA and torch sees none: the probe cannot know the machine that trains.
    """
    wanted = hardware().device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("hardware.yaml: device: cuda, but torch sees no GPU here; set device: auto or cpu")
    if wanted == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(wanted)


def seed_everything(seed: int) -> None:
    """One seed for every generator, deterministic kernels, a fixed number of threads: sums add up in one order."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(hardware().threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = (
        False  # it fills every new tensor: slow, and no result uses it
    )


def give_memory_back() -> None:
    """Let glibc return every block of 4 MB or more to the system at once, where there is glibc.

    It would keep blocks of up to 32 MB and fragment them: full-size SAM 3 with activation checkpointing at 1008 px took
    14.9 GB instead of 4.3 on a CPU. Costs a fourth of the time, so it is for those who traded time for memory already.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 4 * 2**20)  # -3: M_MMAP_THRESHOLD


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """`with autocast(device, "bf16"):` products in bfloat16; sums, norms and position tables stay in float32."""
    return torch.autocast(device.type, HALF.get(precision, torch.bfloat16), enabled=precision in HALF)
