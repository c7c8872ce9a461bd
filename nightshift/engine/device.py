"""The device of a stage, and what makes two runs of it give the same bytes."""

import ctypes
import os
import random
import shutil
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch

from nightshift.config.hardware import hardware
from nightshift.console.errors import UserError
from nightshift.console.progress import say

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic sums; read where CUDA starts
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by encoder.precision; fp32 is not halved


def device() -> torch.device:
    """The device that hardware.yaml names; `auto` is CUDA where torch sees a GPU. In a launched process its own GPU.

    Raises:
        UserError: it names CUDA and torch sees no GPU.
    """
    wanted = hardware().device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
        if wanted == "cpu":
            _say_why_not_cuda()
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("hardware.yaml: device: cuda, but torch sees no GPU here; set device: auto or cpu")
    if wanted == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(wanted)


@cache
def _say_why_not_cuda() -> None:
    """Say, once, why torch cannot use an NVIDIA GPU that this machine has."""
    if not (shutil.which("nvidia-smi") or Path("/proc/driver/nvidia/version").is_file()):
        return
    reason = f"is built for CUDA {torch.version.cuda}, and the driver is too old for that or cannot be used: update it"
    if torch.version.cuda is None:
        reason = "is built without CUDA: install it from https://download.pytorch.org/whl/cu132 (docs/hardware.md)"
    say(f"this machine has an NVIDIA GPU, but everything runs on the CPU: torch {torch.__version__} {reason}")


def seed_everything(seed: int) -> None:
    """Seed every random generator, and fix kernels and the number of threads, so that sums keep their order.

    On a GPU a kernel that has no deterministic form is an error: two runs of a comparison must not differ by chance. On
    an H200 that is a ninth of a LoRA step's time, and a sixth of a frozen one's (reports/benchmark-gpu.json).
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(hardware().threads)
    torch.use_deterministic_algorithms(True)
    # filling every new tensor is slow, and no result uses what is filled
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def compiles() -> bool:
    """Whether blocks are compiled: hardware.yaml says so and torch can; where it cannot, a line says so, once."""
    return hardware().compile and _can_compile()


@cache
def _can_compile() -> bool:
    try:
        torch.compile(torch.sin)(torch.ones(8, device=device()))
    except Exception as error:  # whatever a compiler, or the lack of one, raises
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        say(f"hardware.yaml: compile: true, but torch cannot compile here, so nothing is compiled: {reason:.200}")
        return False
    return True


def give_memory_back() -> None:
    """Let glibc return every block of 4 MB or more to the system at once, where there is glibc.

    It would keep blocks of up to 32 MB and fragment them: full-size SAM 3 with activation checkpointing at 1008 px took
    14.9 GB instead of 4.3 on a CPU. Costs a fourth of the time, so it is for those who traded time for memory already.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 4 * 2**20)  # -3: M_MMAP_THRESHOLD


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Matrix products in half precision; sums, norms and position tables stay in float32.

    Args:
        device: of the tensors.
        precision: `bf16` or `fp16`; with `fp32` nothing changes.
    """
    return torch.autocast(device.type, HALF.get(precision, torch.bfloat16), enabled=precision in HALF)
