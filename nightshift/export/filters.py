"""The channels of `encoder.channels: vesselness` in torch operations, for a graph: as nightshift/data/channels.py."""

import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from nightshift.data.channels import BRIGHTEST, NOISE, SCALES, TOP_HAT


class Filters(nn.Module):
    """grey (R, R), of which `rows` x `columns` are the frame -> its black top-hat and its Sato map, (R, R), -1 to 1."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side, self.window = side, max(3, round(TOP_HAT * side))
        self.scales = [scale * side for scale in SCALES]
        for i, scale in enumerate(self.scales):
            for order in (0, 1):
                self.register_buffer(f"gauss_{i}_{order}", _gaussian(scale, order), persistent=False)

    def forward(self, grey: Tensor, rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
        inside = (torch.arange(self.side) < rows)[:, None] & (torch.arange(self.side) < columns)[None]
        for values in (self._top_hat(grey, rows, columns), self._sato(grey, rows, columns)):
            white = self._quantile(torch.where(inside, values, -1), rows * columns).clamp(min=NOISE)
            yield torch.where(inside, (values / white).clamp(0, 1) * 2 - 1, 0)

    def _quantile(self, values: Tensor, count: Tensor) -> Tensor:
        """BRIGHTEST of the `count` largest values, interpolated as numpy does."""
        most = math.ceil((1 - BRIGHTEST) * self.side**2) + 2
        largest = values.flatten().topk(most).values
        from_top = (1 - BRIGHTEST) * (count.double() - 1)
        before = from_top.floor().long()
        share = (from_top - before).float()
        return torch.lerp(largest.index_select(0, before[None]), largest.index_select(0, before[None] + 1), share)

    def _top_hat(self, grey: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Closing by a square of `window` pixels, less the image. scipy's windows of even size lie to either side."""
        before, after = (self.window - 1) // 2, self.window // 2
        dilated = _max_pool(_padded(grey, rows, columns, before, after), self.window)
        eroded = -_max_pool(-_padded(dilated, rows, columns, after, before), self.window)
        return eroded - grey

    def _sato(self, grey: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Largest of sigma^2 times the larger eigenvalue of the Hessian, where that is above 0, as scikit-image's."""
        best = torch.zeros_like(grey)
        for i, sigma in enumerate(self.scales):
            smooth, slope = getattr(self, f"gauss_{i}_0"), getattr(self, f"gauss_{i}_1")

            def along(x: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
                down = _correlate(_reflected(x, rows, len(by_row) // 2, len(by_row) // 2), by_row)
                right = _reflected(down.T, columns, len(by_column) // 2, len(by_column) // 2)
                return _correlate(right, by_column).T

            of_row, of_column = along(grey, slope, smooth), along(grey, smooth, slope)
            first, mixed = along(of_row, slope, smooth), along(of_row, smooth, slope)
            last = along(of_column, smooth, slope)
            larger = (first + last) / 2 + (mixed**2 + ((first - last) / 2) ** 2).sqrt()
            best = torch.maximum(best, sigma**2 * larger)
        return best


def _gaussian(sigma: float, order: int) -> Tensor:
    """The kernel of scikit-image's half of a Hessian: sigma / sqrt(2), cut where it has long vanished."""
    radius = int((8 if sigma > 1 else 100) * sigma / math.sqrt(2) + 0.5)
    impulse = np.zeros(2 * radius + 1)
    impulse[radius] = 1
    kernel = gaussian_filter1d(impulse, sigma / math.sqrt(2), order=order, mode="constant", radius=radius)
    return torch.from_numpy(kernel[::-1].astype(np.float32))


def _reflected(x: Tensor, count: Tensor, before: int, after: int) -> Tensor:
    """x (n, m) -> (before + n + after, m): its first `count` rows, mirrored at their ends as often as it takes."""
    at = torch.arange(-before, x.shape[0] + after).remainder(2 * count)
    return x[torch.minimum(at, 2 * count - 1 - at)]


def _padded(x: Tensor, rows: Tensor, columns: Tensor, before: int, after: int) -> Tensor:
    return _reflected(_reflected(x, rows, before, after).T, columns, before, after).T


def _max_pool(x: Tensor, window: int) -> Tensor:
    return F.max_pool2d(x[None, None], window, stride=1)[0, 0]


def _correlate(x: Tensor, kernel: Tensor) -> Tensor:
    """x (n + k - 1, m) -> (n, m), along the first axis."""
    return F.conv1d(x.T[:, None], kernel[None, None])[:, 0].T
