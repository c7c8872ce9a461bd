"""An exponential moving average of the trained parameters, which is then what is validated and kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn


class Average:
    """Of `parameters`, with a decay per step; `none` keeps nothing, and the parameters are used as they are.

    torch's AveragedModel would copy the whole model, of which most is frozen.

    Attributes:
        values: the averages by name, on the device of the parameters; empty for `none`.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float | Literal["none"]) -> None:
        self._parameters, self._decay = parameters, decay
        self.values = {} if decay == "none" else {name: p.detach().clone() for name, p in parameters.items()}

    def update(self, step: int) -> None:
        """After step number `step`, from 0: values become decay * values + (1 - decay) * parameters.

        The decay is at most (1 + step) / (10 + step), as TensorFlow has it: what is averaged first is not trained.
        """
        if self._decay != "none":
            decay = min(self._decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(self.values.values()), list(self._parameters.values()), 1 - decay)

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Take these for the averages, of a checkpoint or before the first step."""
        with torch.no_grad():
            for name, value in self.values.items():
                value.copy_(values[name])

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Meanwhile the parameters are the averages."""
        own = {name: p.detach().clone() for name, p in self._parameters.items() if name in self.values}
        self._copy(self.values)
        try:
            yield
        finally:
            self._copy(own)

    def _copy(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self._parameters[name].copy_(value)
