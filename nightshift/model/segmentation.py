"""An arm: trunk from a block onwards, neck and segmenter. The two arms differ in where their frozen prefix ends.

Frozen: every block is prefix, and only the segmenter is trained. LoRA: the prefix ends before the first adapted block.
What an arm is given is the output of its prefix: tokens (B, g, g, D), or for an empty prefix the images (B, 3, R, R);
the frozen arm may be given the neck's levels instead.
"""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightshift.backbone import encoder
from nightshift.data.dataset import Case, Cases
from nightshift.engine.device import autocast
from nightshift.console.errors import UserError
from nightshift.data.letterbox import frame_to_square, mask_to_square
from nightshift.model.head import Segmenter
from nightshift.config.params import ArmSettings, Settings
from nightshift.data.shards import Shards

ENCODED, MODELS = Path("data/encoded"), Path("models")
LEVELS = 3  # of the neck that the segmenter uses


class Arm(nn.Module):
    """Logits (B, 1, R, R) from images, or from the tokens that the first `start` blocks made of them."""

    def __init__(self, neck: encoder.Sam3DualViTDetNeck, start: int, settings: Settings | ArmSettings) -> None:
        super().__init__()
        self.neck, self.start, self.resolution = neck, start, settings.resolution
        self.precision = settings.encoder.precision
        self.checkpointing = settings.lora is not None and settings.lora.activation_checkpointing
        self.segmenter = Segmenter(settings.preset.d_model, settings.head, settings.view)

    def train(self, mode: bool = True) -> "Arm":
        """The encoder stays in eval mode, or its drop-path would run; only the adapters' own dropout follows `mode`."""
        super().train(mode)
        self.neck.eval()
        for name, module in self.neck.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self

    def features(self, tokens: Tensor | None, images: Tensor | None) -> Tensor:
        """The trunk's output (B, D, g, g) from kept `tokens` or, where they are None, from `images`."""
        with self._precision():
            if tokens is None:
                with torch.no_grad():
                    tokens = encoder.run_prefix(self.neck.trunk, images, self.start)
            return encoder.run_suffix(self.neck.trunk, tokens, self.start, self.checkpointing)

    def levels(self, features: Tensor) -> list[Tensor]:
        """The neck's levels of the trunk's output."""
        with self._precision():
            return encoder.neck_levels(self.neck, features)

    def _precision(self) -> torch.autocast:
        return autocast(next(self.segmenter.parameters()).device, self.precision)

    def forward(
        self, tokens: Tensor | None, angles: Tensor | None, images: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        """From kept `levels` of the neck, kept `tokens` of the prefix or, where both are None, from `images`."""
        if levels is None:
            levels = self.levels(self.features(tokens, images))
        with self._precision():
            logits = self.segmenter(levels, angles, images)
        return F.interpolate(logits.float(), (self.resolution, self.resolution), mode="bilinear", align_corners=False)


def angles_of(case: Case, mode: str) -> tuple[float, float]:
    """Raises UserError for a case without angles, unless view.mode is none (they are not used then)."""
    if mode == "none":
        return 0.0, 0.0
    if case.angles is None:
        raise UserError(
            f"case '{case.case_id}' has no view angles, and params.yaml says view.mode: {mode}; "
            "give it angles or set view.mode=none"
        )
    return case.angles


class ArmCases(torch.utils.data.Dataset):
    """What an arm trains on: per case a dict of `index`, `angles` (2,), `target` (1, R, R), and one of

    `tokens` (g, g, D), `level.0` .. `level.2` or `images` (3, R, R). With n cases, number n + i is case i mirrored:
    left is right, and LAO is RAO.
    """

    def __init__(self, cases: Cases, kept: Shards | None, settings: Settings) -> None:
        self.cases, self.kept, self.settings = cases, kept, settings

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, i: int) -> dict[str, Tensor | int]:
        if i >= len(self.cases) * (2 if self.settings.encode.flips else 1):
            raise IndexError(i)  # which is also how Python ends an iteration
        case, resolution = seen(self.cases, i), self.settings.resolution
        item: dict[str, Tensor | int] = {
            "index": i,
            "angles": torch.tensor(angles_of(case, self.settings.view.mode)),
            "target": mask_to_square(case.mask, resolution),
        }
        for what in ("tokens", *(f"level.{number}" for number in range(LEVELS))):
            if self.kept is not None and f"{what}.{i}" in self.kept.index:
                item[what] = self.kept[f"{what}.{i}"].float()
        if self.kept is None or self.settings.head.detail:
            item["images"] = frame_to_square(case.frame, resolution)
        return item


def seen(cases: Cases, i: int) -> Case:
    """Case i, or from len(cases) on case i - len(cases) mirrored."""
    case = cases[i % len(cases)]
    if i < len(cases):
        return case
    angles = case.angles and (-case.angles[0], case.angles[1])
    return replace(case, angles=angles, frame=case.frame[:, ::-1].copy(), mask=case.mask[:, ::-1].copy())
