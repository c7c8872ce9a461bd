"""A trained model with all that comes before and after it, as one module: a frame of any size -> its probability map.

    frame (H, W) uint8 --resize, pad, normalise, filters--> (1, 3, R, R) --the model--> logits (1, 1, R, R)
      --sigmoid, crop, resize--> probability (H, W) float32

What nightshift/data/{letterbox,channels}.py do, written such that torch.export leaves H and W open: a resize is two
products with matrices that are made of H and W.
"""

import torch
from torch import Tensor, nn

from nightshift.backbone import encoder
from nightshift.config.params import ArmSettings, EncoderArmSettings
from nightshift.export.filters import Filters
from nightshift.model.base import ArmModel
from nightshift.model.segmentation import SegmentationModel


class FrameModel(nn.Module):
    """`model` asked by a frame (H, W) uint8 and its angles (2,) float32 in degrees -> probability (H, W) float32.

    Args:
        model: in eval mode, on the CPU.
        mirror: the mean of what the frame and its mirror image give.
    """

    def __init__(self, model: ArmModel, mirror: bool = False) -> None:
        super().__init__()
        self.model, self.mirror = model.requires_grad_(False), mirror
        self.filters = Filters(model.resolution) if model.channels == "vesselness" else None

    def forward(self, frame: Tensor, angles: Tensor) -> Tensor:
        probability = self._probability(frame, angles)
        if self.mirror:
            other = self._probability(frame.flip(1), angles * torch.tensor([-1.0, 1.0]))
            probability = (probability + other.flip(1)) / 2
        return probability

    def _probability(self, frame: Tensor, angles: Tensor) -> Tensor:
        side, (height, width) = self.model.resolution, (torch.scalar_tensor(n, dtype=torch.int64) for n in frame.shape)
        rows, columns = inner_sizes(height, width, side)
        grey = frame.float().div(255).sub(0.5).div(0.5)
        down, right = resizing(height, rows, side, frame.shape[0]), resizing(width, columns, side, frame.shape[1])
        grey = down @ grey @ right.T
        channels = [grey] * 3 if self.filters is None else [grey, *self.filters(grey, rows, columns)]
        square = self.model(None, angles[None], torch.stack(channels)[None]).sigmoid()[0, 0]
        up, left = resizing(rows, height, frame.shape[0], side), resizing(columns, width, frame.shape[1], side)
        return up @ square @ left.T


def inner_sizes(height: Tensor, width: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of the square that a frame fills, as `inner_size` finds them, half pixels too.

    In float64, divided as numbers are: `side / tensor` would multiply by the reciprocal, which is rounded itself.
    """
    scale = torch.scalar_tensor(side, dtype=torch.float64) / torch.maximum(height, width).double()
    rows, columns = ((n * scale).round().clamp(min=1).long() for n in (height, width))
    return rows, columns


def resizing(old: Tensor, new: Tensor, rows: int, columns: int) -> Tensor:
    """The matrix (rows, columns), float32, that resizes `old` values to `new` ones; 0 where there are more of either.

    That of torch's antialiased bilinear interpolation: a triangle as wide as the coarser of both spacings.
    """
    scale = old.float() / new
    source, target = torch.arange(columns), torch.arange(rows)
    distance = (source[None] - (target[:, None] + 0.5) * scale + 0.5).abs()
    weights = (1 - distance / scale.clamp(min=1)).clamp(min=0)
    weights = weights * ((source < old)[None] & (target < new)[:, None])
    return weights / weights.sum(1, keepdim=True).clamp(min=1e-9)


def in_float32(settings: ArmSettings) -> ArmSettings:
    """The settings of the same model without autocast, and with all weights as they are in their files."""
    if isinstance(settings, EncoderArmSettings):
        return settings.model_copy(update={"encoder": settings.encoder.model_copy(update={"precision": "fp32"})})
    return settings.model_copy(update={"precision": "fp32"})


def halve(model: ArmModel) -> None:
    """Have matrix products and convolutions computed in float16, with their weights in it; in place.

    Of a model with SAM 3's encoder those of the trunk's blocks, nearly all that there is: half precision in the neck
    and the head would double what it costs in accuracy.
    """
    if isinstance(model, SegmentationModel):
        blocks = model.neck.trunk.blocks
        for i, block in enumerate(blocks):
            blocks[i] = _HalfBlock(block)
    else:
        encoder.halve(model, torch.float16)
        model.precision = "fp16"


class _HalfBlock(nn.Module):
    """A block under autocast: what it adds to the tokens is of half precision, the tokens are not."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        encoder.halve(block, torch.float16)
        self.block = block

    def forward(self, tokens: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            found: Tensor = self.block(tokens)
        return found
