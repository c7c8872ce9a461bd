"""How good a model is on validation cases, at each of THRESHOLDS: what chooses epoch and threshold."""

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from nightshift.data.letterbox import square_to_frame
from nightshift.data.samples import TrainingCases
from nightshift.engine import distributed
from nightshift.model.base import ArmModel
from nightshift.training.step import forward, loss_of

THRESHOLDS = tuple(k / 20 for k in range(2, 19))  # 0.10 .. 0.90


def dice_at_thresholds(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice of `probability` (H, W) > t against `truth` (H, W) for each t of THRESHOLDS -> (17,).

    Not MONAI's: it is asked 17 times per validation case and epoch, and a test holds it to MONAI's.
    """
    truth = truth.astype(bool)
    masks = [probability > t for t in THRESHOLDS]
    total = np.array([mask.sum() + truth.sum() for mask in masks])
    both = np.array([(mask & truth).sum() for mask in masks])
    return np.where(total == 0, 1.0, 2 * both / np.maximum(total, 1))


def validate(model: ArmModel, cases: TrainingCases, batch_size: int, device: torch.device) -> tuple[float, np.ndarray]:
    """Mean loss, and mean Dice over cases at each of THRESHOLDS (17,), at each case's native resolution.

    Every process computes its share of the cases.
    """
    model.eval()
    own = Subset(cases, range(distributed.rank(), len(cases), distributed.size()))
    totals = torch.zeros(1 + len(THRESHOLDS), dtype=torch.float64)
    with torch.no_grad():
        for batch in DataLoader(own, batch_size):
            logits = forward(model, batch, device)
            totals[0] += loss_of(logits, batch["target"].to(device)).item() * len(logits)
            for i, one in zip(batch["index"], logits.sigmoid().cpu(), strict=True):
                truth = cases.cases[int(i)].mask
                dice = dice_at_thresholds(square_to_frame(one[0], *truth.shape).numpy(), truth)
                totals[1:] += torch.from_numpy(np.asarray(dice, dtype=np.float64))
    totals = totals.to(device)
    distributed.add_up([totals])
    means = totals.cpu().numpy() / len(cases)
    return float(means[0]), means[1:]
