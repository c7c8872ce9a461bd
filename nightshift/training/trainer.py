"""The loop that both arms share, and the choice of epoch and threshold by validation.

Same head, same data order (from seed and epoch alone), same budget; what differs is which parameters an arm trains.
A run that was stopped or killed goes on where its last checkpoint was, and ends with the same bytes.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from safetensors.torch import save_file

from nightshift.engine import checkpoints
from nightshift.jobs import resources as cost
from nightshift.backbone import encoder
from nightshift.engine import distributed as ranks
from nightshift.model.segmentation import ENCODED, MODELS, Arm, ArmCases
from nightshift.data.dataset import PREPARED, Cases
from nightshift.engine.checkpoints import Interrupted
from nightshift.engine.device import device as chosen_device
from nightshift.engine.device import give_memory_back, seed_everything
from nightshift.console.errors import UserError, is_out_of_memory
from nightshift.core.io import read_json, replacing, write_csv, write_json
from nightshift.core.hashing import hash_folder
from nightshift.training.state import Run
from nightshift.console.progress import say, steps_bar
from nightshift.config.params import ArmName, Settings, Train, hardware
from nightshift.data.shards import Shards
from nightshift.training.step import at_once
from nightshift.backbone.pretrained import RECORD

CURVES = ("seed", "epoch", "train_loss", "val_loss", "val_dice")


@dataclass(frozen=True)
class Trained:
    """What training chose; the arm holds the parameters of that epoch. `curves`: a row per epoch.

    `seconds`: that it took; `before`: how many of them in processes that were stopped or killed.
    """

    epoch: int
    threshold: float
    val_dice: float
    curves: list[dict[str, Any]]
    seconds: float
    before: float


def train(
    arm: Arm,
    train_cases: ArmCases,
    val_cases: ArmCases,
    settings: Train,
    seed: int,
    device: torch.device,
    folder: Path,
    name: ArmName,
) -> Trained:
    """Train the parameters of `arm` that require gradients; the best epoch by validation Dice wins.

    Checkpoints go to `folder` after every epoch, and within one every `checkpoint_minutes` of hardware.yaml.
    Raises UserError as `Run.step` does, Interrupted after Ctrl-C or SIGTERM.
    """
    if arm.checkpointing:
        give_memory_back()
    label = f"{name}, seed {seed}"
    run = Run(arm, settings, seed, device, folder)
    run.resume()
    every, place, before = hardware().checkpoint_minutes * 60, run.place, run.place.seconds
    per_epoch = -(-len(train_cases) // settings.batch_size)
    steps = settings.epochs * per_epoch
    with (
        checkpoints.stop_asked() as stop_asked,
        steps_bar(label, steps, (place.epoch - 1) * per_epoch + place.batch) as done,
    ):
        while place.epoch <= settings.epochs:
            arm.train()
            for indices in _order(train_cases, settings.batch_size, seed, place.epoch)[place.batch :]:
                step = (place.epoch - 1) * per_epoch + place.batch
                stop, due = run.step(
                    indices, step, steps, train_cases, lambda: [stop_asked(), time.monotonic() - run.saved_at >= every]
                )
                done(1)
                if stop or (due and place.batch < per_epoch):
                    run.save()
                if stop:
                    raise Interrupted(f"stopped in epoch {place.epoch}; the same command goes on from there")
            run.end_epoch(train_cases, val_cases)
            run.save()
            row = place.curves[-1]
            if ranks.rank() == 0:
                say(
                    f"{label}: epoch {row['epoch']}/{settings.epochs}, training loss {row['train_loss']:.4f}, "
                    f"validation loss {row['val_loss']:.4f}, Dice {row['val_dice']:.4f}"
                )
    with torch.no_grad():
        for name, p in run.parameters.items():
            p.copy_(run.best[name])
    return Trained(**place.best, curves=place.curves, seconds=place.seconds, before=before)


def _order(cases: ArmCases, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch, numbers of cases, mirrored or not: they follow from seed and epoch alone."""
    random, count = torch.Generator().manual_seed(seed * 10**6 + epoch), len(cases)
    order = torch.randperm(count, generator=random)
    if cases.settings.encode.flips:
        order += count * torch.randint(2, (count,), generator=random)
    return [part.tolist() for part in order.split(batch_size)]


