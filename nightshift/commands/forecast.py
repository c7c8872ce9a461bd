"""What an arm will take on this machine before it starts: parameters, memory, disk and hours.

Hours are measured, by up to 20 whole training steps of the arm itself or, where nothing is trained, by maps.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from nightshift.backbone import encoder
from nightshift.commands import planning
from nightshift.commands.planning import Disk, FoldSize, new_model, noise_batch, start_of
from nightshift.config.params import ArmSettings
from nightshift.console.progress import Progress
from nightshift.data.augmentation import varied
from nightshift.data.channels import input_of
from nightshift.data.letterbox import mask_to_square
from nightshift.data.samples import remembered
from nightshift.engine.device import autocast, give_memory_back
from nightshift.feature_cache import cases_kept
from nightshift.model.base import ArmModel
from nightshift.model.segmentation import SegmentationModel
from nightshift.training.step import add_gradients, optimiser_of

MEASURED_STEPS, MEASURED_SECONDS = 20, 60.0  # per arm: that many training steps, fewer where they take longer


@dataclass(frozen=True)
class Time:
    """Seconds, measured.

    `step`: a training step. `prefix`: one case through the frozen prefix. `case`: one case through the whole model.
    `variant`: to make one that is made once, not in every step.
    `passes`: how many times the validation cases are asked per seed. `measured`: by what, for a message.
    """

    step: float
    prefix: float
    case: float
    variant: float
    passes: int
    measured: str


@dataclass(frozen=True)
class Forecast:
    """What an arm takes, in bytes and seconds.

    `trained`: number of parameters. `need`: of memory, and `memory` that the device has. `took` is None and `seconds` 0
    where it does not fit, and where another run has the device.
    """

    trained: int
    need: int
    memory: int
    disk: Disk
    took: Time | None
    seconds: float

    @property
    def fits(self) -> bool:
        return self.need <= self.memory


def of_arm(
    settings: ArmSettings,
    folds: Sequence[FoldSize],
    device: torch.device,
    process_bytes: int,
    progress: Progress,
    busy: str = "",
) -> Forecast:
    """What the arm takes on `device`.

    Args:
        settings: of the arm.
        folds: as `planning.fold_sizes` has them.
        device: where it would run.
        process_bytes: as in `planning.needed`.
        progress: wraps the measured steps.
        busy: who has the device, if it is not this process; then nothing is computed there.
    """
    trained = encoder.count_parameters(new_model(settings, "meta"))
    memory, disk = planning.memory_of(device, busy), planning.disk_of(settings, folds, trained)
    one = settings.single(settings.train.rates[0])
    need = planning.needed(planning.tensor_bytes(one, device), device, process_bytes)
    if need > memory or busy:
        return Forecast(trained, need, memory, disk, None, 0.0)
    took = measure(one, device, progress)
    return Forecast(trained, need, memory, disk, took, total_seconds(settings, folds, took))


def measure(settings: ArmSettings, device: torch.device, progress: Progress) -> Time:
    """Time whole training steps and forward passes of the arm on `device`, with the weights of its encoder."""
    train, start = settings.train, start_of(settings)
    model = new_model(settings, "cpu").to(device)
    images = noise_batch(settings, 0, 1, device)["images"]
    if model.candidates():
        return _untrained_time(model, images, progress)
    if model.activation_checkpointing:
        give_memory_back()
    optimiser = optimiser_of(model, train)

    loading, variant = _warm_seconds(partial(_load_one, settings, start)), 0.0
    if settings.augment.variants or settings.augment.online:
        variant = _warm_seconds(partial(_vary_one, settings))
    if settings.augment.online and not start:
        loading, variant = loading + variant, 0.0

    def step(cases: int) -> float:
        """Of a batch and of loading it; for a GPU that is done meanwhile, and what takes longer counts."""
        batch = noise_batch(settings, start, cases, device)
        took = _seconds(device, lambda: (optimiser.zero_grad(), add_gradients(model, batch, train), optimiser.step()))
        return max(took, cases * loading) if device.type == "cuda" else took + cases * loading

    step(1)  # warms up
    one, cases, steps = step(1), train.batch_size, MEASURED_STEPS
    if one * cases > MEASURED_SECONDS:  # too slow to measure a whole batch
        cases, steps, seconds = 1, 1, [one]
    else:
        steps = min(MEASURED_STEPS, max(1, int(MEASURED_SECONDS / (one * cases))))
        seconds = [step(cases) for _ in progress(range(steps))]
    model.eval()
    with torch.no_grad(), autocast(device, settings.precision):
        prefix = 0.0
        if start:
            assert isinstance(model, SegmentationModel)
            trunk = model.neck.trunk
            prefix = _seconds(device, lambda: encoder.run_prefix(trunk, images, start))
        case = _seconds(device, lambda: model(None, torch.zeros(1, 2, device=device), images))
    batch_seconds = sorted(seconds)[len(seconds) // 2] * train.batch_size / cases
    measured = f"{steps} steps of {cases} cases, {batch_seconds:.2f} s per batch"
    return Time(batch_seconds, prefix, case, variant, train.most_epochs, measured)


def _untrained_time(model: ArmModel, images: Tensor, progress: Progress) -> Time:
    """Of a map of `images` by each candidate."""
    seconds = []
    for candidate in progress(model.candidates()):
        model.use(candidate)
        seconds.append(_seconds(images.device, lambda: model(None, None, images)))
    case = sum(seconds) / len(seconds)
    return Time(0.0, 0.0, case, 0.0, len(seconds), f"{len(seconds)} candidates, {case:.2f} s per case")


def _load_one(settings: ArmSettings, start: int) -> dict[str, Tensor]:
    """A case as `TrainingCases` makes it, of noise and without reading a file: that is in the system's cache."""
    frame = np.random.default_rng(0).integers(0, 256, (settings.resolution,) * 2, dtype=np.uint8)
    case = {"target": mask_to_square(frame // 128, settings.resolution)}
    if not start or settings.needs_images:
        case["images"] = input_of(frame, settings.resolution, settings.channels)
    return default_collate([case])


def _vary_one(settings: ArmSettings) -> None:
    """Make a variant of a case, of noise, at the side of the arm's square."""
    frame = np.random.default_rng(0).integers(0, 256, (settings.resolution,) * 2, dtype=np.uint8)
    varied({"frame": frame, "mask": frame // 128}, "", 1, settings.augment)


def _warm_seconds(call: Callable[[], object]) -> float:
    """Of a second call on the CPU: the first one imports."""
    call()
    return _seconds(torch.device("cpu"), call)


def _seconds(device: torch.device, call: Callable[[], object]) -> float:
    """Of a call; on a GPU of a second one, as the first loads the kernels, which takes many times as long."""
    if device.type == "cuda":
        call()
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def total_seconds(settings: ArmSettings, folds: Sequence[FoldSize], took: Time) -> float:
    """Of the whole arm: the prefix once per frame, then per fold and seed training, validation and what is tested.

    As if one process did it; several learning rates are tried with the first seed.
    """
    train, suffix = settings.train, max(0.0, took.case - took.prefix)
    cases = folds[0].train + folds[0].val + folds[0].test
    variants = settings.augment.variants
    seconds = cases_kept(settings.augment, cases) * took.prefix
    seconds += cases * variants * took.variant if took.prefix else 0
    for fold in folds:
        size = fold.with_patients(train.patients)
        steps = -(-size.train // train.batch_size)
        seconds += settings.trainings * took.passes * (steps * took.step + size.val * suffix)
        made = float(size.train * variants)  # in a training: all once, or those that each epoch draws
        if size.train + made > remembered(settings):
            made = took.passes * made / (1 + variants)
        seconds += settings.trainings * made * took.variant
        seconds += len(train.seeds) * (size.test + size.external) * took.case
    return seconds
