"""Kind `full`: weights of the trunk's blocks, of the neck where `neck` is true, and the head are trained.

With all blocks the patch embedding, the positions and ln_pre are trained as well; with fewer they are frozen, whatever
the first block is. The layer-wise decay of the learning rate is BEiT's (Bao et al., 2022).
"""

from pathlib import Path

from torch import nn

from nightshift.backbone import encoder
from nightshift.backbone.encoder import Sam3DualViTDetNeck
from nightshift.config.kinds import Full
from nightshift.config.params import EncoderArmSettings
from nightshift.core.records import LEVELS, Prefix
from nightshift.model.base import ArmModel
from nightshift.model.head_file import load_head, save_head
from nightshift.model.segmentation import SegmentationModel
from nightshift.model.weights_file import read_weights, save_weights

NAME = "encoder.safetensors"


def prefix(settings: EncoderArmSettings) -> Prefix:
    """The blocks before the first trained one."""
    return Prefix(blocks=_full(settings).numbers[0])


def build(settings: EncoderArmSettings, device: str = "cpu") -> SegmentationModel:
    """The encoder with a new head; what is trained of it requires gradients."""
    neck = encoder.configured(settings, device, lambda neck: unfreeze(neck, _full(settings)))
    return FineTunedModel(neck, prefix(settings).blocks, settings)


def save(model: ArmModel, folder: Path) -> None:
    """Write head.safetensors and encoder.safetensors, the trained weights by their names in the encoder."""
    assert isinstance(model, FineTunedModel)
    save_head(model, folder)
    save_weights(trained_weights(model.neck, model.arm), folder / NAME)


def open_model(folder: Path, settings: EncoderArmSettings) -> SegmentationModel:
    """The encoder with the trained weights, and the trained head, in eval mode.

    Raises UserError as `load_head`, `read_weights` and `encoder.configured` do.
    """

    def load(neck: Sam3DualViTDetNeck) -> None:
        weights = read_weights(folder / NAME, trained_weights(neck, _full(settings)))
        neck.load_state_dict(weights, strict=False, assign=True)

    neck = encoder.configured(settings, change=load)
    model = SegmentationModel(neck, settings.preset.depth, settings)
    load_head(model, folder)
    return model.eval()


class FineTunedModel(SegmentationModel):
    """A model with weights of its encoder trained, each at its own learning rate."""

    def __init__(self, neck: Sam3DualViTDetNeck, start: int, settings: EncoderArmSettings) -> None:
        arm = _full(settings)
        super().__init__(neck, start, settings, arm.activation_checkpointing)
        self.arm = arm

    def learning_rate_factor(self, name: str) -> float:
        """Of a block: backbone_learning_rate * layer_decay ** (number of blocks after it).

        The embedding counts as one block more before the first, the neck as the last one.
        """
        if name.startswith("head."):
            return 1.0
        trunk = self.neck.trunk
        after = trunk.get_num_layers() - trunk.get_layer_id(name) if name.startswith("neck.trunk.") else 0
        return float(self.arm.backbone_learning_rate * self.arm.layer_decay**after)


def _full(settings: EncoderArmSettings) -> Full:
    assert isinstance(settings.arm, Full)
    return settings.arm


def trained_weights(neck: Sam3DualViTDetNeck, arm: Full) -> dict[str, nn.Parameter]:
    """What the arm trains of the encoder, by name. Of the neck only the levels that the head reads."""
    whole = len(arm.numbers) == len(neck.trunk.blocks)
    places = ["trunk."] if whole else [f"trunk.blocks.{i}." for i in arm.numbers]
    places += [f"convs.{level}." for level in range(LEVELS) if arm.neck]
    return {name: p for name, p in neck.named_parameters() if name.startswith(tuple(places))}


def unfreeze(neck: Sam3DualViTDetNeck, arm: Full) -> None:
    """Let the arm's weights require gradients. Their file may be mapped, privately: training does not write to it."""
    for p in trained_weights(neck, arm).values():
        p.requires_grad_(True)
