"""Kind `unet`: MONAI's DynUNet, the U-Net of nnU-Net (Isensee et al., 2021), trained from scratch on the frames alone.

image (B, 1 or 3, R, R) -> per level two 3x3 convolutions, the first of stride 2 but at the finest
  -> the coarsest level (B, C, R / s, R / s), FiLM by the view
  -> per level a transposed convolution, the skip connection, two 3x3 convolutions -> logits (B, 1, R, R)
"""

import math
from pathlib import Path

import torch
from monai.networks.nets import DynUNet
from torch import Tensor, nn

from nightshift.config.kinds import UNet
from nightshift.config.params import PlainArmSettings
from nightshift.engine.device import autocast
from nightshift.model.base import ArmModel
from nightshift.model.head import FiLM
from nightshift.model.weights_file import read_weights, save_weights

NAME = "unet.safetensors"


class UNetModel(ArmModel):
    """The U-Net, with FiLM at its coarsest level unless view.mode is none."""

    def __init__(self, settings: PlainArmSettings) -> None:
        super().__init__(settings)
        assert isinstance(settings.arm, UNet)
        channels = settings.arm.channels
        kernels, halvings = [3] * len(channels), [2] * (len(channels) - 1)
        self.seen = 1 if self.channels == "grey" else 3  # grey: three equal ones
        self.net = DynUNet(2, self.seen, 1, kernels, [1, *halvings], halvings, filters=channels)
        del self.net.skip_layers  # the same modules under second names
        self.film = FiLM(channels[-1]) if settings.view.mode == "film" else None
        bias = self.net.output_block.conv.conv.bias
        nn.init.constant_(bias, math.log(0.05 / 0.95))  # vessels cover about one pixel in twenty

    def forward(
        self, tokens: Tensor | None, angles: Tensor | None, images: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        assert images is not None
        with autocast(images.device, self.precision):
            x, skips = images[:, : self.seen], []
            for down in (self.net.input_block, *self.net.downsamples):
                x = down(x)
                skips.append(x)
            x = self.net.bottleneck(x)
            if self.film is not None:
                x = self.film(x, angles)
            for up, skip in zip(self.net.upsamples, reversed(skips), strict=True):
                x = up(x, skip)
            logits: Tensor = self.net.output_block(x)
        return logits.float()


def build(settings: PlainArmSettings, device: str = "cpu") -> UNetModel:
    """The U-Net with new weights."""
    with torch.device(device):
        return UNetModel(settings)


def save(model: ArmModel, folder: Path) -> None:
    """Write unet.safetensors."""
    save_weights(model.state_dict(), folder / NAME)


def open_model(folder: Path, settings: PlainArmSettings) -> UNetModel:
    """The trained U-Net, in eval mode. Raises UserError as `read_weights` does."""
    model = build(settings)
    model.load_state_dict(read_weights(folder / NAME, model.state_dict()))
    return model.eval()
