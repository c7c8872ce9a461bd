"""Defects that are planted in a tree move the measure that tells them, and no other such measure.

The arm with the defect is honest about it: of the pixels that it gives a probability, that share is vessel. One that is
sure of it is over-confident as well, and the last test says by how much.
"""

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from skimage.draw import line

from nightshift.evaluation.calibration import calibration
from nightshift.evaluation.measures import all_measures
from nightshift.model.predictor import MAP_MAX, threshold_mask

OTHERS = 0.1  # of its change under its own defect, the most that a measure may change under another
TELLS = {  # each defect, by the measure that tells it
    "betti0_error": "gap",
    "area": "dilation",  # recall / precision, the ratio of both areas
    "recall_thin": "missed branch",
    "recall": "shift",
    "ece": "over-confidence",
}


def vessel(width, *ends):
    """A line from row, column to row, column, in a frame of 256 x 256."""
    centreline = np.zeros((256, 256), bool)
    centreline[line(*ends)] = True
    return binary_dilation(centreline, np.ones((width, width)))


BRANCHES = ((20, 128, 150, 60), (20, 128, 150, 200), (90, 128, 240, 40), (90, 128, 240, 220), (160, 128, 240, 160))
TREE = np.any([vessel(9, 8, 128, 248, 128), *(vessel(5, *ends) for ends in BRANCHES)], axis=0)
THIN = vessel(3, 100, 172, 120, 164)
TRUTH = TREE | THIN | vessel(5, 160, 128, 240, 90)  # the last branch no arm finds
WHOLE = TREE | THIN | vessel(5, 8, 128, 90, 235)  # a catheter, which every arm takes for a vessel
GAP = np.ones_like(TREE)
GAP[190:193, 60:100] = False
MASKS = {
    "gap": WHOLE & GAP,
    "dilation": binary_dilation(WHOLE, np.ones((3, 3))),
    "missed branch": WHOLE & (TREE | ~THIN),
    "shift": np.roll(WHOLE, 1, axis=1),
}


def honest(mask):
    """A map of two probabilities, which gives `mask` at 0.5."""
    shares = np.where(mask, TRUTH[mask].mean(), TRUTH[~mask].mean())
    return (shares * MAP_MAX).round().astype(np.uint16)


def over_confident(probability_map, power=3):
    """The same mask; every probability is nearer to 0 or 1, that of temperature scaling by 1 / power."""
    p = (probability_map / MAP_MAX) ** power
    return (p / (p + (1 - probability_map / MAP_MAX) ** power) * MAP_MAX).round().astype(np.uint16)


def measured(probability_map):
    found = all_measures(threshold_mask(probability_map, 0.5), TRUTH) | calibration(probability_map, TRUTH)
    return found | {"area": found["recall"] / found["precision"]}


@pytest.fixture(scope="module")
def changes():
    """By measure and defect, what the defect changes."""
    maps = {name: honest(mask) for name, mask in MASKS.items()} | {"over-confidence": over_confident(honest(WHOLE))}
    before, after = measured(honest(WHOLE)), {name: measured(one) for name, one in maps.items()}
    assert not np.isnan(list(before.values())).any()
    return {measure: {name: after[name][measure] - value for name in maps} for measure, value in before.items()}


@pytest.mark.parametrize(("measure", "defect"), TELLS.items())
def test_a_defect_moves_its_own_measure_and_no_other_by_a_tenth_as_much(changes, measure, defect):
    own, others = changes[measure][defect], (change for name, change in changes[measure].items() if name != defect)
    worse = -1 if measure in ("recall", "recall_thin") else 1
    assert worse * own > 0.01
    assert max(map(abs, others)) <= OTHERS * abs(own)


def test_the_others_sum_up_every_defect_of_shape_and_the_shape_is_not_how_sure_an_arm_is(changes):
    for defect in MASKS:
        assert all(changes[name][defect] < 0 for name in ("dice", "iou", "precision"))
        assert all(changes[name][defect] > 0 for name in ("asd", "brier"))
    shape = set(changes) - {"ece", "brier"}
    assert [name for name in shape if changes[name]["over-confidence"]] == []
    assert abs(changes["precision"]["shift"]) > OTHERS * abs(
        changes["precision"]["dilation"]
    )  # precision tells neither


@pytest.mark.parametrize(
    ("defect", "small"), [("gap", True), ("missed branch", True), ("dilation", False), ("shift", False)]
)
def test_an_arm_that_is_sure_of_its_defect_is_over_confident(changes, defect, small):
    sure = np.where(MASKS[defect], honest(WHOLE).max(), honest(WHOLE).min()).astype(np.uint16)
    more = measured(sure)["ece"] - measured(honest(WHOLE))["ece"]
    assert more > 0 and (more <= OTHERS * changes["ece"]["over-confidence"]) == small
