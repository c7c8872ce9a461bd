"""An arm: trunk from a block onwards, neck and segmenter. The two arms differ in where their frozen prefix ends.

Frozen: every block is prefix, and only the segmenter is trained. LoRA: the prefix ends before the first adapted block.
What an arm is given is the output of its prefix: tokens (B, g, g, D), or for an empty prefix the images (B, 3, R, R).
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightshift import encoder
from nightshift.cases import Case, Cases
from nightshift.compute import autocast
from nightshift.errors import UserError
from nightshift.framing import frame_to_square, mask_to_square
from nightshift.segmenter import Segmenter
from nightshift.settings import Settings
from nightshift.shards import Shards

ENCODED, MODELS = Path("data/encoded"), Path("models")


class Arm(nn.Module):
    """Logits (B, 1, R, R) from images, or from the tokens that the first `start` blocks made of them."""

    def __init__(self, neck: encoder.Sam3DualViTDetNeck, start: int, settings: Settings) -> None:
        super().__init__()
        self.neck, self.start, self.resolution = neck, start, settings.resolution
        self.precision, self.checkpointing = settings.encoder.precision, settings.lora.activation_checkpointing
        self.segmenter = Segmenter(settings.preset.d_model, settings.head, settings.view)

    def train(self, mode: bool = True) -> "Arm":
        """The encoder stays in eval mode, or its drop-path would run; only the adapters' own dropout follows `mode`."""
        super().train(mode)
        self.neck.eval()
        for name, module in self.neck.named_modules():
            if "lora_dropout" in name:
                module.train(mode)
        return self

    def forward(self, tokens: Tensor | None, angles: Tensor | None, images: Tensor | None) -> Tensor:
        """`tokens` of the prefix, or None to run the prefix too, from `images`."""
        trunk = self.neck.trunk
        with autocast((images if tokens is None else tokens).device, self.precision):
            if tokens is None:
                with torch.no_grad():
                    tokens = encoder.run_prefix(trunk, images, self.start)
            features = encoder.run_suffix(trunk, tokens, self.start, self.checkpointing)
            logits = self.segmenter(encoder.neck_levels(self.neck, features), angles, images)
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
    """What an arm trains on: per case a dict of `index`, `angles` (2,), `target` (1, R, R) and `tokens` or `images`."""

    def __init__(self, cases: Cases, tokens: Shards | None, settings: Settings) -> None:
        self.cases, self.tokens, self.settings = cases, tokens, settings

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, i: int) -> dict[str, Tensor | int]:
        case, resolution = self.cases[i], self.settings.resolution
        item: dict[str, Tensor | int] = {
            "index": i,
            "angles": torch.tensor(angles_of(case, self.settings.view.mode)),
            "target": mask_to_square(case.mask, resolution),
        }
        if self.tokens is not None:
            item["tokens"] = self.tokens[f"tokens.{i}"].float()
        if self.tokens is None or self.settings.head.detail:
            item["images"] = frame_to_square(case.frame, resolution)
        return item
