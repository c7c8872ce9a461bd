"""What a run will take before it starts: cases, memory and disk of each arm, and settings that take less.

Memory is counted on fake tensors (nightshift/commands/memory.py), so it holds for a GPU of another machine, too.
"""

import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, NoReturn, Self

import psutil
import torch
from torch import Tensor

from nightshift.commands.memory import peak_bytes
from nightshift.config.hardware import hardware
from nightshift.config.kinds import TrainedSection
from nightshift.config.params import ArmSettings, DataSettings, EncoderArmSettings
from nightshift.config.presets import Simulated
from nightshift.console.errors import UserError
from nightshift.data.locations import SPLITS
from nightshift.engine.checkpoints import KEPT
from nightshift.feature_cache import bytes_per_case, cases_kept
from nightshift.ingest.external import all_tested
from nightshift.ingest.record import Problems, SourceCase
from nightshift.ingest.sources import Source, list_cases
from nightshift.ingest.splits import filled, given_folds, made_folds, misplaced, placed, unit
from nightshift.model.base import ArmModel
from nightshift.model.kinds import kind_of, prefix_of
from nightshift.simulation.simulator import Simulation, split_patients
from nightshift.training.step import add_gradients, micro_batch_size, optimiser_of

OVERHEAD = 1.1  # of what tensors take: fragments, and what kernels use internally
STATES = 4  # of each trained parameter in a checkpoint: its value, the best one, the two moments of AdamW; + train.ema
CONTEXT = 2**30  # bytes of a GPU that CUDA, cuDNN and the kernels themselves take


class Disk(NamedTuple):
    """Bytes that an arm writes: what is kept of its prefix, checkpoints while it trains, and models."""

    cache: int
    checkpoints: int
    models: int


