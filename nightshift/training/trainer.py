"""The training loop that arms share, and the choice of epoch and threshold by validation.

The same head, the same order of the data (from seed and epoch alone), the same budget; arms differ in the parameters
that are trained. A run that was stopped or killed goes on after its last checkpoint and ends with the same bytes.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch.utils.data import default_collate

from nightshift.backbone.encoder import count_parameters
from nightshift.config.hardware import hardware
from nightshift.config.kinds import TrainedSection
from nightshift.config.params import ArmSettings
from nightshift.config.sections import Train
from nightshift.console.errors import UserError, is_out_of_memory
from nightshift.console.progress import say, steps_bar
from nightshift.core.hashing import hash_folder
from nightshift.core.io import read_json, replacing, write_csv
from nightshift.data.dataset import Cases
from nightshift.data.locations import ENCODED, MODELS, PREPARED, WEIGHTS
from nightshift.data.samples import TrainingCases
from nightshift.data.shards import Shards
from nightshift.engine import checkpoints, distributed
from nightshift.engine.checkpoints import Interrupted
from nightshift.engine.device import device as chosen_device
from nightshift.engine.device import give_memory_back, seed_everything
from nightshift.jobs import resources
from nightshift.model import card
from nightshift.model.base import ArmModel
from nightshift.model.kinds import kind_of, prefix_of
from nightshift.training.choice import choose
from nightshift.training.state import Trained, TrainingState
from nightshift.training.step import micro_batch_size

CURVES = ("seed", "epoch", "train_loss", "val_loss", "val_dice")
SEED_STRIDE = 10**6  # generators are seeded with seed * SEED_STRIDE + epoch: more than there are epochs


@dataclass(frozen=True)
class Places:
    """Where a run writes; only the first process has and uses them. `record`: of the cost, filled on the way."""

    record: dict[str, Any]
    states: Path
    models: Path


def train(
    model: ArmModel,
    train_cases: TrainingCases,
    val_cases: TrainingCases,
    settings: Train,
    seed: int,
    device: torch.device,
    folder: Path,
    name: str,
    earlier: list[dict[str, float]] | None = None,
) -> Trained:
    """Train the parameters of `model` that require gradients; the best epoch by validation Dice wins.

    Args:
        folder: for checkpoints, after every epoch and within one every `checkpoint_minutes` of hardware.yaml.
        name: of the arm, for messages and for reports/curves/NAME.csv, which grows by epoch.
        earlier: the curves of the seeds before this one.

    Raises:
        UserError: as `TrainingState.step` does.
        Interrupted: after Ctrl-C or SIGTERM.
    """
    if model.activation_checkpointing:
        give_memory_back()
    label = f"{name}, seed {seed}"
    state = TrainingState(model, settings, seed, device, folder)
    if not state.resume():
        model.initialise(default_collate([train_cases[i]]) for [i] in _order(train_cases, 1, seed, epoch=0))
    every, progress, before = hardware().checkpoint_minutes * 60, state.progress, state.progress.seconds
    per_epoch = -(-len(train_cases) // settings.batch_size)
    steps = settings.epochs * per_epoch
    done_before = (progress.epoch - 1) * per_epoch + progress.batch
    with checkpoints.stop_asked() as stop_asked, steps_bar(label, steps, done_before) as advance:
        while progress.epoch <= settings.epochs:
            model.train()
            for indices in _order(train_cases, settings.batch_size, seed, progress.epoch)[progress.batch :]:
                step = (progress.epoch - 1) * per_epoch + progress.batch
                stop, due = state.step(
                    indices,
                    step,
                    steps,
                    train_cases,
                    lambda: [stop_asked(), time.monotonic() - state.saved_at >= every],
                )
                advance(1)
                if stop or (due and progress.batch < per_epoch):
                    state.save()
                if stop:
                    raise Interrupted(f"stopped in epoch {progress.epoch}; the same command goes on from there")
            state.end_epoch(train_cases, val_cases)
            state.save()
            if distributed.rank() == 0:
                _report_epoch(label, name, settings.epochs, [*(earlier or []), *progress.curves])
    with torch.no_grad():
        for parameter_name, parameter in state.parameters.items():
            parameter.copy_(state.best[parameter_name])
    assert progress.best is not None  # there is at least one epoch
    return Trained(**progress.best, curves=progress.curves, seconds=progress.seconds, before=before)


def _report_epoch(label: str, name: str, epochs: int, curves: list[dict[str, float]]) -> None:
    """One line about the last epoch, and the curves as they are now."""
    row = curves[-1]
    write_csv(Path("reports/curves") / f"{name}.csv", CURVES, curves)
    say(
        f"{label}: epoch {row['epoch']}/{epochs}, training loss {row['train_loss']:.4f}, "
        f"validation loss {row['val_loss']:.4f}, Dice {row['val_dice']:.4f}"
    )


def _order(cases: TrainingCases, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch, numbers of cases, mirrored or not: they follow from seed and epoch alone."""
    random, count = torch.Generator().manual_seed(seed * SEED_STRIDE + epoch), len(cases)
    order = torch.randperm(count, generator=random)
    if cases.settings.encode.flips:
        order += count * torch.randint(2, (count,), generator=random)
    return [part.tolist() for part in order.split(batch_size)]


