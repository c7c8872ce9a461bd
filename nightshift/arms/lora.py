"""Kind `lora`: low-rank adapters in the trunk's blocks, by `peft`, and the head are trained.

W x becomes W x + (alpha / rank) B A x, with A (rank, in) and B (out, rank), which is zero at first (Hu et al., 2021).
"""

from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from safetensors import SafetensorError
from torch import Tensor, nn

from nightshift.backbone import encoder
from nightshift.backbone.encoder import ViT
from nightshift.config.kinds import Lora
from nightshift.config.params import EncoderArmSettings
from nightshift.console.errors import UserError
from nightshift.core.io import read_json, write_json
from nightshift.core.records import Prefix
from nightshift.model.base import ArmModel
from nightshift.model.head_file import load_head, save_head
from nightshift.model.segmentation import SegmentationModel


class InPlaceLinear(Linear):
    """peft's layer, W x + s B A x, with the update added in place to W x.

    peft's own forward makes three more tensors of the output's size, and its backward one; on a CPU allocating them
    takes more time than the product. Used in training alone: what it saves opens with peft's own layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        rows = x.flatten(0, -2)
        y = self.base_layer(rows)
        for name in self.active_adapters:
            inner = self.lora_A[name](self.lora_dropout[name](rows))
            y.addmm_(inner.to(y.dtype), self.lora_B[name].weight.mT.to(y.dtype), alpha=self.scaling[name])
        return y.unflatten(0, x.shape[:-1])


def prefix(settings: EncoderArmSettings) -> Prefix:
    """The blocks before the first adapted one."""
    return Prefix(blocks=_lora(settings).numbers[0])


def build(settings: EncoderArmSettings, device: str = "cpu") -> SegmentationModel:
    """The encoder with new adapters and a new head; only these require gradients."""
    return AdaptedModel(encoder.configured(settings, device), prefix(settings).blocks, settings)


def save(model: ArmModel, folder: Path) -> None:
    """Write head.safetensors, adapter_model.safetensors and adapter_config.json."""
    assert isinstance(model, AdaptedModel)
    save_head(model, folder)
    save_adapters(model.adapters, folder)


def open_model(folder: Path, settings: EncoderArmSettings) -> SegmentationModel:
    """The encoder with the trained adapters merged into its weights, and the trained head, in eval mode.

    Raises UserError as `load_head`, `merge_adapters` and `encoder.configured` do.
    """
    neck = encoder.configured(settings, change=lambda neck: merge_adapters(neck.trunk, folder))
    model = SegmentationModel(neck, settings.preset.depth, settings)
    load_head(model, folder)
    return model.eval()


class AdaptedModel(SegmentationModel):
    """A model with new adapters in its trunk. `adapters` is peft's wrapper of that trunk, which saves them."""

    def __init__(self, neck: encoder.Sam3DualViTDetNeck, start: int, settings: EncoderArmSettings) -> None:
        arm = _lora(settings)
        super().__init__(neck, start, settings, arm.activation_checkpointing)
        self._adapters = (add_adapters(neck.trunk, arm),)  # in a tuple: its parameters are registered as the trunk's

    @property
    def adapters(self) -> PeftModel:
        return self._adapters[0]


def _lora(settings: EncoderArmSettings) -> Lora:
    assert isinstance(settings.arm, Lora)
    return settings.arm


def add_adapters(trunk: ViT, lora: Lora) -> PeftModel:
    """Put new adapters into `trunk`, in place; only they require gradients. The PeftModel saves and loads them."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft takes fractions, too
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        layers_to_transform=lora.numbers,
        layers_pattern="blocks",  # also keeps `attn.proj`-like names outside the blocks (patch_embed.proj) out
    )
    config._register_custom_module({nn.Linear: InPlaceLinear})
    return get_peft_model(trunk, config)


def save_adapters(adapted: PeftModel, folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json as peft does, without its empty model card.

    peft writes the targets in the order of a set, which is another one in every process: here they are sorted.
    """
    adapted.save_pretrained(str(folder))
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", config | {"target_modules": sorted(config["target_modules"])})
    (folder / "README.md").unlink(missing_ok=True)


def merge_adapters(trunk: ViT, folder: Path) -> None:
    """Add saved adapters to the weights of a fresh trunk, in place: W becomes W + (alpha / rank) B A.

    Raises UserError for adapters that are missing, damaged or of another encoder.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} in it; `dvc repro` makes it")  # peft would look on the hub
    try:
        # safe: into a copy, as the weights may still be pages of their file
        PeftModel.from_pretrained(trunk, folder).merge_and_unload(safe_merge=True)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: not the adapters of this encoder: {str(error).splitlines()[0]}") from None
