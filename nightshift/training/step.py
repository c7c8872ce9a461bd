"""One step of training, one look at the validation cases: what both arms, the plan and the benchmarks share."""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from nightshift.engine import distributed as ranks
from nightshift.model.segmentation import Arm, ArmCases
from nightshift.data.letterbox import square_to_frame
from nightshift.evaluation.measures import THRESHOLDS, dice_at_thresholds
from nightshift.config.params import Train


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


def add_gradients(
    arm: Arm,
    batch: dict[str, Tensor],
    settings: Train,
    device: torch.device,
    of: int | None = None,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Tensor:
    """Forward and backward of a batch, `micro_batch` cases at a time; the mean loss over its cases, a scalar.

    `of`: cases of the whole batch, where this is one rank's share of it; the shares of all ranks add up to the mean.
    `scale`: what float16 needs, or its small gradients are zero.
    """
    total, cases = torch.zeros((), device=device), len(batch["index"])
    for first in range(0, cases, at_once(settings)):
        part = {key: value[first : first + at_once(settings)] for key, value in batch.items()}
        loss = loss_of(forward(arm, part, device), part["target"].to(device)) * (len(part["index"]) / (of or cases))
        scale(loss).backward()
        total += loss.detach()
    return total


def forward(arm: Arm, batch: dict[str, Tensor], device: torch.device) -> Tensor:
    """Logits (B, 1, R, R) of a batch as `ArmCases` collates it."""
    tokens, angles, images = (batch[key].to(device) if key in batch else None for key in ("tokens", "angles", "images"))
    levels = [batch[key].to(device) for key in sorted(batch) if key.startswith("level.")]
    return arm(tokens, angles, images, levels or None)


def validate(arm: Arm, cases: ArmCases, batch_size: int, device: torch.device) -> tuple[float, np.ndarray]:
    """Mean loss, and mean Dice over cases at each of THRESHOLDS (17,), at each case's native resolution.

    Every rank looks at its share of the cases.
    """
    arm.eval()
    mine = Subset(cases, range(ranks.rank(), len(cases), ranks.size()))
    totals = torch.zeros(1 + len(THRESHOLDS), dtype=torch.float64)
    with torch.no_grad():
        for batch in DataLoader(mine, batch_size):
            logits = forward(arm, batch, device)
            totals[0] += loss_of(logits, batch["target"].to(device)).item() * len(logits)
            for i, one in zip(batch["index"], logits.sigmoid().cpu(), strict=True):
                truth = cases.cases[int(i)].mask
                dice = dice_at_thresholds(square_to_frame(one[0], *truth.shape).numpy(), truth)
                totals[1:] += torch.from_numpy(np.asarray(dice, dtype=np.float64))
    totals = totals.to(device)
    ranks.add_up([totals])
    totals = totals.cpu().numpy() / len(cases)
    return float(totals[0]), totals[1:]
