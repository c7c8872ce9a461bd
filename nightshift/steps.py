"""One step of training, one look at the validation cases: what both arms, the plan and the benchmarks share."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from nightshift.arms import Arm, ArmCases
from nightshift.framing import square_to_frame
from nightshift.metrics import dice_at_thresholds
from nightshift.settings import Train


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
