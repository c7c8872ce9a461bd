"""Probability maps of a frame by a trained model, at the frame's own size, and masks of them.

The model sees the frame as a square; its map goes back through the exact inverse (nightshift/data/letterbox.py).
"""

import numpy as np
import torch
from torch import Tensor

from nightshift.data.channels import input_of
from nightshift.data.letterbox import square_to_frame
from nightshift.engine.device import device
from nightshift.model.base import ArmModel

MAP_MAX = 2**16 - 1  # a probability of 1: maps are kept as 16-bit pictures, and masks are made of what is kept
THRESHOLDS = tuple(k / 20 for k in range(2, 19))  # 0.10 .. 0.90: what validation chooses from


class CachedPredictor:
    """Probability maps of one frame (H, W), uint8; an encoder runs once, whatever views are asked about.

    With `mirror` they are the mean of the frame's and of its mirror image's.
    """

    def __init__(self, model: ArmModel, frame: np.ndarray, mirror: bool = False) -> None:
        self.model, self.size, self.mirror = model, frame.shape, mirror
        self.prepared = self._prepare(frame)
        self.mirrored = self._prepare(frame[:, ::-1].copy()) if mirror else None

    def probability_map(self, angles: tuple[float, float], tokens: bool = True) -> np.ndarray:
        """(H, W) uint16, MAP_MAX is 1.

        Args:
            angles: of the view, in degrees.
            tokens: False replaces every token of the encoder by the mean of all, so that none says where it is.
        """
        probability = self._probability(self.prepared, angles, tokens)
        if self.mirror:
            other = self._probability(self.mirrored, (-angles[0], angles[1]), tokens)
            probability = (probability + other.flip(1)) / 2
        scaled: np.ndarray = (probability.double() * MAP_MAX).round().numpy().astype(np.uint16)
        return scaled

    @torch.no_grad()
    def _prepare(self, frame: np.ndarray) -> object:
        square = input_of(frame, self.model.resolution, self.model.channels)
        return self.model.prepare(square[None].to(device()))

    @torch.no_grad()
    def _probability(self, prepared: object, angles: tuple[float, float], tokens: bool) -> Tensor:
        if not tokens:
            prepared = self.model.averaged(prepared)
        logits = self.model.decode(prepared, torch.tensor([angles], device=device()))
        return square_to_frame(logits.sigmoid()[0, 0].cpu(), *self.size)


def threshold_mask(probability_map: np.ndarray, threshold: float, low: float | None = None) -> np.ndarray:
    """The mask, (H, W) bool, of a map as `CachedPredictor` makes it.

    With `low`, what is above that is connected to what is above `threshold` (hysteresis, Canny 1986).
    """
    above: np.ndarray = probability_map > threshold * MAP_MAX
    if low is None:
        return above
    from skimage.filters import apply_hysteresis_threshold  # only for those who ask

    mask: np.ndarray = apply_hysteresis_threshold(probability_map, low * MAP_MAX, threshold * MAP_MAX)
    return mask
