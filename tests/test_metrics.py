"""Metrics against MONAI and scikit-image called directly, and of empty masks."""

import numpy as np
import pytest
import torch
from monai.metrics import compute_dice, compute_hausdorff_distance, compute_iou
from skimage.filters import gaussian
from skimage.morphology import skeletonize

from nightshift import metrics


def random_masks(count=20):
    random = np.random.default_rng(0)
    for i in range(count):
        pair = (gaussian(random.normal(size=(40, 53)), 1 + i / 8) for _ in range(2))
        first, second = (x > np.quantile(x, 0.5 + i / 45) for x in pair)
        yield (first, second) if i % 2 else (first | second, second)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("mask", "truth"), random_masks())
def test_metrics_are_those_of_monai_and_scikit_image(mask, truth):
    found = metrics.all_metrics(mask, truth.astype(np.uint8))
    pair = [torch.from_numpy(m)[None, None].float() for m in (mask, truth)]
    assert found["dice"] == pytest.approx(compute_dice(*pair).item(), abs=1e-6)
    assert found["iou"] == pytest.approx(compute_iou(*pair).item(), abs=1e-6)
    distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95).item()
    assert found["hd95"] == pytest.approx(distance, abs=1e-6)
    assert found["precision"] == pytest.approx((mask & truth).sum() / mask.sum())
    assert found["recall"] == pytest.approx((mask & truth).sum() / truth.sum())
    lines = [skeletonize(m) for m in (mask, truth)]
    precision, recall = (lines[0] & truth).sum() / lines[0].sum(), (lines[1] & mask).sum() / lines[1].sum()
    assert found["cldice"] == pytest.approx(2 * precision * recall / (precision + recall))


@pytest.mark.filterwarnings("error")
def test_metrics_of_empty_masks():
    empty, full = np.zeros((30, 40), bool), np.ones((30, 40), bool)
    overlaps = ("dice", "iou", "cldice", "precision", "recall")
    assert metrics.all_metrics(empty, empty) == dict.fromkeys(overlaps, 1.0) | {"hd95": 0.0}
    for pair in ((empty, full), (full, empty)):
        assert metrics.all_metrics(*pair) == dict.fromkeys(overlaps, 0.0) | {"hd95": 50.0}
    assert metrics.cldice(full & (np.arange(40) < 5), full & (np.arange(40) > 30)) == 0
    assert metrics.dice_at_thresholds(full / 2, full).tolist() == [1.0] * 8 + [0.0] * 9  # above 0.5 means not 0.5
