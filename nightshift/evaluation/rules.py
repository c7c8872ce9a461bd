"""How masks are made of a trained model's probabilities: by one threshold or two, with its mirror image or without."""

import numpy as np
from scipy.ndimage import label, maximum

from nightshift.config.sections import Predict
from nightshift.console.progress import bar
from nightshift.core.records import Record
from nightshift.data.dataset import Cases
from nightshift.data.samples import angles_of
from nightshift.model.base import ArmModel
from nightshift.model.card import Card
from nightshift.model.predictor import MAP_MAX, THRESHOLDS, CachedPredictor

NAME = "rules.json"


class Rule(Record):
    """Of one model. `low`: the lower threshold of two, with hysteresis; else None."""

    mirror: bool
    threshold: float
    low: float | None = None


class Rules(Record):
    """reports/evaluation/ARM/rules.json: by the model's folder, as `fold-0/seed-0`."""

    rules: dict[str, Rule]


def rule_of(model: ArmModel, card: Card, predict: Predict, val: Cases) -> Rule:
    """What `predict` asks for, with the thresholds of the best mean Dice over the validation cases, lowest of equals.

    Where it asks for nothing, the threshold is the card's, which training chose in the same way.
    """
    if not (predict.mirror or predict.hysteresis):
        return Rule(mirror=False, threshold=card.threshold)
    total = np.zeros((len(THRESHOLDS), len(THRESHOLDS)))
    for i in bar(f"{card.settings.name}: thresholds of fold {card.fold}, seed {card.seed}", "case")(range(len(val))):
        case = val[i]
        predictor = CachedPredictor(model, case.frame, predict.mirror)
        found = predictor.probability_map(angles_of(case, card.settings.view.mode))
        total += dice_by_two_thresholds(found, case.mask)
    if not predict.hysteresis:
        return Rule(mirror=predict.mirror, threshold=THRESHOLDS[int(np.diagonal(total).argmax())])
    low, high = np.unravel_index(total.argmax(), total.shape)
    return Rule(mirror=predict.mirror, threshold=THRESHOLDS[high], low=THRESHOLDS[low])


def dice_by_two_thresholds(probability_map: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice (17, 17) of the mask of each lower threshold, by row, and each higher one, by column; 0 where it is lower.

    On the diagonal, where both are the same, it is that of one threshold. A part counts as a whole, so the parts above
    a lower threshold are looked for once, with their highest values.

    Args:
        probability_map: (H, W) uint16, as `CachedPredictor` makes it.
        truth: (H, W), 0 or 1.
    """
    found, vessel = np.zeros((len(THRESHOLDS), len(THRESHOLDS))), np.count_nonzero(truth)
    for row, low in enumerate(THRESHOLDS):
        parts, count = label(probability_map > low * MAP_MAX)
        highest = np.atleast_1d(maximum(probability_map, parts, np.arange(1, count + 1)))
        sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
        inside = np.bincount(parts[truth > 0], minlength=count + 1)[1:]
        for column, high in list(enumerate(THRESHOLDS))[row:]:
            kept = highest > high * MAP_MAX
            both = sizes[kept].sum() + vessel
            found[row, column] = 2 * inside[kept].sum() / both if both else 1.0
    return found
