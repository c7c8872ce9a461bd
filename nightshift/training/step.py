"""One training step: learning rate, optimiser, gradients of a batch."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from nightshift.config.sections import Train
from nightshift.model.base import ArmModel
from nightshift.training.losses import loss_of


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
    epoch: int | None = None,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
) -> Tensor:
    """Forward and backward of a batch, `micro_batch` cases at a time.

    Args:
        batch: as `TrainingCases` makes it, on the device of the model.
        batch_cases: number of cases in the whole batch, where `batch` is one process's share of it; the losses of all
            processes then add up to the mean over the whole batch.
        epoch: whose loss it is, the last by default.
        scale: gradient scaling for float16, in which small gradients would be zero.

    Returns:
        The mean loss over the cases, a scalar.
    """
    cldice = settings.cldice(epoch or settings.most_epochs)
    total, cases = torch.zeros((), device=batch["target"].device), len(batch["index"])
    for first in range(0, cases, micro_batch_size(settings)):
        part = {key: value[first : first + micro_batch_size(settings)] for key, value in batch.items()}
        share = len(part["index"]) / (batch_cases or cases)
        loss = loss_of(forward(model, part), part["target"], cldice) * share
        scale(loss).backward()
        total += loss.detach()
    return total


def forward(model: ArmModel, batch: dict[str, Tensor]) -> Tensor:
    """Logits (B, 1, R, R) of a batch as `TrainingCases` makes it; kept tokens or levels become float32 here."""
    tokens, angles, images = (batch[key].float() if key in batch else None for key in ("tokens", "angles", "images"))
    levels = [batch[key].float() for key in sorted(batch) if key.startswith("level.")]
    return model(tokens, angles, images, levels or None)
