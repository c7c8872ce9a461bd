"""Kind `frozen`: every block of the encoder is frozen prefix; only the head is trained."""

from pathlib import Path

from nightshift.backbone import encoder
from nightshift.config.kinds import Frozen
from nightshift.config.params import EncoderArmSettings
from nightshift.core.records import Prefix
from nightshift.model.base import ArmModel
from nightshift.model.head_file import load_head, save_head
from nightshift.model.segmentation import SegmentationModel


def prefix(settings: EncoderArmSettings) -> Prefix:
    """The whole trunk; kept are its tokens or, with `level: neck`, the neck's levels."""
    arm = settings.arm
    assert isinstance(arm, Frozen)
    return Prefix(blocks=settings.preset.depth, output="levels" if arm.level == "neck" else "tokens")


def build(settings: EncoderArmSettings, device: str = "cpu") -> SegmentationModel:
    """The encoder, frozen, with a new head."""
    return SegmentationModel(encoder.configured(settings, device), settings.preset.depth, settings)


def save(model: ArmModel, folder: Path) -> None:
    """Write head.safetensors."""
    assert isinstance(model, SegmentationModel)
    save_head(model, folder)


def open_model(folder: Path, settings: EncoderArmSettings) -> SegmentationModel:
    """The encoder with the trained head, in eval mode. Raises UserError as `load_head` and `encoder.configured` do."""
    model = build(settings)
    load_head(model, folder)
    return model.eval()
