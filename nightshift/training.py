"""The loop that both arms share, and the choice of epoch and threshold by validation.

Same head, same data order (from the seed alone), same budget; what differs is which parameters an arm trains.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from nightshift import cost, encoder
from nightshift.arms import ENCODED, MODELS, Arm, ArmCases
from nightshift.cases import PREPARED, Cases
from nightshift.compute import device as chosen_device
from nightshift.compute import give_memory_back, seed_everything
from nightshift.errors import UserError
from nightshift.files import read_json, replacing, write_csv, write_json
from nightshift.framing import square_to_frame
from nightshift.inventory import hash_folder
from nightshift.metrics import THRESHOLDS, dice_at_thresholds
from nightshift.progress import bar, say
from nightshift.settings import ArmName, Settings, Train
from nightshift.shards import Shards
from nightshift.weights import RECORD

CURVES = ("seed", "epoch", "train_loss", "val_loss", "val_dice")


@dataclass(frozen=True)
class Trained:
    """What training chose: `state` holds the trained parameters of that epoch, `curves` a row per epoch."""

    epoch: int
    threshold: float
    val_dice: float
    state: dict[str, Tensor]
    curves: list[dict[str, Any]]


def loss_of(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice per case (Milletari et al., 2016), both (B, 1, R, R), target in [0, 1]."""
    probability = logits.sigmoid()
    both = (probability * target).sum((1, 2, 3))
    total = probability.sum((1, 2, 3)) + target.sum((1, 2, 3))
    dice = 1 - (2 * both + 1) / (total + 1)  # + 1 pixel: an empty mask has a gradient too
    return F.binary_cross_entropy_with_logits(logits, target) + dice.mean()


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear to 1 over the first `warmup` share of the steps, then half a cosine to 0."""
    first = max(1, round(steps * warmup))
    if step < first:
        return (step + 1) / first
    return 0.5 * (1 + math.cos(math.pi * (step - first) / max(1, steps - first)))


def train(
    arm: Arm,
    train_cases: ArmCases,
    val_cases: ArmCases,
    settings: Train,
    seed: int,
    device: torch.device,
    progress: Callable[[Iterable], Iterable],
) -> Trained:
    """Train the parameters of `arm` that require gradients; the best epoch by validation Dice wins.

    Raises UserError on a loss that is not finite, naming the cases of the batch.
    """
    arm.to(device)
    if arm.checkpointing:
        give_memory_back()
    parameters = {name: p for name, p in arm.named_parameters() if p.requires_grad}
    optimiser = optimiser_of(arm, settings)
    order = torch.Generator().manual_seed(seed)
    loader = DataLoader(train_cases, settings.batch_size, shuffle=True, generator=order)
    steps = settings.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, steps, settings.warmup)
    )
    best, curves = None, []
    for epoch in progress(range(1, settings.epochs + 1)):
        arm.train()
        losses = []
        for batch in loader:
            optimiser.zero_grad()
            loss = add_gradients(arm, batch, settings, device).item()
            if not math.isfinite(loss):
                names = ", ".join(train_cases.cases[int(i)].case_id for i in batch["index"])
                raise UserError(f"the loss is not finite in epoch {epoch}, cases {names}; lower train.learning_rate")
            optimiser.step()
            schedule.step()
            losses.append(loss * len(batch["index"]))
        val_loss, dice = validate(arm, val_cases, at_once(settings), device)
        if not math.isfinite(val_loss):
            raise UserError(f"the validation loss is not finite in epoch {epoch}; lower train.learning_rate")
        top = int(dice.argmax())
        curves.append(
            {
                "seed": seed,
                "epoch": epoch,
                "train_loss": sum(losses) / len(train_cases),
                "val_loss": val_loss,
                "val_dice": float(dice[top]),
            }
        )
        if best is None or dice[top] > best.val_dice:
            state = {name: p.detach().cpu().clone() for name, p in parameters.items()}
            best = Trained(epoch, THRESHOLDS[top], float(dice[top]), state, curves)
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(best.state[name])
    return best


def optimiser_of(arm: Arm, settings: Train) -> torch.optim.AdamW:
    """For the parameters that require gradients."""
    parameters = [p for p in arm.parameters() if p.requires_grad]
    return torch.optim.AdamW(parameters, settings.learning_rate, weight_decay=settings.weight_decay)


def at_once(settings: Train) -> int:
    """Cases per forward."""
    return settings.batch_size if settings.micro_batch == "all" else min(settings.batch_size, settings.micro_batch)


def add_gradients(arm: Arm, batch: dict[str, Tensor], settings: Train, device: torch.device) -> Tensor:
    """Forward and backward of one batch, `micro_batch` cases at a time; the mean loss over its cases, a scalar."""
    total, cases = torch.zeros((), device=device), len(batch["index"])
    for first in range(0, cases, at_once(settings)):
        part = {key: value[first : first + at_once(settings)] for key, value in batch.items()}
        loss = loss_of(forward(arm, part, device), part["target"].to(device)) * (len(part["index"]) / cases)
        loss.backward()
        total += loss.detach()
    return total


def forward(arm: Arm, batch: dict[str, Tensor], device: torch.device) -> Tensor:
    """Logits (B, 1, R, R) of a batch as `ArmCases` collates it."""
    inputs = (batch[key].to(device) if key in batch else None for key in ("tokens", "angles", "images"))
    return arm(*inputs)


def validate(arm: Arm, cases: ArmCases, batch_size: int, device: torch.device) -> tuple[float, np.ndarray]:
    """Mean loss, and mean Dice over cases at each of THRESHOLDS (17,), at each case's native resolution."""
    arm.eval()
    losses, dice = [], []
    with torch.no_grad():
        for batch in DataLoader(cases, batch_size):
            logits = forward(arm, batch, device)
            losses.append(loss_of(logits, batch["target"].to(device)).item() * len(logits))
            for i, one in zip(batch["index"], logits.sigmoid().cpu(), strict=True):
                truth = cases.cases[int(i)].mask
                dice.append(dice_at_thresholds(square_to_frame(one[0], *truth.shape).numpy(), truth))
    return sum(losses) / len(cases), np.mean(dice, axis=0)


