"""Maps of a frame and its mirror image together, and masks of two thresholds."""

import numpy as np
import pytest
from helpers.data import source_case
from helpers.models import new_model

from nightshift.model.predictor import MAP_MAX, CachedPredictor, threshold_mask


@pytest.mark.parametrize("tokens", [True, False])
def test_with_mirror_the_map_is_the_mean_of_both_with_lao_for_rao(small, tokens):
    frame = source_case(3).read()[0]
    model = new_model(small()).eval()
    here = CachedPredictor(model, frame).probability_map((30.0, -20.0), tokens)
    there = CachedPredictor(model, frame[:, ::-1].copy()).probability_map((-30.0, -20.0), tokens)[:, ::-1]
    found = CachedPredictor(model, frame, mirror=True).probability_map((30.0, -20.0), tokens)
    assert found.shape == (60, 43) and not np.array_equal(here, there)
    assert np.abs(found - (here.astype(float) + there) / 2).max() <= 1
    turned = CachedPredictor(model, frame[:, ::-1].copy(), mirror=True).probability_map((-30.0, -20.0), tokens)
    assert np.abs(turned[:, ::-1].astype(int) - found).max() <= 1


def test_with_two_thresholds_a_faint_part_counts_where_it_touches_a_clear_one():
    shares = np.array([[0.3, 0.3, 0.8, 0.1, 0.3, 0.3]])
    probability = (shares * MAP_MAX).astype(np.uint16)
    assert threshold_mask(probability, 0.5).tolist() == [[False, False, True, False, False, False]]
    assert threshold_mask(probability, 0.5, 0.2).tolist() == [[True, True, True, False, False, False]]
    assert threshold_mask(probability, 0.5, 0.5).tolist() == threshold_mask(probability, 0.5).tolist()
