"""Kind `vesselness`: a filter that enhances dark tubes, by scikit-image. Nothing is trained.

The frame is inverted by the filter itself (`black_ridges`). Its response has no scale of its own, so it is divided by
the frame's 99th percentile: that, cut at 1, is what thresholds are asked of.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from skimage.filters import frangi, sato
from torch import Tensor

from nightshift.config.kinds import Vesselness
from nightshift.config.params import PlainArmSettings
from nightshift.console.errors import UserError
from nightshift.core.io import read_json, write_json
from nightshift.model.base import ArmModel

NAME = "filter.json"
FILTERS: dict[str, Callable[..., np.ndarray]] = {"sato": sato, "frangi": frangi}
TOP = 99.0  # percentile of the response that is 1: vessels cover about one pixel in twenty


class FilterModel(ArmModel):
    """The filter at `scales`, standard deviations in pixels of the square that it sees."""

    def __init__(self, settings: PlainArmSettings) -> None:
        super().__init__(settings)
        assert isinstance(settings.arm, Vesselness)
        self.arm, self.scales = settings.arm, settings.arm.scales[0]

    def candidates(self) -> Sequence[list[float]]:
        return self.arm.scales

    def use(self, candidate: list[float]) -> None:
        self.scales = candidate

    def forward(
        self, tokens: Tensor | None, angles: Tensor | None, images: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        assert images is not None
        responses = [self._response(image) for image in images[:, 0].cpu().numpy()]
        return torch.logit(torch.from_numpy(np.stack(responses)), eps=1e-6)[:, None].to(images.device)

    def _response(self, image: np.ndarray) -> np.ndarray:
        """(R, R) -> the same from 0 to 1, float32."""
        response = FILTERS[self.arm.filter](image, sigmas=self.scales, black_ridges=True)
        top = np.percentile(response, TOP)
        scaled: np.ndarray = np.clip(response / top if top else response, 0, 1).astype(np.float32)
        return scaled


def build(settings: PlainArmSettings, device: str = "cpu") -> FilterModel:
    """The filter at the first of the scales."""
    return FilterModel(settings)


def save(model: ArmModel, folder: Path) -> None:
    """Write filter.json, the scales that validation chose."""
    assert isinstance(model, FilterModel)
    write_json(folder / NAME, {"scales": model.scales})


def open_model(folder: Path, settings: PlainArmSettings) -> FilterModel:
    """The filter at the chosen scales. Raises UserError for a file that is missing or has others than the settings."""
    model = build(settings)
    scales = read_json(folder / NAME).get("scales")
    if scales not in model.candidates():
        raise UserError(f"{folder / NAME}: not the scales of this arm")
    model.use(scales)
    return model
