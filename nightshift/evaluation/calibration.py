"""Whether an arm's probabilities mean what they say: of the pixels with 0.8, are 80 % vessel? By MONAI.

All pixels of a frame count, and most are background and easy: the errors are small numbers, to compare arms by.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from monai.metrics import CalibrationErrorMetric, calibration_binning
from PIL import Image
from torch import Tensor

from nightshift.model.predictor import MAP_MAX

BINS = 20  # of equal width, MONAI's default
RELIABILITY = ("low", "high", "probability", "vessel", "pixels")


def calibration(probability_map: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """measures.CALIBRATION of one case: expected calibration error (Guo et al., ICML 2017) and Brier score, 0 to 1.

    Args:
        probability_map: (H, W) uint16, as `CachedPredictor` makes it.
        truth: (H, W), 0 or 1.
    """
    said, vessel = _tensors(probability_map, truth)
    ece = CalibrationErrorMetric(num_bins=BINS)(said, vessel)
    assert isinstance(ece, Tensor)  # of one batch, not a list of them
    brier = (said - vessel).double().square().mean()
    return {"ece": round(float(ece), 6), "brier": round(float(brier), 6)}


def reliability(pictures: Path) -> pd.DataFrame:
    """RELIABILITY of the maps in `pictures`, a row per bin, all cases and seeds together.

    `probability` is the mean in the bin from `low` to `high`, `vessel` the share of its `pixels` that are vessel; both
    are NaN where it has none. `pictures` is the folder that `evaluate_model` and `write_pictures` fill.
    """
    pixels, sums = np.zeros(BINS), np.zeros((2, BINS))
    for path in sorted(pictures.glob("probability-*.png")):
        truth = pictures / f"truth-{path.stem.rpartition('-')[2]}.png"
        pair = _tensors(np.asarray(Image.open(path)), np.asarray(Image.open(truth)) > 0)
        *means, count = (one[0, 0].double().numpy() for one in calibration_binning(*pair, num_bins=BINS))
        pixels += count
        sums += np.nan_to_num(means) * count
    with np.errstate(invalid="ignore"):
        said, vessel = sums / pixels
    edges = np.arange(BINS + 1) / BINS
    columns = (edges[:-1], edges[1:], said, vessel, pixels.astype(int))
    return pd.DataFrame(dict(zip(RELIABILITY, columns, strict=True)))


def _tensors(probability_map: np.ndarray, truth: np.ndarray) -> tuple[Tensor, Tensor]:
    """Both as MONAI takes them: (1, 1, H, W), float32, 0 to 1."""
    said, vessel = (torch.from_numpy(one.astype(np.float32))[None, None] for one in (probability_map, truth))
    return said / MAP_MAX, vessel
