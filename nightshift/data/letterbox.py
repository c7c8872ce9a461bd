"""Letterbox resize: a frame of any size to the encoder's R x R square and back.

The longest side becomes R, the aspect is kept, the right and the lower rest is padded. The two directions are inverse
in geometry: pixel (y, x) of an H x W frame lies at (y, x) * R / max(H, W) of the square in both, so a mask that goes
there and back differs only by interpolation.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Pixels = np.ndarray[tuple[int, ...], np.dtype[Any]]


def inner_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Rows and columns of the square that the frame fills; the rest is padding."""
    scale = resolution / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def frame_to_square(frame: Pixels, resolution: int) -> Tensor:
    """uint8 (H, W) -> float32 (3, R, R), normalised as SAM 3 wants it, (x - 0.5) / 0.5; padding is 0, mid grey."""
    image = torch.from_numpy(frame).float().div(255).sub(0.5).div(0.5)
    return _to_square(image, resolution).expand(3, -1, -1).contiguous()


def mask_to_square(mask: Pixels, resolution: int) -> Tensor:
    """0/1 (H, W) -> float32 (1, R, R), the fraction of each pixel that the mask covers."""
    return _to_square(torch.from_numpy(mask).float(), resolution)


def _to_square(image: Tensor, resolution: int) -> Tensor:
    rows, columns = inner_size(image.shape[0], image.shape[1], resolution)
    image = F.interpolate(image[None, None], (rows, columns), mode="bilinear", antialias=True, align_corners=False)[0]
    return F.pad(image, (0, resolution - columns, 0, resolution - rows))


def square_to_frame(square: Tensor, height: int, width: int) -> Tensor:
    """(R, R) -> (H, W): crop the padding, then resize bilinearly to the size of the frame."""
    rows, columns = inner_size(height, width, square.shape[-1])
    inner = square[None, None, :rows, :columns]
    return F.interpolate(inner, (height, width), mode="bilinear", antialias=True, align_corners=False)[0, 0]
