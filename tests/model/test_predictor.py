"""Maps of several frames at once, of a frame and its mirror image together, and masks of two thresholds."""

import numpy as np
import pytest
from helpers.data import source_case
from helpers.models import WITHOUT_ENCODER, new_model

from nightshift.model.kinds import kind_of
from nightshift.model.predictor import MAP_MAX, CachedPredictor, map_maker, threshold_mask


@pytest.mark.parametrize("name", ["frozen", "unet", "vesselness"])
def test_frames_of_several_sizes_at_once_have_the_maps_of_each_alone(small, name):
    settings = small(WITHOUT_ENCODER, name)
    model = new_model(settings).eval() if name == "frozen" else kind_of(settings).build(settings).eval()
    frames = [source_case(i).read()[0] for i in range(3)]
    angles = [(30.0, -20.0), (0.0, 0.0), (-45.5, 10.0)]
    for mirror in (False, True):
        together = map_maker(model, mirror)(frames, angles)
        for frame, view, found in zip(frames, angles, together, strict=True):
            alone = CachedPredictor(model, frame, mirror).probability_map(view)
            assert found.dtype == np.uint16 and found.shape == frame.shape
            assert np.abs(found.astype(int) - alone).max() <= 1
    assert len({frame.shape for frame in frames}) > 1


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
