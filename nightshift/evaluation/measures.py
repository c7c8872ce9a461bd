"""Measures of how well a mask fits, per case at its native resolution, distances in pixels; by MONAI and scikit-image.

Two empty masks agree perfectly (overlaps 1, distances 0). Where only one of the two is empty they miss each other
entirely: overlaps 0, and both distances are the frame's diagonal, the largest that can be. So the BraTS challenges
score a lesion that is missed or made up (since 2023: Dice 0 and HD95 374, the diagonal of their volumes; Synapse
syn51156910), and so Metrics Reloaded asks: a missing value is the worst one and is never left out of a mean
(Maier-Hein et al., Nature Methods 2024).
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
from skimage.morphology import skeletonize

if TYPE_CHECKING:
    from torch import Tensor

MEASURES = ("dice", "iou", "cldice", "hd95", "precision", "recall", "asd")
DISTANCES = ("hd95", "asd")  # lower is better
MILLIMETRES = ("hd95_mm", "asd_mm")  # the same, where a pixel's size is known


def cldice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Centreline Dice of two boolean masks (H, W), neither empty (Shit et al., CVPR 2021): scikit-image's skeletons."""
    precision = truth[skeletonize(mask)].mean()
    sensitivity = mask[skeletonize(truth)].mean()
    total = precision + sensitivity
    return float(2 * precision * sensitivity / total) if total else 0.0


def all_measures(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """MEASURES of two masks (H, W): overlaps 0 to 1; distances in pixels, hd95 the larger direction, asd of both."""
    mask, truth = mask.astype(bool), truth.astype(bool)
    if not mask.any() or not truth.any():
        agree = not mask.any() and not truth.any()
        worst = 0.0 if agree else math.hypot(*mask.shape)
        return {name: worst if name in DISTANCES else float(agree) for name in MEASURES}
    with warnings.catch_warnings():  # of MONAI's own deprecated calls to itself
        warnings.simplefilter("ignore", FutureWarning)
        values = _of_monai(mask, truth) | {"cldice": cldice(mask, truth)}
    return {name: round(values[name], 6) for name in MEASURES}  # MONAI's have no more: single precision


def millimetres(mask: np.ndarray, truth: np.ndarray, spacing: tuple[float, float]) -> dict[str, float]:
    """MILLIMETRES of two masks (H, W), by `spacing`, mm per pixel (row, column); else as `all_measures`."""
    mask, truth = mask.astype(bool), truth.astype(bool)
    if not mask.any() or not truth.any():
        worst = math.hypot(mask.shape[0] * spacing[0], mask.shape[1] * spacing[1])
        return dict.fromkeys(MILLIMETRES, worst if mask.any() or truth.any() else 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        values = _distances(_tensor(mask), _tensor(truth), list(spacing))
    return {f"{name}_mm": round(value, 6) for name, value in values.items()}


def _tensor(mask: np.ndarray) -> Tensor:
    """(1, 1, H, W), float32, as MONAI takes masks."""
    import torch  # seconds to import, like MONAI: not before something is measured

    return torch.from_numpy(mask)[None, None].float()


def _distances(mask: Tensor, truth: Tensor, spacing: list[float] | None = None) -> dict[str, float]:
    """DISTANCES in pixels, or in the unit of `spacing` per row and column."""
    from monai import metrics

    hausdorff = metrics.compute_hausdorff_distance(mask, truth, include_background=True, percentile=95, spacing=spacing)
    surface = metrics.compute_average_surface_distance(
        mask, truth, include_background=True, symmetric=True, spacing=spacing
    )
    return {"hd95": float(hausdorff), "asd": float(surface)}


def _of_monai(mask: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    from monai import metrics

    found, true = _tensor(mask), _tensor(truth)
    confusion = metrics.get_confusion_matrix(found, true)
    values = {
        "dice": metrics.compute_dice(found, true),
        "iou": metrics.compute_iou(found, true),
        "precision": metrics.compute_confusion_matrix_metric("precision", confusion),
        "recall": metrics.compute_confusion_matrix_metric("sensitivity", confusion),
    }
    return {name: float(value) for name, value in values.items()} | _distances(found, true)
