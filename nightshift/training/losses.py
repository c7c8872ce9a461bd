"""The loss of all arms: binary cross-entropy plus soft Dice per case, of which a share may be soft clDice, by MONAI."""

import math

import torch.nn.functional as F
from torch import Tensor

WIDEST = 1 / 32  # of the square's side: the left main artery, 5 mm in a field of 15 cm


def loss_of(logits: Tensor, target: Tensor, cldice: float = 0.0) -> Tensor:
    """Cross-entropy + (1 - cldice) soft Dice (Milletari et al., 2016) + cldice soft clDice (Shit et al., 2021).

    Args:
        logits: (B, 1, R, R).
        target: the same shape, in [0, 1].
        cldice: its share.
    """
    probability = logits.sigmoid()
    both = (probability * target).sum((1, 2, 3))
    total = probability.sum((1, 2, 3)) + target.sum((1, 2, 3))
    dice = (1 - (2 * both + 1) / (total + 1)).mean()  # + 1 pixel: an empty mask has a gradient too
    entropy = F.binary_cross_entropy_with_logits(logits, target)
    if not cldice:
        return entropy + dice
    from monai.losses.cldice import SoftclDiceLoss  # seconds, for those who ask

    thinned = math.ceil(logits.shape[-1] * WIDEST / 2)  # times a pixel is taken from both sides of a vessel
    of_centrelines: Tensor = SoftclDiceLoss(iter_=thinned)(probability, target)
    return entropy + (1 - cldice) * dice + cldice * of_centrelines
