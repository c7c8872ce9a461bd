"""hardware.yaml: where a run is computed. No stage depends on it, so that an edit never makes one run again."""

from functools import cache
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nightshift.config.params import read_as
from nightshift.config.presets import Positive, Section
from nightshift.core.project import root

Tracker = Literal[
    "all", "aim", "tensorboard", "wandb", "trackio", "comet_ml", "mlflow", "clearml", "dvclive", "swanlab"
]  # accelerate's names; importing them would import torch


def _distinct(numbers: list[int]) -> list[int]:
    """The same numbers. Raises ValueError where one is given twice."""
    if len(set(numbers)) < len(numbers):
        raise ValueError("not distinct")
    return numbers


class Slurm(Section):
    """What `nightshift queue start --on slurm` asks for; `--on local` takes `clones` and `grace` of it.

    Attributes:
        partition, account, gres: as sbatch takes them; empty is the cluster's default.
        memory: sbatch's `--mem`, such as 32G.
        cpus, minutes: of a job; one that reaches its time limit goes on in the next one.
        at_once: jobs of a sweep at a time.
        setup: shell lines before the job, such as `module load cuda`.
        options: further ones of sbatch by name, such as {qos: long}.
        clones: a folder on the node for the job's clone of the project; empty is the node's temporary folder.
        grace: seconds before the time limit at which a job writes its checkpoint.
    """

    partition: str = ""
    account: str = ""
    gres: str = ""
    memory: str = ""
    cpus: Positive = 2
    minutes: Positive = 720
    at_once: Positive = 4
    setup: list[str] = Field(default_factory=list)
    options: dict[str, str | int] = Field(default_factory=dict)
    clones: str = ""
    grace: Positive = 90


class Hardware(Section):
    """None of this may change a result, but for `threads`, `processes` and `compile`: these do in the last bits.

    Attributes:
        device: `auto` is CUDA where torch sees a GPU.
        devices, busy: see nightshift/jobs/gpu_lock.py.
        threads: of torch on the CPU, in each process; also those that simulate and check cases.
        processes: that share one run on this machine; see nightshift/jobs/launch.py.
        compile: training and encoding run blocks of the encoder that torch.compile has made.
        checkpoint_minutes: time between two checkpoints within an epoch.
        trackers: that show the trainings, see nightshift/jobs/trackers.py; `all` is those that are installed.
        slurm: see `Slurm`.
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
    trackers: list[Tracker] = Field(default=[])
    slurm: Slurm = Field(default_factory=Slurm)


@cache
def hardware() -> Hardware:
    """hardware.yaml of the main checkout (a queued run has no ignored files), or the defaults where there is none.

    It is read once per process: an edit changes what starts afterwards, never a stage that is running.

    Raises:
        UserError: an unknown key, or a value of another type.
    """
    path = root() / "hardware.yaml"
    return read_as(Hardware, path) if path.exists() else Hardware()
