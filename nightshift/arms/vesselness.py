"""Kind `vesselness`: a filter that enhances dark tubes, by scikit-image. Nothing is trained.

A response has no unit, so what counts is its rank in the frame: p = 0.05 / (0.05 + share), where `share` is that of the
frame's pixels which respond at least as much. A threshold of 0.5 keeps the strongest twentieth of each frame, 0.1 the
stronger half, 0.9 one pixel in 180. These are no probabilities of a vessel: calibration is not to be asked of them.
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
from nightshift.core.records import Record
from nightshift.model.base import ArmModel

NAME = "filter.json"
FILTERS: dict[str, Callable[..., np.ndarray]] = {"sato": sato, "frangi": frangi}
SHARE = 0.05  # of a frame's pixels at p = 0.5: vessels cover about one pixel in twenty


class Filter(Record):
    """filter.json: the scales that validation chose."""

    scales: list[float]


class FilterModel(ArmModel):
    """The filter at `scales`, in percent of the square's side."""

    def __init__(self, settings: PlainArmSettings) -> None:
        super().__init__(settings)
        assert isinstance(settings.arm, Vesselness)
        self.filter, self.all_scales = FILTERS[settings.arm.filter], settings.arm.scales
        self.scales = self.all_scales[0]

    def candidates(self) -> Sequence[list[float]]:
        return self.all_scales

    def use(self, candidate: list[float]) -> None:
        self.scales = candidate

    def forward(
        self, tokens: Tensor | None, angles: Tensor | None, images: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        assert images is not None
        maps = np.stack([self._probability(image) for image in images[:, 0].cpu().numpy()])
        return torch.from_numpy(maps).logit()[:, None].to(images.device)

    def _probability(self, image: np.ndarray) -> np.ndarray:
        """(R, R) -> the same, float32. Padding, which is exactly 0, is not filtered: its edge would be a ridge."""
        rows, columns = (int(np.flatnonzero(image.any(axis)).max(initial=0)) + 1 for axis in (1, 0))
        sigmas = [scale * self.resolution / 100 for scale in self.scales]
        response = self.filter(image[:rows, :columns], sigmas=sigmas, black_ridges=True)
        share = 1 - np.searchsorted(np.sort(response, axis=None), response) / response.size
        probability = np.full(image.shape, SHARE / (SHARE + 1), np.float32)  # as where nothing responds
        probability[:rows, :columns] = SHARE / (SHARE + share)
        return probability


def build(settings: PlainArmSettings, device: str = "cpu") -> FilterModel:
    """The filter at the first of the scales."""
    return FilterModel(settings)


def save(model: ArmModel, folder: Path) -> None:
    """Write filter.json."""
    assert isinstance(model, FilterModel)
    Filter(scales=model.scales).write(folder / NAME)


def open_model(folder: Path, settings: PlainArmSettings) -> FilterModel:
    """The filter at the chosen scales. Raises UserError for a file that is missing, damaged or of other settings."""
    model, file = build(settings), folder / NAME
    scales = Filter.read(file).scales
    if scales not in model.all_scales:
        raise UserError(f"{file}: scales {scales} are none of this arm's: {model.all_scales}")
    model.use(scales)
    return model.eval()