def train_arm(settings: ArmSettings) -> None:
    """Train one model per seed -> models/NAME/seed-N and reports/curves/NAME.csv.

    Raises UserError if a case has no angles, and as `train` does.
    """
    name, prefix = settings.name, prefix_of(settings)
    kept = prefix is not None and prefix.blocks > 0
    parts = {
        split: TrainingCases(Cases(PREPARED / split), Shards(ENCODED / name / split, "pt") if kept else None, settings)
        for split in ("train", "val")
    }
    shared = {
        "data_hash": hash_folder(*(PREPARED / split for split in parts)),
        "weights": read_json(ENCODED / name / WEIGHTS),
        "cases": {split: len(part) for split, part in parts.items()},
        "settings": settings.model_dump(),
    }
    curves: list[dict[str, float]] = []
    costs: list[Trained] = []
    with _places(name, shared) as places:
        for seed in settings.train.seeds:
            model, trained = _train_seed(settings, parts, seed, places, curves)
            costs.append(trained)
            curves += trained.curves
            places.record["parameters_trained"] = count_parameters(model)
            places.record["seconds_before"] = sum(one.before for one in costs)
            if trained.epoch:  # 0: nothing is trained
                seconds, epochs = mean(one.seconds for one in costs), settings.train.epochs
                places.record["seconds_per_epoch"] = round(seconds / epochs, 3)
                places.record["cases_per_second"] = round(epochs * len(parts["train"]) / seconds, 3)
            if distributed.rank() == 0:
                _save(model, trained, seed, shared, places.models / f"seed-{seed}", settings)
        if distributed.rank() == 0:
            write_csv(Path("reports/curves") / f"{name}.csv", CURVES, curves)
    if distributed.rank() == 0:
        print(f"{name} arm, {len(settings.train.seeds)} model(s): {(MODELS / name).as_posix()}")


def _train_seed(
    settings: ArmSettings,
    parts: dict[str, TrainingCases],
    seed: int,
    places: Places,
    curves: list[dict[str, float]],
) -> tuple[ArmModel, Trained]:
    seed_everything(seed)
    model = kind_of(settings).build(settings)
    if distributed.rank():
        # dropout of its own; the weights are those of the first process
        torch.manual_seed(seed + SEED_STRIDE * distributed.rank())
    device, folder = chosen_device(), places.states / f"seed-{seed}"
    try:
        if model.candidates():
            return model, choose(model.to(device).eval(), parts["val"], seed, device)
        trained = train(
            model, parts["train"], parts["val"], settings.train, seed, device, folder, settings.name, curves
        )
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(_out_of_memory(settings, model)) from None
    return model, trained


def _save(
    model: ArmModel, trained: Trained, seed: int, shared: dict[str, Any], out: Path, settings: ArmSettings
) -> None:
    """The model and its card -> models/NAME/seed-N."""
    out.mkdir()
    kind_of(settings).save(model.cpu(), out)
    card.Card(
        seed=seed,
        epoch=trained.epoch,
        threshold=trained.threshold,
        val_dice=round(trained.val_dice, 6),
        data_hash=shared["data_hash"],
        weights=shared["weights"],
        cases=shared["cases"],
        settings=settings,
    ).write(out / card.NAME)
    say(f"{settings.name}, seed {seed}: epoch {trained.epoch}, validation Dice {trained.val_dice:.3f}")


@contextmanager
def _places(name: str, shared: dict[str, Any]) -> Iterator[Places]:
    """Where the run writes; only the first process has these places."""
    if distributed.rank():
        yield Places({}, Path(), Path())
        return
    stage, where = f"train@{name}", {"device": chosen_device().type, "threads": hardware().threads}
    checkpoints.tidy(f"encode@{name}", ENCODED / name)
    identity = checkpoints.fingerprint(**shared, **where, processes=distributed.size())
    alone = distributed.size() == 1  # the other processes would give up on one that waits
    with (
        checkpoints.run_folder(stage, identity, wait=alone) as states,
        resources.recorded(name, "train") as record,
        replacing(MODELS / name) as folder,
    ):
        folder.mkdir()  # now: a folder that cannot be written must not end the run hours later
        record["processes"] = distributed.size()
        yield Places(record, states, folder)
        checkpoints.finished(stage, identity, folder)


def _out_of_memory(settings: ArmSettings, model: ArmModel) -> str:
    """What happened, and the key of the arm that takes less memory."""
    micro, arm = micro_batch_size(settings.train), f"arms.{settings.name}"
    if micro > 1:
        section = arm if isinstance(settings.arm, TrainedSection) else "train"  # the others have no keys of it
        advice = f"-S ++{section}.micro_batch={micro // 2}"
    elif hasattr(settings.arm, "activation_checkpointing") and not model.activation_checkpointing:
        advice = f"-S ++{arm}.activation_checkpointing=true"
    else:
        advice = "lower encoder.resolution" if settings.arm.has_encoder else f"lower {arm}.resolution"
    return f"out of memory with {micro} case(s) at a time; less: {advice}; `nightshift plan` says what fits"
