"""How well a mask fits: per case, at the case's native resolution, in pixels.

Two empty masks agree perfectly (Dice, IoU, clDice, precision and recall 1, distance 0). Where only one of the two is
empty they miss each other entirely: overlaps 0, and the distance is the frame's diagonal, the largest that can be.
Precision without a predicted pixel and recall without a true one follow the same rule.
"""

import math
import warnings

import numpy as np
import torch
from skimage.morphology import skeletonize

THRESHOLDS = tuple(k / 20 for k in range(2, 19))  # 0.10 .. 0.90


def dice_at_thresholds(probability: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice of `probability` (H, W) > t against `truth` (H, W) for each t of THRESHOLDS -> (17,)."""
    return np.array([overlap(probability > t, truth)["dice"] for t in THRESHOLDS])


def overlap(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Dice, IoU, precision and recall of two boolean masks (H, W)."""
    mask, truth = mask.astype(bool), truth.astype(bool)
    both, predicted, true = int((mask & truth).sum()), int(mask.sum()), int(truth.sum())
    if predicted == 0 or true == 0:
        return dict.fromkeys(("dice", "iou", "precision", "recall"), float(predicted == true))
    return {
        "dice": 2 * both / (predicted + true),
        "iou": both / (predicted + true - both),
        "precision": both / predicted,
        "recall": both / true,
    }


def cldice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Centreline Dice of two boolean masks (H, W) (Shit et al., CVPR 2021), with scikit-image's skeletons."""
    mask, truth = mask.astype(bool), truth.astype(bool)
    if not mask.any() or not truth.any():
        return float(mask.any() == truth.any())
    precision = truth[skeletonize(mask)].mean()
    sensitivity = mask[skeletonize(truth)].mean()
    total = precision + sensitivity
    return float(2 * precision * sensitivity / total) if total else 0.0


def hd95(mask: np.ndarray, truth: np.ndarray) -> float:
    """95th percentile Hausdorff distance of two masks (H, W), in pixels: MONAI's, the larger of both directions."""
    with warnings.catch_warnings():  # of MONAI's own deprecated calls to itself
        warnings.simplefilter("ignore", FutureWarning)
        return _hd95(mask.astype(bool), truth.astype(bool))


def _hd95(mask: np.ndarray, truth: np.ndarray) -> float:
    from monai.metrics import compute_hausdorff_distance  # seconds to import: not before something is measured

    if not mask.any() or not truth.any():
        return 0.0 if mask.any() == truth.any() else math.hypot(*mask.shape)
    pair = (torch.from_numpy(m)[None, None].float() for m in (mask, truth))
    return float(compute_hausdorff_distance(*pair, include_background=True, percentile=95))


def all_metrics(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The columns of reports/evaluation/ARM/cases.csv that measure."""
    values = overlap(mask, truth)
    return {
        "dice": values["dice"],
        "iou": values["iou"],
        "cldice": cldice(mask, truth),
        "hd95": hd95(mask, truth),
        "precision": values["precision"],
        "recall": values["recall"],
    }
