"""Metrics against MONAI and scikit-image called directly, distances also against SciPy, and of empty masks."""

import numpy as np
import pytest
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_iou,
)
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist
from skimage.filters import gaussian
from skimage.morphology import skeletonize

from nightshift.evaluation import measures
from nightshift.training import validation

OVERLAPS = ("dice", "iou", "cldice", "precision", "recall")


def random_masks(count=20):
    """Pairs (mask, truth) of blobs, some reaching the edge; three have an empty mask, truth or both."""
    random = np.random.default_rng(0)
    for i in range(count):
        pair = (gaussian(random.normal(size=(40, 53)), 1 + i / 8) for _ in range(2))
        first, second = (x > np.quantile(x, 0.5 + i / 45) for x in pair)
        first = first if i % 2 else first | second
        yield first & (i not in (6, 18)), second & (i not in (13, 18))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("mask", "truth"), random_masks())
def test_metrics_are_those_of_monai_and_scikit_image(mask, truth):
    found = measures.all_measures(mask, truth.astype(np.uint8))
    pair = [torch.from_numpy(m)[None, None].float() for m in (mask, truth)]
    assert found["dice"] == pytest.approx(compute_dice(*pair, ignore_empty=False).item(), abs=1e-6)
    assert found["iou"] == pytest.approx(compute_iou(*pair, ignore_empty=False).item(), abs=1e-6)
    hd95 = compute_hausdorff_distance(*pair, include_background=True, percentile=95).item()
    asd = compute_average_surface_distance(*pair, include_background=True, symmetric=True).item()
    if not mask.any() or not truth.any():
        assert not np.isfinite(hd95) and not np.isfinite(asd)  # so a rule is needed, which another test holds
        return
    assert (found["hd95"], found["asd"]) == pytest.approx((hd95, asd), abs=1e-6)
    edges = [np.argwhere(m & ~binary_erosion(m)) for m in (mask, truth)]
    distances = cdist(*edges)
    there, back = distances.min(axis=1), distances.min(axis=0)
    assert found["hd95"] == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-4)
    assert found["asd"] == pytest.approx(np.concatenate([there, back]).mean(), abs=1e-4)
    assert found["precision"] == pytest.approx((mask & truth).sum() / mask.sum(), abs=1e-6)
    assert found["recall"] == pytest.approx((mask & truth).sum() / truth.sum(), abs=1e-6)
    lines = [skeletonize(m) for m in (mask, truth)]
    precision, recall = (lines[0] & truth).sum() / lines[0].sum(), (lines[1] & mask).sum() / lines[1].sum()
    assert found["cldice"] == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-6)


@pytest.mark.filterwarnings("error")
def test_metrics_of_empty_masks():
    empty, full = np.zeros((30, 40), bool), np.ones((30, 40), bool)
    one = empty.copy()
    one[12, 30] = True
    assert measures.all_measures(empty, empty) == dict.fromkeys(OVERLAPS, 1.0) | {"hd95": 0.0, "asd": 0.0}
    for pair in ((empty, full), (full, empty), (one, empty), (empty, one)):
        assert measures.all_measures(*pair) == dict.fromkeys(OVERLAPS, 0.0) | {"hd95": 50.0, "asd": 50.0}
    assert measures.all_measures(full, full) == dict.fromkeys(OVERLAPS, 1.0) | {"hd95": 0.0, "asd": 0.0}
    apart = measures.all_measures(one, np.roll(one, (4, -3), (0, 1)))
    assert apart == dict.fromkeys(OVERLAPS, 0.0) | {"hd95": 5.0, "asd": 5.0}
    assert list(apart) == list(measures.MEASURES)


@pytest.mark.filterwarnings("ignore")
def test_dice_at_thresholds_is_monais():
    probability = gaussian(np.random.default_rng(0).uniform(-1, 2, (40, 53)), 1).clip(0, 0.8)
    truth = probability > 0.45
    for true in (truth, ~truth, np.zeros_like(truth)):
        found = validation.dice_at_thresholds(probability, true.astype(np.uint8))
        for value, t in zip(found, validation.THRESHOLDS, strict=True):
            pair = [torch.from_numpy(m)[None, None].float() for m in (probability > t, true)]
            assert value == pytest.approx(compute_dice(*pair, ignore_empty=False).item(), abs=1e-6)
    assert found[-1] == 1 and 0 in found  # above 0.8 nothing is marked, and nothing is there
    full = np.ones((30, 40), bool)
    assert validation.dice_at_thresholds(full / 2, full).tolist() == [1.0] * 8 + [0.0] * 9  # above 0.5 means not 0.5


def test_millimetres_are_pixels_times_their_size():
    for mask, truth in random_masks():
        pixels, square = measures.all_measures(mask, truth), measures.millimetres(mask, truth, (0.25, 0.25))
        assert square == pytest.approx({"hd95_mm": pixels["hd95"] / 4, "asd_mm": pixels["asd"] / 4}, abs=1e-5)
    mask, truth = np.zeros((2, 20, 30), bool)
    mask[5:10, 5:10] = truth[9:14, 5:10] = True
    assert measures.millimetres(mask, truth, (0.5, 0.1))["hd95_mm"] == pytest.approx(2)
    assert measures.millimetres(mask, mask & ~mask, (0.3, 0.4))["asd_mm"] == pytest.approx(np.hypot(6, 12))
