"""hardware.yaml: where a run is computed. Never a reason to rerun: no stage depends on it."""

from functools import cache
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nightshift.config.params import read_as
from nightshift.config.presets import Positive, Section
from nightshift.config.project import root


def _distinct(numbers: list[int]) -> list[int]:
    if len(set(numbers)) < len(numbers):
        raise ValueError("not distinct")
    return numbers


class Hardware(Section):
    """None of this may change a result; threads and processes do in the last bits.

    `devices`, `busy`: see nightshift/jobs/gpu_lock.py. `checkpoint_minutes`: within an epoch.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: (
        Literal["auto"] | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_distinct)]
    ) = Field(default="auto", description="auto, or a list of different numbers from 0, as [0, 1]")
    busy: Literal["wait", "refuse"] = "wait"
    threads: Positive = 2
    processes: Positive = 1
    checkpoint_minutes: Annotated[float, Field(ge=0, strict=False)] = 10


@cache
def hardware() -> Hardware:
    """hardware.yaml of the main checkout (a queued run has no ignored files), or the defaults where there is none.

    Read once per process: an edit changes what starts afterwards, never a run that is going.
    Raises UserError for an unknown key or a value of another type.
    """
    path = root() / "hardware.yaml"
    return read_as(Hardware, path) if path.exists() else Hardware()
