"""What deterministic kernels cost, and whether two runs give the same bits: as now (warnings alone), off, and strict.

Strict needs CUBLAS_WORKSPACE_CONFIG before CUDA starts: it is a part of its own.
"""

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu_rows import Bench, Measurement, free_memory, speed_rows
from benchmarks.gpu_steps import Stepping
from benchmarks.timing import Row, noted, row
from nightshift.engine.device import seed_everything
from nightshift.training.step import optimiser_of

MODES = {"as_now": (True, True), "off": (False, False), "strict": (True, False)}  # deterministic, warnings alone
STEPS = 5


def now_and_off(bench: Bench) -> Iterator[Measurement]:
    """The two modes that need nothing in the environment."""
    yield from _measurements(bench, "as_now", "off")


def strict(bench: Bench) -> Iterator[Measurement]:
    """Deterministic or an error."""
    yield from _measurements(bench, "strict")


def _measurements(bench: Bench, *modes: str) -> Iterator[Measurement]:
    for arm, cases in (("lora", 4), ("frozen", 8)):
        _use("off")
        stepping = Stepping(arm, cases, bench)
        for mode in modes:
            yield f"{arm}_batch{cases}/{mode}", lambda stepping=stepping, mode=mode: mode_rows(stepping, mode)
        del stepping
        free_memory()


def _use(mode: str) -> None:
    deterministic, warn_only = MODES[mode]
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


def mode_rows(stepping: Stepping, mode: str) -> Iterator[Row]:
    """Speed, what torch warns of, and whether STEPS steps from one state end in the same bits twice."""
    name = stepping.name(mode)
    _use(mode)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stepping.step()
        for number, text in enumerate(sorted({str(one.message).splitlines()[0] for one in caught})[:4]):
            yield noted(f"{name}.warning{number}", text)
        start = [p.detach().clone() for p in trained(stepping)]
        one, other = (after_steps(stepping, start) for _ in range(2))
        same = all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        yield row(f"{name}.same_bits", float(same), "")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from speed_rows(name, stepping.step, stepping.bench, stepping.cases, stepping.flops, stepping.peak)
    finally:
        _use("as_now")


def trained(stepping: Stepping) -> list[Tensor]:
    """The parameters that are trained."""
    return [p for p in stepping.model.parameters() if p.requires_grad]


def after_steps(stepping: Stepping, start: list[Tensor]) -> list[Tensor]:
    """Copies of the trained parameters after STEPS steps from `start`."""
    seed_state = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    seed_everything(0)
    torch.use_deterministic_algorithms(seed_state[0], warn_only=seed_state[1])
    with torch.no_grad():
        for p, value in zip(trained(stepping), start, strict=True):
            p.copy_(value)
    stepping.optimiser = optimiser_of(stepping.model, stepping.train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(STEPS):
            stepping.step()
    return [p.detach().clone() for p in trained(stepping)]
