"""One training step: loss, learning rate, optimiser, gradients of a batch."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightshift.config.sections import Train
from nightshift.model.base import ArmModel


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


def optimiser_of(model: ArmModel, settings: Train) -> torch.optim.AdamW:
    """AdamW for the parameters that require gradients; those with the same factor of the learning rate are a group."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            groups.setdefault(model.learning_rate_factor(name), []).append(p)
    rate = settings.rate
    return torch.optim.AdamW(
        [{"params": group, "lr": rate * factor, "factor": factor} for factor, group in groups.items()],
        weight_decay=settings.weight_decay,
    )


def micro_batch_size(settings: Train) -> int:
    """Number of cases per forward pass."""
    return settings.batch_size if settings.micro_batch == "all" else min(settings.batch_size, settings.micro_batch)


def add_gradients(
    model: ArmModel,
    batch: dict[str, Tensor],
    settings: Train,
    batch_cases: int | None = None,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Tensor:
    """Forward and backward of a batch, `micro_batch` cases at a time.

    Args:
        batch: as `TrainingCases` makes it, on the device of the model.
        batch_cases: number of cases in the whole batch, where `batch` is one process's share of it; the losses of all
            processes then add up to the mean over the whole batch.
        scale: gradient scaling for float16, in which small gradients would be zero.

    Returns:
        The mean loss over the cases, a scalar.
    """
    total, cases = torch.zeros((), device=batch["target"].device), len(batch["index"])
    for first in range(0, cases, micro_batch_size(settings)):
        part = {key: value[first : first + micro_batch_size(settings)] for key, value in batch.items()}
        share = len(part["index"]) / (batch_cases or cases)
        loss = loss_of(forward(model, part), part["target"]) * share
        scale(loss).backward()
        total += loss.detach()
    return total


def forward(model: ArmModel, batch: dict[str, Tensor]) -> Tensor:
    """Logits (B, 1, R, R) of a batch as `TrainingCases` makes it; kept tokens or levels become float32 here."""
    tokens, angles, images = (batch[key].float() if key in batch else None for key in ("tokens", "angles", "images"))
    levels = [batch[key].float() for key in sorted(batch) if key.startswith("level.")]
    return model(tokens, angles, images, levels or None)
