"""What a run will take, before it starts: tokens, parameters, memory, hours, disk, for each arm on this machine.

Memory is counted on fake tensors (nightshift/commands/memory.py) and holds for a machine that is not there, too; hours are
measured, by up to 20 whole steps of the very arm.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil
import torch
from torch import Tensor

from nightshift.backbone import encoder
from nightshift.model.segmentation import lora
from nightshift.model.segmentation import Arm
from nightshift.engine.device import autocast, give_memory_back
from nightshift.feature_cache import bytes_per_case, kept_cases
from nightshift.commands.memory import peak_bytes
from nightshift.ingest.record import SPLITS, Problems, RawCase
from nightshift.config.params import ArmName, Settings, Simulated
from nightshift.simulation.simulator import Simulation, split_patients
from nightshift.ingest.sources import listed, raw_cases
from nightshift.ingest.splits import given_split, made_split, misplaced
from nightshift.training.step import add_gradients, at_once, optimiser_of

STEPS, SECONDS = 20, 60.0  # per arm: that many measured steps, fewer where they would take longer
OVERHEAD = 1.1  # of what tensors take: fragments, and what kernels use inside themselves
CONTEXT = 2**30  # bytes of a GPU that CUDA, cuDNN and the kernels themselves take


@dataclass(frozen=True)
class Forecast:
    """Of one arm: bytes of memory it needs and the device has, bytes of cache; `took` None where it does not fit."""

    need: int
    memory: int
    kept: int
    took: "Time | None"
    seconds: float


@dataclass(frozen=True)
class Time:
    """Seconds, measured: of a whole training step, of one case through the prefix and through everything."""

    step: float
    prefix: float
    case: float
    measured: str


def counts(settings: Settings) -> dict[str, int]:
    """Cases per split, before anything is prepared and without a pixel read: what `prepare` leaves out is counted.

    Raises UserError as listing the source does.
    """
    data = settings.data
    if isinstance(data, Simulated):
        splits = split_patients(Simulation(**data.model_dump(exclude={"kind", "split"})))
        if data.split == "given":
            return {name: splits.count(name) * data.views for name in SPLITS}
        patients = [str(patient) for patient in range(data.patients) for _ in range(data.views)]
        found = [RawCase(str(i), patient, None, "", (), None) for i, patient in enumerate(patients)]
    else:
        found = raw_cases(data) if settings.prepare.on_problem == "stop" else listed(data, Problems())
    if data.split == "given" and settings.prepare.on_problem == "skip":
        wrong = {case.case_id for case, _ in misplaced(found)}
        found = [case for case in found if case.case_id not in wrong]
    split = given_split(found) if data.split == "given" else made_split(found, settings.prepare)
    return {name: len(split[name]) for name in SPLITS}


def start_of(name: ArmName, settings: Settings) -> int:
    depth = settings.preset.depth
    return depth if name == "frozen" else lora.prefix_end(settings.lora, depth)


def new_arm(name: ArmName, settings: Settings, device: str) -> Arm:
    """The arm as it is trained, on the CPU or, without weights, on meta."""
    arm = Arm(encoder.configured(settings, device), start_of(name, settings), settings)
    if name == "lora":
        lora.add_adapters(arm.neck.trunk, settings.lora)
    return arm.to(device).train()


def batch_of(settings: Settings, start: int, cases: int, device: torch.device) -> dict[str, Tensor]:
    """A batch of `cases` as `ArmCases` collates it, of noise."""
    side, grid = settings.resolution, settings.resolution // settings.preset.patch_size
    batch = {
        "index": torch.arange(cases),
        "angles": torch.zeros(cases, 2, device=device),
        "target": torch.rand(cases, 1, side, side, device=device).round(),
    }
    if start:
        batch["tokens"] = torch.rand(cases, grid, grid, settings.preset.embed_dim, device=device)
    if not start or settings.head.detail:
        batch["images"] = torch.rand(cases, 3, side, side, device=device)
    return batch


def tensors(name: ArmName, settings: Settings) -> int:
    """Peak bytes of all tensors in a training step of the arm, at `micro_batch` cases per forward."""
    own, start, cpu = settings.train_for(name), start_of(name, settings), torch.device("cpu")
    counted = min(own.batch_size, 2 * at_once(own))  # the third forward and backward finds what the second one found

    def two_steps(arm: Arm) -> None:  # the second one finds the optimiser's state there
        optimiser = optimiser_of(arm, own)
        for _ in range(2):
            optimiser.zero_grad()
            add_gradients(arm, batch_of(settings, start, counted, cpu), own, cpu)
            optimiser.step()

    waiting = batch_of(settings, start, 1, torch.device("meta"))
    rest = sum(value.nbytes for value in waiting.values()) * (own.batch_size - counted)
    return peak_bytes(lambda: new_arm(name, settings, "meta"), two_steps) + rest


def needed(peak: int, device: torch.device, process: int) -> int:
    """Bytes of memory of the device for a tensor peak; `process`: what the process takes before any tensor."""
    return int(peak * OVERHEAD) + (CONTEXT if device.type == "cuda" else process)


def options(name: ArmName, settings: Settings) -> Iterator[tuple[dict[str, str], Settings]]:
    """Settings of the arm that take less memory for the same result, the mildest first, and what to set for them.

    Fewer cases at a time cost little, as long as a case fills the device; running blocks twice costs a third.
    """
    full, checkpointing = at_once(settings.train_for(name)), settings.lora.activation_checkpointing
    for again in sorted({checkpointing, name == "lora" or checkpointing}):
        micro = full
        while micro:
            told = {f"{name}.micro_batch": str(micro)} if micro != full else {}
            if again != checkpointing:
                told["lora.activation_checkpointing"] = "true"
            own = getattr(settings, name).model_copy(update={"micro_batch": micro})
            changed = settings.model_copy(update={name: own})
            lora_section = changed.lora.model_copy(update={"activation_checkpointing": again})
            yield told, changed.model_copy(update={"lora": lora_section})
            micro //= 2


def measure(name: ArmName, settings: Settings, device: torch.device, progress: Callable) -> Time:
    """Whole training steps and forwards of the arm, timed on `device`, with the weights of its encoder."""
    own, start = settings.train_for(name), start_of(name, settings)
    arm = new_arm(name, settings, "cpu").to(device)
    if arm.checkpointing:
        give_memory_back()
    optimiser = optimiser_of(arm, own)

    def step(cases: int) -> float:
        batch = batch_of(settings, start, cases, device)
        return _seconds(
            device, lambda: (optimiser.zero_grad(), add_gradients(arm, batch, own, device), optimiser.step())
        )

    step(1)  # warms up
    one, cases, steps = step(1), own.batch_size, STEPS
    if one * cases > SECONDS:  # too slow to measure a whole batch
        cases, steps, seconds = 1, 1, [one]
    else:
        steps = min(STEPS, max(1, int(SECONDS / (one * cases))))
        seconds = [step(cases) for _ in progress(range(steps))]
    images = batch_of(settings, 0, 1, device)["images"]
    arm.eval()
    with torch.no_grad(), autocast(device, settings.encoder.precision):
        prefix = _seconds(device, lambda: encoder.run_prefix(arm.neck.trunk, images, start)) if start else 0.0
        case = _seconds(device, lambda: arm(None, torch.zeros(1, 2, device=device), images))
    measured = f"{steps} steps of {cases} cases"
    return Time(sorted(seconds)[len(seconds) // 2] * own.batch_size / cases, prefix, case, measured)


def _seconds(device: torch.device, call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def forecast(name: ArmName, settings: Settings, device: torch.device, process: int, progress: Callable) -> Forecast:
    """What the arm will take here. `process`: bytes that a process takes before any tensor."""
    cases, memory = counts(settings), memory_of(device)
    need, kept = needed(tensors(name, settings), device, process), disk_bytes(name, settings, cases)
    if need > memory:
        return Forecast(need, memory, kept, None, 0.0)
    took = measure(name, settings, device, progress)
    return Forecast(need, memory, kept, took, total_seconds(name, settings, cases, took))


def memory_of(device: torch.device) -> int:
    """Bytes that the device has, in use or not."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return psutil.virtual_memory().total


