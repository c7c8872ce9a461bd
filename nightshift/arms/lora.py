"""LoRA on the trunk, by `peft`: W x becomes W x + (alpha / rank) B A x, A (rank, in), B (out, rank), B = 0 at first.

Only the probe and the LoRA stages import this module, so mending it never touches the frozen arm.
"""

from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from safetensors import SafetensorError
from torch import Tensor, nn

from nightshift.backbone.encoder import ViT
from nightshift.console.errors import UserError
from nightshift.core.io import read_json, write_json
from nightshift.config.params import Lora


class InPlaceLinear(Linear):
    """peft's layer, W x + s B A x, with the update added to W x where that lies.

    peft's own forward makes three more tensors of the output's size, and its backward one; on a CPU their memory costs
    more time than the product. Used for training alone: what it saves opens with peft's layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        rows = x.flatten(0, -2)
        y = self.base_layer(rows)
        for name in self.active_adapters:
            inner = self.lora_A[name](self.lora_dropout[name](rows))
            y.addmm_(inner.to(y.dtype), self.lora_B[name].weight.mT.to(y.dtype), alpha=self.scaling[name])
        return y.unflatten(0, x.shape[:-1])


def adapted_blocks(lora: Lora, depth: int) -> list[int]:
    """Indices of the blocks that get an adapter. Raises UserError for a block that the trunk does not have."""
    if lora.blocks == "all":
        return list(range(depth))
    blocks = list(range(depth - lora.blocks["last"], depth)) if isinstance(lora.blocks, dict) else lora.blocks
    if not blocks or min(blocks) < 0 or max(blocks) >= depth:
        raise UserError(f"params.yaml: lora.blocks {lora.blocks}: the encoder has blocks 0..{depth - 1}")
    return sorted(set(blocks))


def prefix_end(lora: Lora, depth: int) -> int:
    """Number of blocks before the first adapted one: what may run once per case and be kept."""
    return adapted_blocks(lora, depth)[0]


def add_adapters(trunk: ViT, lora: Lora) -> PeftModel:
    """Put new adapters into `trunk`, in place; only they require gradients. The PeftModel saves and loads them."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        layers_to_transform=adapted_blocks(lora, len(trunk.blocks)),
        layers_pattern="blocks",  # also keeps `attn.proj`-like names outside the blocks (patch_embed.proj) out
    )
    config._register_custom_module({nn.Linear: InPlaceLinear})
    return get_peft_model(trunk, config)


def save_adapters(adapted: PeftModel, folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json as peft does, without its empty model card.

    peft writes the targets in the order of a set, which is another one in every process: here they are sorted.
    """
    adapted.save_pretrained(folder)
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
