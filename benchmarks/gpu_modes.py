"""What deterministic kernels cost, and whether two runs give the same bits with them and without."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu_rows import Bench, Measurement, free_memory, speed_rows
from benchmarks.gpu_steps import Stepping
from benchmarks.timing import Row, row
from nightshift.engine.device import seed_everything
from nightshift.training.step import optimiser_of

MODES = {"deterministic": True, "any_kernels": False}  # the first is what the stages use
STEPS = 5


def measurements(bench: Bench) -> Iterator[Measurement]:
    """Both modes for both arms."""
    for arm, cases in (("lora", 4), ("frozen", 8)):
        stepping = Stepping(arm, cases, bench)
        for mode in MODES:
            yield f"{arm}_batch{cases}/{mode}", lambda stepping=stepping, mode=mode: mode_rows(stepping, mode)
        del stepping
        free_memory()


def mode_rows(stepping: Stepping, mode: str) -> Iterator[Row]:
    """Speed, and whether STEPS steps from one state end in the same bits twice."""
    name = stepping.name(mode)
    torch.use_deterministic_algorithms(MODES[mode])
    try:
        start = [p.detach().clone() for p in trained(stepping)]
        one, other = (after_steps(stepping, start) for _ in range(2))
        same = all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        yield row(f"{name}.same_bits", float(same), "")
        yield from speed_rows(name, stepping.step, stepping.bench, stepping.cases, stepping.flops, stepping.peak)
    finally:
        torch.use_deterministic_algorithms(True)


def trained(stepping: Stepping) -> list[Tensor]:
    """The parameters that are trained."""
    return [p for p in stepping.model.parameters() if p.requires_grad]


def after_steps(stepping: Stepping, start: list[Tensor]) -> list[Tensor]:
    """Copies of the trained parameters after STEPS steps from `start`."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    seed_everything(0)
    torch.use_deterministic_algorithms(deterministic)
    with torch.no_grad():
        for p, value in zip(trained(stepping), start, strict=True):
            p.copy_(value)
    stepping.optimiser = optimiser_of(stepping.model, stepping.train)
    for _ in range(STEPS):
        stepping.step()
    return [p.detach().clone() for p in trained(stepping)]
