"""hardware.yaml: where a run is computed. No stage depends on it, so that an edit never makes one run again."""

from functools import cache
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nightshift.config.params import read_as
from nightshift.config.presets import Positive, Section
from nightshift.core.project import root


def _distinct(numbers: list[int]) -> list[int]:
    """The same numbers. Raises ValueError where one is given twice."""
    if len(set(numbers)) < len(numbers):
        raise ValueError("not distinct")
    return numbers


class Hardware(Section):
    """None of this may change a result, but for `threads`, `processes` and `compile`: these do in the last bits.

    Attributes:
        device: `auto` is CUDA where torch sees a GPU.
        devices, busy: see nightshift/jobs/gpu_lock.py.
        threads: of torch on the CPU, in each process.
        processes: that share one run on this machine; see nightshift/jobs/launch.py.
        compile: training and encoding run blocks of the encoder that torch.compile has made.
        checkpoint_minutes: time between two checkpoints within an epoch.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: (
        Literal["auto"] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_distinct)]
    ) = Field(default="auto", description="auto, or a list of different numbers from 0, as [0, 1]")
    busy: Literal["wait", "refuse"] = "wait"
    threads: Positive = 2
    processes: Positive = 1
    compile: bool = False
    checkpoint_minutes: Annotated[float, Field(ge=0, strict=False)] = 10


@cache
def hardware() -> Hardware:
    """hardware.yaml of the main checkout (a queued run has no ignored files), or the defaults where there is none.

    It is read once per process: an edit changes what starts afterwards, never a stage that is running.

    Raises:
        UserError: an unknown key, or a value of another type.
    """
    path = root() / "hardware.yaml"
    return read_as(Hardware, path) if path.exists() else Hardware()
