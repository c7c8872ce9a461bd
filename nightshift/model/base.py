"""What training, evaluation and `predict` ask of the model of an arm, whatever its kind."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from nightshift.config.params import ArmSettings


class ArmModel(nn.Module):
    """A model that turns a frame, resized to a square of `resolution` pixels, into logits of a vessel map.

    `precision`: of matrix products, as encoder.precision; `channels`: of the images, as encoder.channels.
    `activation_checkpointing`: parts of it keep only their input and are run again in the backward pass.
    """

    def __init__(self, settings: ArmSettings, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.resolution, self.precision, self.channels = settings.resolution, settings.precision, settings.channels
        self.activation_checkpointing = activation_checkpointing

    def forward(
        self, tokens: Tensor | None, angles: Tensor | None, images: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        """Logits (B, 1, R, R), float32.

        Args:
            tokens: (B, g, g, D), kept of the frozen prefix of an encoder; None without one.
            angles: (B, 2) in degrees, primary and secondary.
            images: (B, 3, R, R) from -1 to 1; None where `tokens` or `levels` are enough.
            levels: of the neck, kept.
        """
        raise NotImplementedError

    def compile_parts(self) -> None:
        """Have torch compile what pays, where it first runs; nothing by default."""

    def learning_rate_factor(self, name: str) -> float:
        """By which train.learning_rate is multiplied for the parameter `name`."""
        return 1.0

    def initialise(self, cases: Iterable[dict[str, Tensor]]) -> None:
        """Set parameters by training cases before the first step; of a model that looks at none, nothing changes.

        Args:
            cases: as `TrainingCases` has them, in batches of one, in an order that follows from the seed.
        """

    def candidates(self) -> Sequence[Any]:
        """For a model that nothing is trained of: what validation chooses from. Empty for one that is trained."""
        return ()

    def use(self, candidate: Any) -> None:
        """Take one of `candidates` for what follows."""
        raise NotImplementedError

    def prepare(self, images: Tensor) -> Any:
        """What is computed once per frame, whatever view is asked about."""
        return images

    def decode(self, prepared: Any, angles: Tensor) -> Tensor:
        """Logits (B, 1, R, R) of a prepared frame for a view."""
        logits: Tensor = self(None, angles, prepared)
        return logits

    def averaged(self, prepared: Any) -> Any:
        """The prepared frame without what the encoder says of where things are; None for a model without encoder."""
        return None
