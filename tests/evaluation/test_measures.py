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
from scipy.ndimage import label as scipy_label
from scipy.spatial.distance import cdist
from skimage.filters import gaussian
from skimage.morphology import skeletonize

from nightshift.evaluation import measures
from nightshift.evaluation.measures import CALIBRES, OVERLAPS
from nightshift.model.predictor import THRESHOLDS
from nightshift.training import validation

EIGHT = np.ones((3, 3))


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
    assert found["dice"] == measures.dice(mask, truth.astype(np.uint8))
    assert found["betti0_error"] == abs(scipy_label(mask, EIGHT)[1] - scipy_label(truth, EIGHT)[1])
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
    none = dict.fromkeys(CALIBRES, np.nan)
    thin, thick = none | {"recall_thin": 0.0}, none | {"recall_thick": 0.0}

    def same(mask, truth, overlap, distance, calibres, pieces):
        expected = dict.fromkeys(OVERLAPS, overlap) | {"hd95": distance, "asd": distance, "betti0_error": pieces}
        found = measures.all_measures(mask, truth)
        assert list(found) == list(measures.MEASURES)
        assert found == pytest.approx(expected | calibres, nan_ok=True)

    same(empty, empty, 1, 0, none, 0)
    same(empty, one, 0, 50, thin, 1)
    same(one, empty, 0, 50, none, 1)
    same(full, empty, 0, 50, none, 1)
    same(empty, np.pad(full, 1)[:30, :40], 0, 50, thick, 1)
    same(one, one, 1, 0, none | {"recall_thin": 1.0}, 0)
    same(np.roll(one, (4, -3), (0, 1)), one, 0, 5, thin, 0)


def lines(*widths):
    """Vertical lines of these widths, 60 rows long, 20 columns apart."""
    mask = np.zeros((80, 20 * len(widths) + 20), bool)
    for i, width in enumerate(widths):
        mask[10:70, 20 * (i + 1) - width // 2 : 20 * (i + 1) + (width + 1) // 2] = True
    return mask


def test_recall_by_calibre_is_of_vessels_of_that_diameter():
    """In pixels a vessel of 3 is thin, of 7 medium, of 11 thick; of each another part is found."""
    truth = lines(3, 7, 11)
    found = truth.copy()
    found[10:55, 15:25] = found[10:40, 35:45] = False
    of = measures.all_measures(found, truth)
    assert of["recall_thin"] == pytest.approx(1 / 4, abs=0.03)
    assert of["recall_medium"] == pytest.approx(1 / 2, abs=0.03)
    assert of["recall_thick"] == 1
    assert np.isnan(measures.all_measures(found, lines(3, 7, 0))["recall_thick"])
    for spacing in ((0.3, 0.3), (0.2, 0.2)):  # 11 pixels are thick at 0.3 mm, and medium at 0.2 mm
        in_mm = measures.all_measures(lines(11), lines(11), spacing)
        assert np.isnan(in_mm["recall_medium" if spacing[0] == 0.3 else "recall_thick"])
    uneven = measures.all_measures(lines(7), lines(7), (0.3, 0.1))  # columns of 0.1 mm: 0.7 mm wide
    assert uneven["recall_thin"] == 1 and np.isnan(uneven["recall_medium"])


def test_betti0_error_counts_pieces_of_eight_neighbours():
    truth = lines(5, 5)
    cut = truth.copy()
    cut[30:32, :30] = False
    touching = np.eye(20, dtype=bool)
    assert measures.betti0_error(cut, truth) == 1 and measures.betti0_error(truth, truth) == 0
    assert measures.betti0_error(truth & (np.indices(truth.shape)[1] < 30), truth) == 1
    assert measures.betti0_error(touching, truth) == 1


@pytest.mark.filterwarnings("ignore")
def test_dice_at_thresholds_is_monais():
    probability = gaussian(np.random.default_rng(0).uniform(-1, 2, (40, 53)), 1).clip(0, 0.8)
    truth = probability > 0.45
    for true in (truth, ~truth, np.zeros_like(truth)):
        found = validation.dice_at_thresholds(probability, true.astype(np.uint8))
        for value, t in zip(found, THRESHOLDS, strict=True):
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
