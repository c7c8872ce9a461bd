"""What a kind of arm must have, and where it is found: nightshift/arms/KIND.py, by the `kind` of an arm's section."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from nightshift.config.params import ArmSettings, EncoderArmSettings
from nightshift.core.records import Prefix
from nightshift.model.base import ArmModel


class Kind(Protocol):
    """The functions of a module nightshift/arms/KIND.py."""

    def prefix(self, settings: ArmSettings) -> Prefix:
        """The frozen part of the encoder whose output is kept once per case; not of kinds without an encoder."""

    def build(self, settings: ArmSettings, device: str = "cpu") -> ArmModel:
        """The model before training; what is trained requires gradients. On `meta` it has shapes and no weights."""

    def save(self, model: ArmModel, folder: Path) -> None:
        """Write what was trained into `folder`, as safetensors."""

    def open_model(self, folder: Path, settings: ArmSettings) -> ArmModel:
        """The trained model that `save` wrote, on the CPU, in eval mode. Raises UserError for other files."""


def kind_of(settings: ArmSettings) -> Kind:
    """The module of the arm's kind."""
    return cast(Kind, import_module(f"nightshift.arms.{settings.arm.kind}"))


def prefix_of(settings: ArmSettings) -> Prefix | None:
    """The frozen part of the arm's encoder whose output is kept; None for an arm without an encoder."""
    return kind_of(settings).prefix(settings) if isinstance(settings, EncoderArmSettings) else None
