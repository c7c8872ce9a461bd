"""The head: turns the neck's levels into logits of a vessel map, conditioned on the C-arm view.

    levels (B, d_model, 4g, 4g), (.., 2g, 2g), (.., g, g), each normalised
      -> 1x1 convolution -> 4g x 4g by pixel shuffle (a token holds a patch: where in the patch is in its channels, so
         channels become pixels), and with `detail` a stem of the image, at twice that
      -> 3x3 convolution -> FiLM by the view -> 3x3 convolutions, one of them dilated -> pixel shuffle
      -> logits (B, 1, 8g, 8g)

With patches of 14 pixels that is one value per 1.75 pixels, finer than the neck's finest level (3.5 pixels): a
vessel is 2 to 6 pixels wide. All arms on SAM 3's encoder train this head.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nightshift.config.sections import Head, View

FREQUENCIES = (1, 2, 3)  # per turn: whole numbers, so that -180 and 180 degrees are one view


def view_features(angles: Tensor) -> Tensor:
    """Angles (B, 2) in degrees, primary and secondary -> (B, 12): sine and cosine of each at FREQUENCIES."""
    turns = torch.stack([torch.deg2rad(angles) * frequency for frequency in FREQUENCIES], dim=-1)
    return torch.cat([turns.sin(), turns.cos()], dim=-1).flatten(1)


class FiLM(nn.Module):
    """x (B, C, h, w) -> (1 + scale) x + shift, with scale and shift (B, C) an MLP of the view (Perez et al., 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * 2 * len(FREQUENCIES), channels), nn.GELU(), nn.Linear(channels, 2 * channels)
        )

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        scale, shift = self.mlp(view_features(angles))[:, :, None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift


class SegmentationHead(nn.Module):
    """Levels of the neck -> logits of the vessel map (B, 1, 8g, 8g).

    `angles` (B, 2) in degrees are used unless view.mode is none, `images` (B, 3, R, R) only if head.detail.
    """

    def __init__(self, d_model: int, head: Head, view: View) -> None:
        super().__init__()
        width = head.width
        shares = (width, width // 2, width // 2)  # channels at 4g x 4g from the levels 4, 2, 1
        self.norms = nn.ModuleList(nn.GroupNorm(1, d_model) for _ in shares)
        self.folds = nn.ModuleList(
            nn.Conv2d(d_model, share * factor**2, 1) for share, factor in zip(shares, (1, 2, 4), strict=True)
        )
        stem = width // 4 if head.detail else 0
        self.stem = nn.Conv2d(3, stem, 3, stride=2, padding=1) if stem else None
        self.fuse = _convolution(sum(shares) + stem, width)
        self.film = FiLM(width) if view.mode == "film" else None
        self.body = nn.Sequential(_convolution(width, width), _convolution(width, width, dilation=4))
        self.out = nn.Conv2d(width, 4, 3, padding=1)
        assert self.out.bias is not None
        nn.init.constant_(self.out.bias, math.log(0.05 / 0.95))  # vessels cover about one pixel in twenty

    def forward(self, levels: list[Tensor], angles: Tensor | None, images: Tensor | None) -> Tensor:
        levels = [norm(level) for norm, level in zip(self.norms, levels, strict=False)]
        parts = [
            F.pixel_shuffle(fold(x), factor) for fold, x, factor in zip(self.folds, levels, (1, 2, 4), strict=True)
        ]
        if self.stem is not None:
            assert images is not None
            rows, columns = parts[0].shape[-2:]  # resized first: backwards through that a GPU is not deterministic
            small = F.interpolate(images, (2 * rows, 2 * columns), mode="bilinear", antialias=True)
            parts.append(F.gelu(self.stem(small)))
        x = self.fuse(torch.cat(parts, dim=1))
        if self.film is not None:
            x = self.film(x, angles)
        return F.pixel_shuffle(self.out(x + self.body(x)), 2)


def _convolution(inside: int, outside: int, dilation: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=dilation, dilation=dilation), nn.GroupNorm(8, outside), nn.GELU()
    )
