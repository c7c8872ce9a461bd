"""What a kind of arm must have, and where it is found: nightshift/arms/KIND.py, by the `kind` of an arm's section."""

from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from nightshift.config.params import ArmSettings
from nightshift.core.records import Prefix
from nightshift.model.segmentation import SegmentationModel


class Kind(Protocol):
    """The functions of a module nightshift/arms/KIND.py."""

    def prefix(self, settings: ArmSettings) -> Prefix:
        """The frozen part of the encoder whose output is kept once per case."""

    def build(self, settings: ArmSettings, device: str = "cpu") -> SegmentationModel:
        """The model before training; what is trained requires gradients. On `meta` it has shapes and no weights."""

    def save(self, model: SegmentationModel, folder: Path) -> None:
        """Write what was trained into `folder`, as safetensors."""

    def open_model(self, folder: Path, settings: ArmSettings) -> SegmentationModel:
        """The trained model that `save` wrote, on the CPU, in eval mode. Raises UserError for other files."""


def kind_of(settings: ArmSettings) -> Kind:
    """The module of the arm's kind."""
    return cast(Kind, import_module(f"nightshift.arms.{settings.arm.kind}"))
