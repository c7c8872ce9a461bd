"""Where and how a stage computes: the device, and what makes two runs of it give the same bytes."""

import random

import numpy as np
import torch

from nightshift.settings import hardware


def device() -> torch.device:
    """The device of hardware.yaml; `auto` is CUDA where there is some."""
    wanted = hardware().device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
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