def train_arm(
    name: ArmName,
    settings: Settings,
    start: int,
    adapt: Callable[[encoder.ViT], Any],
    save: Callable[[Any, Path], None],
) -> None:
    """Train one model per seed -> models/NAME/seed-N and reports/curves/NAME.csv.

    Raises UserError if a case has no angles or the loss is not finite.
    """
    own = settings.train_for(name)
    curves: list[dict[str, Any]] = []
    with cost.recorded(f"train_{name}") as record, replacing(MODELS / name) as folder:
        parts = {
            split: ArmCases(Cases(PREPARED / split), Shards(ENCODED / name / split) if start else None, settings)
            for split in ("train", "val")
        }
        data_hash = hash_folder(*(PREPARED / split for split in parts))
        for seed in own.seeds:
            seed_everything(seed)
            arm = Arm(encoder.configured(settings), start, settings)
            adapted = adapt(arm.neck.trunk)
            record["parameters_trained"] = encoder.count_parameters(arm)
            trained = train(
                arm, parts["train"], parts["val"], own, seed, chosen_device(), bar(f"{name}, seed {seed}", "epoch")
            )
            curves += trained.curves
            out = folder / f"seed-{seed}"
            out.mkdir(parents=True)
            save_file(arm.segmenter.cpu().state_dict(), out / "head.safetensors")
            save(adapted, out)
            card = {
                "arm": name,
                "seed": seed,
                "epoch": trained.epoch,
                "threshold": trained.threshold,
                "val_dice": round(trained.val_dice, 6),
                "data_hash": data_hash,
                "weights": read_json(RECORD),
                "settings": _settings_of(name, settings),
            }
            write_json(out / "card.json", card)
            say(f"{name}, seed {seed}: epoch {trained.epoch}, validation Dice {trained.val_dice:.3f}")
    write_csv(Path("reports/curves") / f"{name}.csv", CURVES, curves)
    print(f"{name} arm, {len(own.seeds)} model(s): {(MODELS / name).as_posix()}")


def _settings_of(name: ArmName, settings: Settings) -> dict[str, Any]:
    """What this arm depends on, and nothing of the other one's: dvc.yaml tracks the same keys."""
    sections = ("use", "encoder", "view", "head", *(["lora"] if name == "lora" else []))
    own = {"train": settings.train_for(name).model_dump(), "preset": settings.preset.model_dump()}
    return {section: getattr(settings, section).model_dump() for section in sections} | own
