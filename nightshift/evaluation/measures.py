"""Measures of how well a mask fits, per case at its native resolution, distances in pixels; by MONAI and scikit-image.

Whether an arm is as sure of it as it is right is measured in calibration.py.

Two empty masks agree perfectly (overlaps 1, distances 0). Where only one of the two is empty they miss each other
entirely: overlaps 0, and both distances are the frame's diagonal, the largest that can be. So the BraTS challenges
score a lesion that is missed or made up (since 2023: Dice 0 and HD95 374, the diagonal of their volumes; Synapse
syn51156910), and so Metrics Reloaded asks: a missing value is the worst one and is never left out of a mean
(Maier-Hein et al., Nature Methods 2024). Recall of vessels of a calibre that the truth does not have is no missing
value: it is NaN, and means leave it out.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt
from skimage.measure import label
from skimage.morphology import skeletonize

if TYPE_CHECKING:
    from torch import Tensor

OVERLAPS = ("dice", "iou", "cldice", "precision", "recall")
DISTANCES = ("hd95", "asd")
CALIBRES = ("recall_thin", "recall_medium", "recall_thick")
MEASURES = ("dice", "iou", "cldice", "hd95", "precision", "recall", "asd", *CALIBRES, "betti0_error")
MILLIMETRES = ("hd95_mm", "asd_mm")  # the distances again, where a pixel's size is known
CALIBRATION = ("ece", "brier")  # where probabilities are known: calibration.py
LOWER_IS_BETTER = (*DISTANCES, *MILLIMETRES, *CALIBRATION, "betti0_error")
# Diameters at which a vessel is medium, and thick. Below 1.5 mm the SYNTAX score leaves lesions out (Sianos et al.,
# EuroIntervention 2005); below 3 mm trials of stents speak of small vessels (BASKET-SMALL 2, Lancet 2018). In pixels
# these are the same vessels where a pixel is 0.3 mm: 400 pixels across a field of 12 cm.
MEDIUM_AND_THICK = {"mm": (1.5, 3.0), "px": (5, 10)}


def all_measures(mask: np.ndarray, truth: np.ndarray, spacing: tuple[float, float] | None = None) -> dict[str, float]:
    """MEASURES of two masks (H, W): overlaps 0 to 1; distances in pixels, hd95 the larger direction, asd of both.

    Args:
        mask: of the arm.
        truth: what it should be.
        spacing: mm per pixel (row, column); by it the calibres are in mm. None: in pixels.
    """
    mask, truth = mask.astype(bool), truth.astype(bool)
    centreline = skeletonize(truth)
    values = recall_by_calibre(mask, truth, centreline, spacing) | {"betti0_error": betti0_error(mask, truth)}
    if not mask.any() or not truth.any():
        agree = not mask.any() and not truth.any()
        values |= dict.fromkeys(OVERLAPS, float(agree))
        values |= dict.fromkeys(DISTANCES, 0.0 if agree else math.hypot(*mask.shape))
        return {name: values[name] for name in MEASURES}
    with warnings.catch_warnings():  # of MONAI's own deprecated calls to itself
        warnings.simplefilter("ignore", FutureWarning)
        values |= _of_monai(mask, truth) | {"cldice": _cldice(mask, truth, centreline)}
    return {name: round(values[name], 6) for name in MEASURES}  # MONAI's have no more: single precision


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks (H, W) alone, the same as that of `all_measures`."""
    from monai import metrics

    return round(float(metrics.compute_dice(_tensor(mask > 0), _tensor(truth > 0), ignore_empty=False)), 6)


def _cldice(mask: np.ndarray, truth: np.ndarray, centreline: np.ndarray) -> float:
    """Centreline Dice of two boolean masks (H, W), neither empty (Shit et al., CVPR 2021): scikit-image's skeletons.

    `centreline`: the skeleton of `truth`.
    """
    precision, sensitivity = truth[skeletonize(mask)].mean(), mask[centreline].mean()
    total = precision + sensitivity
    return float(2 * precision * sensitivity / total) if total else 0.0


def recall_by_calibre(
    mask: np.ndarray, truth: np.ndarray, centreline: np.ndarray, spacing: tuple[float, float] | None
) -> dict[str, float]:
    """CALIBRES: the share of the truth's centreline in the mask, by the vessel's diameter there; NaN without any such.

    The diameter is twice the distance from the centreline to the background. Masks are boolean (H, W); `spacing` as in
    `all_measures`.
    """
    diameter = 2 * distance_transform_edt(truth, spacing)[centreline]
    bins = np.digitize(diameter, MEDIUM_AND_THICK["px" if spacing is None else "mm"])
    found = (mask[centreline][bins == i] for i in range(len(CALIBRES)))
    return {name: float(one.mean()) if one.size else math.nan for name, one in zip(CALIBRES, found, strict=True)}


def betti0_error(mask: np.ndarray, truth: np.ndarray) -> float:
    """By how much the numbers of connected pieces (Betti number 0; 8 neighbours) of two masks (H, W) differ.

    Of the whole frame, where Shit et al. (CVPR 2021) average over patches.
    """
    pieces = [label(one, connectivity=2, return_num=True)[1] for one in (mask, truth)]
    return float(abs(pieces[0] - pieces[1]))


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
