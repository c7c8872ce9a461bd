"""Probability maps of a frame by a trained model, at the frame's own size.

The model sees the frame as a square; its map goes back through the exact inverse (nightshift/data/letterbox.py).
"""

import numpy as np
import torch

from nightshift.carm import Angles
from nightshift.data.letterbox import frame_to_square, square_to_frame
from nightshift.engine.device import device
from nightshift.model.base import ArmModel

MAP_MAX = 2**16 - 1  # a probability of 1: maps are kept as 16-bit pictures, and masks are made of what is kept


class CachedPredictor:
    """Probability maps of one frame (H, W), uint8; an encoder runs once, whatever views are asked about."""

    def __init__(self, model: ArmModel, frame: np.ndarray) -> None:
        self.model, self.size = model, frame.shape
        with torch.no_grad():
            self.prepared = model.prepare(frame_to_square(frame, model.resolution)[None].to(device()))

    @torch.no_grad()
    def probability_map(self, angles: Angles, tokens: bool = True) -> np.ndarray:
        """(H, W) uint16, MAP_MAX is 1.

        Args:
            angles: of the view, in degrees.
            tokens: False replaces every token of the encoder by the mean of all, so that none says where it is.
        """
        prepared = self.prepared if tokens else self.model.averaged(self.prepared)
        logits = self.model.decode(prepared, torch.tensor([angles], device=device()))
        probability = square_to_frame(logits.sigmoid()[0, 0].cpu(), *self.size)
        scaled: np.ndarray = (probability.double() * MAP_MAX).round().numpy().astype(np.uint16)
        return scaled


def threshold_mask(probability_map: np.ndarray, threshold: float) -> np.ndarray:
    """The mask, (H, W) bool, of a map as `CachedPredictor` makes it."""
    mask: np.ndarray = probability_map > threshold * MAP_MAX
    return mask
