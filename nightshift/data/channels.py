"""What the three channels of an encoder's input are: the frame three times, or the frame and two filters of it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nightshift.config.sections import Channels
from nightshift.data.letterbox import Pixels, frame_to_square, inner_size

TOP_HAT = 0.05  # side of its square, of the side of the input: wider than any vessel
SCALES = (0.005, 0.008, 0.011)  # of the Sato filter, of the side of the input: about half of a vessel's width
BRIGHTEST = 0.995  # the quantile of a response that is white
NOISE = 1e-3  # a response below that is of rounding, not of a tube: grey values are 1 / 128 apart


def input_of(frame: Pixels, resolution: int, channels: Channels) -> Tensor:
    """uint8 (H, W) -> float32 (3, R, R), -1 to 1, padded with 0: what a model sees of a frame.

    `grey`: three times the frame. `vesselness`: the frame, its black top-hat and its Sato map (Sato et al., 1998), both
    of which show dark tubes as bright.
    """
    square = frame_to_square(frame, resolution)
    if channels == "vesselness":
        rows, columns = inner_size(frame.shape[0], frame.shape[1], resolution)
        grey = square[0, :rows, :columns].numpy()
        for channel, response in zip(square[1:], (_top_hat, _sato), strict=True):
            channel[:rows, :columns] = _scaled(response, grey, resolution)
    return square


def _scaled(response: Callable[[Pixels, int], Pixels], grey: Pixels, resolution: int) -> Tensor:
    """A response has no unit: 0 becomes -1 and its BRIGHTEST quantile 1."""
    values = response(grey, resolution)
    white = np.quantile(values, BRIGHTEST)
    return torch.from_numpy((values / max(white, NOISE)).clip(0, 1) * 2 - 1)


def _top_hat(grey: Pixels, resolution: int) -> Pixels:
    from scipy.ndimage import black_tophat  # only for those who ask

    found: Pixels = black_tophat(grey, size=max(3, round(TOP_HAT * resolution)))
    return found


def _sato(grey: Pixels, resolution: int) -> Pixels:
    from skimage.filters import sato

    found: Pixels = sato(grey, sigmas=[scale * resolution for scale in SCALES], black_ridges=True)
    return found