def train_arm(
    name: ArmName,
    settings: Settings,
    start: int,
    adapt: Callable[[encoder.ViT], Any],
    save: Callable[[Any, Path], None],
) -> None:
    """Train one model per seed -> models/NAME/seed-N and reports/curves/NAME.csv.

    Raises UserError if a case has no angles, and as `train` does.
    """
    own = settings.train_for(name)
    parts = {
        split: ArmCases(Cases(PREPARED / split), Shards(ENCODED / name / split, "pt") if start else None, settings)
        for split in ("train", "val")
    }
    shared = {
        "arm": name,
        "data_hash": hash_folder(*(PREPARED / split for split in parts)),
        "weights": read_json(RECORD),
        "cases": {split: len(part) for split, part in parts.items()},
        "settings": _settings_of(name, settings),
    }
    curves: list[dict[str, Any]] = []
    seconds: list[float] = []
    with _places(name, shared) as (record, states, folder):
        for seed in own.seeds:
            seed_everything(seed)
            arm = Arm(encoder.configured(settings), start, settings)
            adapted = adapt(arm.neck.trunk)
            if ranks.rank():
                torch.manual_seed(seed + 10**6 * ranks.rank())  # dropout of its own; the weights are those of rank 0
            record["parameters_trained"] = encoder.count_parameters(arm)
            place = states / f"seed-{seed}"
            try:
                trained = train(arm, parts["train"], parts["val"], own, seed, chosen_device(), place, name)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise UserError(_out_of_memory(name, own, arm)) from None
            seconds.append(trained.seconds)
            record["seconds_before"] = record.get("seconds_before", 0.0) + trained.before
            record["seconds_per_epoch"] = round(mean(seconds) / own.epochs, 3)
            record["cases_per_second"] = round(own.epochs * len(parts["train"]) / mean(seconds), 3)
            curves += trained.curves
            if ranks.rank():
                continue
            out = folder / f"seed-{seed}"
            out.mkdir()
            save_file(arm.segmenter.cpu().state_dict(), out / "head.safetensors")
            save(adapted, out)
            chosen = {"epoch": trained.epoch, "threshold": trained.threshold, "val_dice": round(trained.val_dice, 6)}
            write_json(out / "card.json", {"seed": seed} | chosen | shared)
            say(f"{name}, seed {seed}: epoch {trained.epoch}, validation Dice {trained.val_dice:.3f}")
        if ranks.rank() == 0:
            write_csv(Path("reports/curves") / f"{name}.csv", CURVES, curves)
    if ranks.rank() == 0:
        print(f"{name} arm, {len(own.seeds)} model(s): {(MODELS / name).as_posix()}")


@contextmanager
def _places(name: ArmName, shared: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Path, Path]]:
    """The cost record, the folder of checkpoints and that of models; only rank 0 has them and writes."""
    if ranks.rank():
        yield {}, Path(), Path()
        return
    stage, where = f"train_{name}", {"device": chosen_device().type, "threads": hardware().threads}
    checkpoints.tidy(f"encode_{name}", ENCODED / name)
    identity = checkpoints.fingerprint(**shared, **where, processes=ranks.size())
    alone = ranks.size() == 1  # the other ranks would give up on one that waits
    with (
        checkpoints.run_folder(stage, identity, wait=alone) as states,
        cost.recorded(stage) as record,
        replacing(MODELS / name) as folder,
    ):
        folder.mkdir()  # now: a folder that cannot be written must not cost a night
        record["processes"] = ranks.size()
        yield record, states, folder
        checkpoints.finished(stage, identity, folder)


def _out_of_memory(name: ArmName, own: Train, arm: Arm) -> str:
    micro, kept = at_once(own), name == "lora" and not arm.checkpointing
    less = "set lora.activation_checkpointing=true" if kept else "lower encoder.resolution"
    advice = f"set {name}.micro_batch={micro // 2}" if micro > 1 else less
    return f"out of memory with {micro} case(s) at a time: {advice}; `python -m stages.plan` says what fits"


def _settings_of(name: ArmName, settings: Settings) -> dict[str, Any]:
    """What this arm depends on, and nothing of the other one's: dvc.yaml tracks the same keys."""
    sections = ("use", "encoder", "view", "head", *(["lora"] if name == "lora" else []))
    own = {"train": settings.train_for(name).model_dump(), "preset": settings.preset.model_dump()}
    own |= {"encode": settings.encode.model_dump(exclude={"level"} if name == "lora" else None)}
    return {section: getattr(settings, section).model_dump() for section in sections} | own