class FoldSize(NamedTuple):
    """Number of cases in each part of a fold and of patients to train on; a case without one counts as one.

    `external`: cases of the second data set, which every model predicts.
    """

    train: int
    val: int
    test: int
    patients: int
    external: int = 0

    def with_patients(self, patients: int | Literal["all"]) -> Self:
        """The same with some of the patients to train on; every patient is taken to have the same number of cases."""
        if patients == "all" or patients >= self.patients:
            return self
        return self._replace(train=-(-self.train * patients // self.patients), patients=patients)


def fold_sizes(data: DataSettings) -> list[FoldSize]:
    """Of every fold, before anything is prepared and without reading a pixel.

    Cases that `prepare` leaves out because of their pixels are counted, and `group_similar`, which compares pixels, is
    not considered. Raises UserError as listing the source does.
    """
    given, problems = data.source.split == "given", Problems()
    cases = _listed(data.source, problems)
    external = len(_listed(all_tested(data.external).source, problems)) if data.external else 0
    if any(case.in_part for case in cases):
        cases, given = placed(cases, data.prepare, problems), True
    if data.prepare.on_problem == "stop":
        problems.stop()
    if given:
        wrong = misplaced(cases)
        if wrong and data.prepare.on_problem == "stop":
            raise UserError(wrong[0][1])
        bad = {case.case_id for case, _ in wrong}
        folds = given_folds([case for case in cases if case.case_id not in bad], data.prepare.folds)
    else:
        folds = made_folds(cases, data.prepare)
    patients = [len({unit(case) for case in fold["train"]}) for fold in folds]
    return [
        FoldSize(**{part: len(fold[part]) for part in SPLITS}, patients=count, external=external)
        for fold, count in zip(filled(folds), patients, strict=True)
    ]


def _listed(source: Source, problems: Problems) -> list[SourceCase]:
    """As `list_cases`; simulated cases also before they are made."""
    if not isinstance(source, Simulated):
        return list_cases(source, problems)
    parts = split_patients(Simulation(**source.model_dump(exclude={"kind", "split"})))
    owners = [(str(patient), part) for patient, part in enumerate(parts) for _ in range(source.views)]
    return [SourceCase(str(i), patient, None, part, (), _never_read) for i, (patient, part) in enumerate(owners)]


def _never_read() -> NoReturn:
    raise NotImplementedError("cases that are only counted")


def new_model(settings: ArmSettings, device: str) -> ArmModel:
    """The arm's model before training, in train mode. On `meta` it has shapes and no weights."""
    return kind_of(settings).build(settings, device).to(device).train()


def noise_batch(settings: ArmSettings, start: int, cases: int, device: torch.device) -> dict[str, Tensor]:
    """A batch of noise as `TrainingCases` collates it, for a model that starts at block `start`.

    Returns:
        `index` (B,), `angles` (B, 2), `target` (B, 1, R, R), and `tokens` (B, g, g, D) or `images` (B, 3, R, R).
    """
    side = settings.resolution
    batch = {
        "index": torch.arange(cases),
        "angles": torch.zeros(cases, 2, device=device),
        "target": torch.rand(cases, 1, side, side, device=device).round(),
    }
    if start:
        assert isinstance(settings, EncoderArmSettings)  # another one has no blocks
        batch["tokens"] = torch.rand(cases, settings.grid, settings.grid, settings.preset.embed_dim, device=device)
    if not start or settings.needs_images:
        batch["images"] = torch.rand(cases, 3, side, side, device=device)
    return batch


def start_of(settings: ArmSettings) -> int:
    """The first block that a training step runs: what is before it is kept. 0 without an encoder."""
    prefix = prefix_of(settings)
    return prefix.blocks if prefix else 0


def tensor_bytes(settings: ArmSettings, device: torch.device) -> int:
    """Peak bytes of all tensors on `device` in a training step of the arm, with `micro_batch` cases per forward pass.

    On the CPU the best parameters so far are among them.
    """
    if new_model(settings, "meta").candidates():
        return _untrained_bytes(settings)
    train, cpu, start = settings.train, torch.device("cpu"), start_of(settings)
    counted = min(train.batch_size, 2 * micro_batch_size(train))  # further forward passes take no more than the second

    def two_steps(model: ArmModel) -> None:
        optimiser = optimiser_of(model, train)
        copies = (device.type == "cpu") + (train.ema != "none")  # the best so far, the average
        held: list[Tensor] = []
        for _ in range(2):  # from the second one on, the optimiser's state is in memory as well
            optimiser.zero_grad()
            add_gradients(model, noise_batch(settings, start, counted, cpu), train)
            optimiser.step()
            if not held:
                held += [p.detach().clone() for p in model.parameters() if p.requires_grad for _ in range(copies)]

    waiting = noise_batch(settings, start, 1, torch.device("meta"))
    rest = sum(value.nbytes for value in waiting.values()) * (train.batch_size - counted)
    return peak_bytes(lambda: new_model(settings, "meta"), two_steps, device) + rest


def _untrained_bytes(settings: ArmSettings) -> int:
    """Bytes of the weights, and peak bytes for the maps of one batch; a map is really made, as NumPy's memory counts.

    What torch itself takes between the layers of a forward pass without gradients is not counted.
    """
    batch, model = noise_batch(settings, 0, 1, torch.device("cpu")), new_model(settings, "cpu")
    tracemalloc.start()
    with torch.no_grad():
        model(None, None, batch["images"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    peak += sum(p.nbytes for p in model.parameters())
    return peak + micro_batch_size(settings.train) * sum(value.nbytes for value in batch.values())


def process_bytes_of(arms: Iterable[ArmSettings]) -> int:
    """Bytes of this process with all that the arms' kinds import; asked before any tensor is made."""
    for settings in arms:
        kind_of(settings)
    return int(psutil.Process().memory_info().rss)


def needed(tensors: int, device: torch.device, process_bytes: int) -> int:
    """Bytes of memory of the device that a run takes.

    Args:
        tensors: peak bytes of all tensors.
        device: where it runs.
        process_bytes: as `process_bytes_of`; on a GPU it is CONTEXT instead.
    """
    return int(tensors * OVERHEAD) + (CONTEXT if device.type == "cuda" else process_bytes)


def options(settings: ArmSettings) -> Iterator[tuple[dict[str, str], ArmSettings]]:
    """Settings with the same result in less memory, the quickest first: the changed keys of params.yaml, and the whole.

    Fewer cases at a time cost little, as long as a case fills the device; activation checkpointing costs a third.
    """
    section = f"arms.{settings.name}"
    full = micro_batch_size(settings.train)
    checkpointing = getattr(settings.arm, "activation_checkpointing", None)  # not every kind has it
    for value in [checkpointing] if checkpointing in (None, True) else [False, True]:
        micro = full
        while micro:
            changes = {f"{section}.micro_batch": str(micro)} if micro != full else {}
            if value != checkpointing:
                changes[f"{section}.activation_checkpointing"] = "true"
            train = settings.train.model_copy(update={"micro_batch": micro})
            arm = settings.arm.model_copy(update={} if value is None else {"activation_checkpointing": value})
            yield changes, settings.model_copy(update={"train": train, "arm": arm})
            micro = micro // 2 if isinstance(arm, TrainedSection) else 0  # another one has no keys of train


def memory_of(device: torch.device, busy: str = "") -> int:
    """Bytes of memory of the device: of a CPU all; of a GPU what other programs leave, or all where a run has it.

    Args:
        device: whose memory.
        busy: which run has it, which will have ended when this one starts.
    """
    if device.type != "cuda":
        return int(psutil.virtual_memory().total)
    if busy:
        return int(torch.cuda.get_device_properties(device).total_memory)
    free, total = torch.cuda.mem_get_info(device)
    return min(total, free + torch.cuda.memory_reserved(device) + CONTEXT)  # this process has its own context already


def advice(settings: ArmSettings, device: torch.device, process_bytes: int, memory: int) -> str:
    """The quickest settings with which the arm fits into `memory` bytes, as `-S` takes them.

    `++` sets a key whether it is in the arm's section of params.yaml or not.
    """
    for changes, changed in options(settings):
        if needed(tensor_bytes(changed, device), device, process_bytes) <= memory:
            return " ".join(f"-S ++{key}={value}" for key, value in changes.items())
    return "a smaller " + ("encoder" if settings.arm.has_encoder else f"arms.{settings.name}") + ".resolution"


def disk_of(settings: ArmSettings, folds: Sequence[FoldSize], trained: int) -> Disk:
    """What the arm writes at most, with `trained` parameters of float32: those of the best epoch are its model."""
    prefix, cache = prefix_of(settings), 0
    if prefix is not None and prefix.blocks:
        assert isinstance(settings, EncoderArmSettings)
        cases = folds[0].train + folds[0].val + folds[0].test
        cache = cases_kept(settings.augment, cases) * bytes_per_case(settings, prefix.output)
    models = len(folds) * settings.trainings
    files = hardware().processes * KEPT + 1  # the one more is being written
    states = STATES + (settings.train.ema != "none")
    return Disk(cache, files * states * 4 * trained, models * 4 * trained)
