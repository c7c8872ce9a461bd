"""The model that an arm trains: the trunk from a block onwards, the neck, and the segmentation head.

It starts where the arm's frozen prefix ends, from what was kept of each case: tokens (B, g, g, D), the neck's levels,
or for an empty prefix the images (B, 3, R, R).
"""

from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from nightshift.backbone import encoder
from nightshift.config.params import EncoderArmSettings
from nightshift.core.records import LEVELS
from nightshift.engine.device import autocast
from nightshift.model.base import ArmModel
from nightshift.model.head import SegmentationHead


class Prepared(NamedTuple):
    """A frame, the trunk's output of it and the neck's levels of that."""

    images: Tensor
    features: Tensor
    levels: list[Tensor]


class SegmentationModel(ArmModel):
    """Logits (B, 1, R, R) from images, or from the tokens that the first `start` blocks made of them.

    With `activation_checkpointing` a block of the trunk keeps only its input and is run again in the backward pass.
    """

    def __init__(
        self,
        neck: encoder.Sam3DualViTDetNeck,
        start: int,
        settings: EncoderArmSettings,
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__(settings, activation_checkpointing)
        self.neck, self.start = neck, start
        self.head = SegmentationHead(settings.preset.d_model, settings.head, settings.view)

    def train(self, mode: bool = True) -> Self:
        """The head follows `mode`; the encoder stays in eval mode.

        Else its drop-path would run: not in the kept prefix, so arms would differ in more than in what they train.
        """
        super().train(mode)
        self.neck.eval()
        return self

    def compile_parts(self) -> None:
        encoder.compile_blocks(self.neck.trunk)

    def features(self, tokens: Tensor | None, images: Tensor | None) -> Tensor:
        """The trunk's output (B, D, g, g) from kept `tokens` or, where they are None, from `images`."""
        with self._autocast():
            if tokens is None:
                assert images is not None  # one of the two is given
                tokens = encoder.run_prefix(self.neck.trunk, images, self.start)
            return encoder.run_suffix(self.neck.trunk, tokens, self.start, self.activation_checkpointing)

    def levels(self, features: Tensor) -> list[Tensor]:
        """The neck's levels of the trunk's output, those that the head uses."""
        with self._autocast():
            return encoder.neck_levels(self.neck, features, LEVELS)

    def _autocast(self) -> torch.autocast:
        return autocast(next(self.head.parameters()).device, self.precision)

    def forward(
        self, tokens: Tensor | None, angles: Tensor | None, images: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        """From kept `levels`, from kept `tokens` or, where both are None, from `images`."""
        if levels is None:
            levels = self.levels(self.features(tokens, images))
        with self._autocast():
            logits = self.head(levels, angles, images)
        return F.interpolate(logits.float(), (self.resolution, self.resolution), mode="bilinear", align_corners=False)

    def prepare(self, images: Tensor) -> Prepared:
        features = self.features(None, images)
        return Prepared(images, features, self.levels(features))

    def decode(self, prepared: Prepared, angles: Tensor) -> Tensor:
        return self(None, angles, prepared.images, prepared.levels)

    def averaged(self, prepared: Prepared) -> Prepared:
        """Every token of the trunk's output is the mean of all, before the neck, which could tell them apart."""
        features = prepared.features.mean((2, 3), keepdim=True).expand_as(prepared.features)
        return Prepared(prepared.images, features, self.levels(features))
