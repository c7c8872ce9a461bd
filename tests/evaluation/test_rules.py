"""How masks are made: by thresholds that validation chooses from the masks themselves, with nothing trained again."""

import numpy as np
import pytest
from helpers.data import source_case, written
from helpers.models import card_of, new_model
from scipy.ndimage import gaussian_filter

from nightshift.config.sections import Predict
from nightshift.evaluation.measures import dice
from nightshift.evaluation.rules import Rule, dice_by_two_thresholds, rule_of
from nightshift.model.predictor import MAP_MAX, THRESHOLDS, CachedPredictor, threshold_mask

PAIRS = [(low, high) for i, low in enumerate(THRESHOLDS) for high in THRESHOLDS[i:]]


def smooth(seed=0):
    """A map (60, 80) of blobs."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(60, 80)), 2)
    return ((noise - noise.min()) / np.ptp(noise) * MAP_MAX).astype(np.uint16)


def planted_map(size):
    """Another map for each size (H, W) up to (60, 80)."""
    return smooth(size[1])[: size[0], : size[1]]


@pytest.mark.parametrize("share", [0.1, 0.0])
def test_dice_of_every_pair_is_that_of_its_mask(share):
    probability, truth = smooth(), (np.random.default_rng(1).random((60, 80)) < share).astype(np.uint8)
    found = dice_by_two_thresholds(probability, truth)
    for row, low in enumerate(THRESHOLDS):
        for column, high in enumerate(THRESHOLDS):
            expected = dice(threshold_mask(probability, high, low), truth) if low <= high else 0
            assert found[row, column] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mirror", [True, False])
def test_two_thresholds_are_the_best_pair_for_the_masks_of_the_validation_cases(small, tmp_path, monkeypatch, mirror):
    cases = written(tmp_path / "val", [source_case(i) for i in (2, 3)])
    asked = []

    def planted(predictor, angles):
        asked.append((predictor.mirror, angles))
        return planted_map(predictor.sizes[0])

    monkeypatch.setattr(CachedPredictor, "probability_map", planted)
    model, card = new_model(small()).eval(), card_of(small())
    maps = [(planted_map(case.mask.shape), case.mask) for case in cases]
    best = {(low, high): sum(dice(threshold_mask(one, high, low), truth) for one, truth in maps) for low, high in PAIRS}
    both = rule_of(model, card, Predict(mirror=mirror, hysteresis=True), cases)
    assert asked == [(mirror, case.angles) for case in cases]
    assert best[both.low, both.threshold] == pytest.approx(max(best.values())) and both.mirror is mirror
    one = rule_of(model, card, Predict(mirror=True, hysteresis=False), cases)
    assert best[one.threshold, one.threshold] == pytest.approx(max(best[t, t] for t in THRESHOLDS)) and one.low is None


def test_where_nothing_is_asked_the_threshold_is_the_cards(small):
    asked = Predict(mirror=False, hysteresis=False)
    assert rule_of(None, card_of(small(), threshold=0.35), asked, None) == Rule(mirror=False, threshold=0.35)
