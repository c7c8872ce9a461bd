"""For an arm of which nothing is trained: validation chooses what others train, as it chooses their threshold."""

import math
import time
from typing import Any

import torch

from nightshift.console.progress import bar
from nightshift.data.samples import TrainingCases
from nightshift.model.base import ArmModel
from nightshift.model.predictor import THRESHOLDS
from nightshift.training.state import Trained
from nightshift.training.step import micro_batch_size
from nightshift.training.validation import validate


def choose(model: ArmModel, cases: TrainingCases, seed: int, device: torch.device) -> Trained:
    """The candidate with the best mean Dice over the validation cases, the first of equals, and its threshold.

    `model` uses that candidate afterwards. The curves have one row, epoch 0, without a training loss.
    """
    start, size = time.monotonic(), micro_batch_size(cases.settings.train)
    found: list[tuple[float, float, float, Any]] = []
    for candidate in bar(cases.settings.name, "candidate")(model.candidates()):
        model.use(candidate)
        loss, dice = validate(model, cases, size, device)
        found.append((float(dice.max()), THRESHOLDS[int(dice.argmax())], loss, candidate))
    best, threshold, loss, candidate = max(found, key=lambda one: one[0])
    model.use(candidate)
    row = {"seed": seed, "epoch": 0, "train_loss": math.nan, "val_loss": loss, "val_dice": best}
    return Trained(0, threshold, best, [row], time.monotonic() - start, 0.0)