def advice(name: ArmName, settings: Settings, device: torch.device, process: int, memory: int) -> str:
    """The mildest settings with which the arm fits, as `-S` takes them."""
    for told, changed in options(name, settings):
        if needed(tensors(name, changed), device, process) <= memory:
            return " ".join(f"-S {key}={value}" for key, value in told.items())
    return "a smaller encoder.resolution"


def total_seconds(name: ArmName, settings: Settings, cases: dict[str, int], took: Time) -> float:
    """Of the whole arm: prefix once per case, then per seed all epochs with validation, and the test cases."""
    own = settings.train_for(name)
    steps = -(-cases["train"] // own.batch_size)
    suffix = max(0.0, took.case - took.prefix)
    training = own.epochs * (steps * took.step + cases["val"] * suffix)
    encoded = sum(kept_cases(settings, (cases["train"], cases["val"])).values())
    return encoded * took.prefix + len(own.seeds) * (training + cases["test"] * took.case)


def disk_bytes(name: ArmName, settings: Settings, cases: dict[str, int]) -> int:
    """Of what is kept of every train and val case."""
    level = settings.encode.level if name == "frozen" else "trunk"
    kept = sum(kept_cases(settings, (cases["train"], cases["val"])).values()) if start_of(name, settings) else 0
    return kept * bytes_per_case(settings, level)
