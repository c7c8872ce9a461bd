"""Calibration against arithmetic of 64 bits, of maps whose errors are known, and pooled from the kept pictures."""

import numpy as np
import pytest
from PIL import Image

from nightshift.evaluation.calibration import BINS, RELIABILITY, calibration, reliability
from nightshift.model.predictor import MAP_MAX


def kept(probability):
    return (np.asarray(probability) * MAP_MAX).round().astype(np.uint16)


def drawn(seed, size=(60, 80)):
    """A map, and a truth that is vessel as often as the map says."""
    random = np.random.default_rng(seed)
    probability = random.beta(0.3, 0.6, size)
    return kept(probability), random.random(size) < probability


def by_hand(probability_map, truth):
    """Mean probability, share of vessel and pixels of each bin, from whole numbers."""
    said = probability_map.astype(np.int64).ravel()
    bins = np.minimum(said * BINS // MAP_MAX, BINS - 1)
    pixels = np.bincount(bins, minlength=BINS)
    sums = np.bincount(bins, said / MAP_MAX, BINS), np.bincount(bins, truth.ravel().astype(float), BINS)
    return *(one / pixels for one in sums), pixels


def test_an_honest_arm_is_calibrated_and_a_sure_one_is_not():
    probability, truth = drawn(0, (400, 400))
    honest, sure = calibration(probability, truth), calibration(kept(probability > MAP_MAX / 2), truth)
    assert honest["ece"] < 0.01
    wrong = ((probability > MAP_MAX / 2) != truth).mean()
    assert sure == pytest.approx({"ece": wrong, "brier": wrong}, abs=1e-4)
    assert calibration(kept(truth), truth) == {"ece": 0, "brier": 0}
    assert calibration(kept(np.full((30, 40), 0.3)), np.zeros((30, 40), np.uint8))["ece"] == pytest.approx(
        0.3, abs=1e-3
    )


def test_it_is_the_mean_of_the_bins_errors():
    probability, truth = drawn(1)
    said, vessel, pixels = by_hand(probability, truth)
    found = calibration(probability, truth.astype(np.uint8))
    assert found["ece"] == pytest.approx((np.abs(said - vessel) * pixels).sum() / truth.size, abs=1e-5)
    assert found["brier"] == pytest.approx(((probability / MAP_MAX - truth) ** 2).mean(), abs=1e-6)


def test_reliability_pools_all_cases_and_seeds(tmp_path):
    cases = [drawn(2), drawn(3, (30, 20))]
    for i, (_, truth) in enumerate(cases):
        Image.fromarray(np.uint8(255 * truth)).save(tmp_path / f"truth-{i:05d}.png")
    for seed in (0, 11):
        for i, (probability, _) in enumerate(cases):
            upper = probability // 2 + MAP_MAX // 2 if seed else probability // 2  # each seed has bins of its own
            Image.fromarray(upper).save(tmp_path / f"probability-{seed}-{i:05d}.png")
    table = reliability(tmp_path)
    whole = np.concatenate([(one // 2 + (MAP_MAX // 2 if seed else 0)).ravel() for seed in (0, 11) for one, _ in cases])
    said, vessel, pixels = by_hand(whole, np.concatenate([truth.ravel() for _ in (0, 11) for _, truth in cases]))
    assert tuple(table) == RELIABILITY and table["pixels"].tolist() == pixels.tolist()
    assert (table["low"] * BINS).round().tolist() == list(range(BINS)) and table["high"].iloc[-1] == 1
    np.testing.assert_allclose(table[["probability", "vessel"]], np.stack([said, vessel], 1), atol=1e-5)


def test_a_bin_without_pixels_has_no_means(tmp_path):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "truth-00000.png")
    Image.fromarray(kept(np.full((8, 8), 0.02))).save(tmp_path / "probability-0-00000.png")
    table = reliability(tmp_path)
    assert table["pixels"].tolist() == [64] + [0] * (BINS - 1)
    assert table["probability"].notna().tolist() == table["vessel"].notna().tolist() == [True] + [False] * (BINS - 1)
