"""Probability maps of frames by a trained model, at each frame's own size, and masks of them.

The model sees a frame as a square; its map goes back through the exact inverse (nightshift/data/letterbox.py).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nightshift.data.channels import input_of
from nightshift.data.letterbox import square_to_frame
from nightshift.engine.device import device
from nightshift.model.base import ArmModel

MAP_MAX = 2**16 - 1  # a probability of 1: maps are kept as 16-bit pictures, and masks are made of what is kept
THRESHOLDS = tuple(k / 20 for k in range(2, 19))  # 0.10 .. 0.90: what validation chooses from


class MapMaker(Protocol):
    """Makes the probability map (H, W), uint16, of each of some frames (H, W), uint8; MAP_MAX is 1.

    Frames may differ in size. Angles are those of each frame's view, in degrees.
    """

    def __call__(self, frames: Sequence[np.ndarray], angles: Sequence[tuple[float, float]], /) -> list[np.ndarray]: ...


def map_maker(model: ArmModel, mirror: bool) -> MapMaker:
    """The maps of `BatchPredictor`, all frames of a call in one forward pass."""
    return lambda frames, angles: BatchPredictor(model, frames, mirror).probability_maps(angles)


class BatchPredictor:
    """Probability maps of frames (H, W), uint8; an encoder runs once, whatever views are asked about.

    With `mirror` they are the mean of the frames' and of their mirror images'.
    """

    def __init__(self, model: ArmModel, frames: Sequence[np.ndarray], mirror: bool = False) -> None:
        self.model, self.sizes, self.mirror = model, [frame.shape for frame in frames], mirror
        self.prepared = self._prepare(frames)
        self.mirrored = self._prepare([frame[:, ::-1].copy() for frame in frames]) if mirror else None

    def probability_maps(self, angles: Sequence[tuple[float, float]], tokens: bool = True) -> list[np.ndarray]:
        """Of each frame (H, W) uint16, MAP_MAX is 1.

        Args:
            angles: of each frame's view, in degrees.
            tokens: False replaces every token of the encoder by the mean of all, so that none says where it is.
        """
        maps = self._probabilities(self.prepared, angles, tokens)
        if self.mirror:
            others = self._probabilities(self.mirrored, [(-first, second) for first, second in angles], tokens)
            maps = [(one + other.flip(1)) / 2 for one, other in zip(maps, others, strict=True)]
        return [(one.double() * MAP_MAX).round().numpy().astype(np.uint16) for one in maps]

    @torch.no_grad()
    def _prepare(self, frames: Sequence[np.ndarray]) -> object:
        squares = [input_of(frame, self.model.resolution, self.model.channels) for frame in frames]
        return self.model.prepare(torch.stack(squares).to(device()))

    @torch.no_grad()
    def _probabilities(self, prepared: object, angles: Sequence[tuple[float, float]], tokens: bool) -> list[Tensor]:
        if not tokens:
            prepared = self.model.averaged(prepared)
        squares = self.model.decode(prepared, torch.tensor(angles, device=device())).sigmoid()[:, 0].cpu()
        return [square_to_frame(square, *size) for square, size in zip(squares, self.sizes, strict=True)]


class CachedPredictor(BatchPredictor):
    """Probability maps of one frame (H, W), uint8."""

    def __init__(self, model: ArmModel, frame: np.ndarray, mirror: bool = False) -> None:
        super().__init__(model, [frame], mirror)

    def probability_map(self, angles: tuple[float, float], tokens: bool = True) -> np.ndarray:
        """(H, W) uint16, as `probability_maps` makes it."""
        return self.probability_maps([angles], tokens)[0]


def threshold_mask(probability_map: np.ndarray, threshold: float, low: float | None = None) -> np.ndarray:
    """The mask, (H, W) bool, of a map as a `MapMaker` makes it.

    With `low`, what is above that is connected to what is above `threshold` (hysteresis, Canny 1986).
    """
    above: np.ndarray = probability_map > threshold * MAP_MAX
    if low is None:
        return above
    from skimage.filters import apply_hysteresis_threshold  # only for those who ask

    mask: np.ndarray = apply_hysteresis_threshold(probability_map, low * MAP_MAX, threshold * MAP_MAX)
    return mask
