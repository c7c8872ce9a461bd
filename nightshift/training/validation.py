"""How good a model is on validation cases, at each of THRESHOLDS: what chooses epoch and threshold."""

import numpy as np
import torch

from nightshift.data.letterbox import square_to_frame
from nightshift.data.samples import TrainingCases
from nightshift.engine import distributed
from nightshift.engine.ahead import ahead
from nightshift.model.base import ArmModel
from nightshift.model.predictor import THRESHOLDS
from nightshift.training.losses import loss_of
from nightshift.training.step import forward


def dice_at_thresholds(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice of `probability` (H, W) > t against `truth` (H, W) for each t of THRESHOLDS -> (17,).

    Not MONAI's: it is asked 17 times per validation case and epoch, and a test holds it to MONAI's.
    """
    truth = truth.astype(bool)
    inside = probability[truth]
    total = np.array([np.count_nonzero(probability > t) for t in THRESHOLDS]) + np.count_nonzero(truth)
    both = np.array([np.count_nonzero(inside > t) for t in THRESHOLDS])
    return np.where(total == 0, 1.0, 2 * both / np.maximum(total, 1))


def validate(
    model: ArmModel, cases: TrainingCases, batch_size: int, device: torch.device, cldice: float = 0.0
) -> tuple[float, np.ndarray]:
    """Mean loss, and mean Dice over cases at each of THRESHOLDS (17,), at each case's native resolution.

    `cldice`: its share of the loss. Every process computes its share of the cases.
    """
    model.eval()
    own = range(distributed.rank(), len(cases), distributed.size())
    order = [own[first : first + batch_size] for first in range(0, len(own), batch_size)]
    totals = torch.zeros(1 + len(THRESHOLDS), dtype=torch.float64)
    with torch.no_grad(), ahead(cases.batch, order, device) as batches:
        for indices, batch in zip(order, batches, strict=True):
            logits = forward(model, batch)
            totals[0] += loss_of(logits, batch["target"], cldice).item() * len(logits)
            for i, one in zip(indices, logits.sigmoid(), strict=True):
                truth = cases.cases[i].mask
                dice = dice_at_thresholds(square_to_frame(one[0], *truth.shape).cpu().numpy(), truth)
                totals[1:] += torch.from_numpy(np.asarray(dice, dtype=np.float64))
    totals = totals.to(device)
    distributed.add_up([totals])
    means = totals.cpu().numpy() / len(cases)
    return float(means[0]), means[1:]
