"""Kind `lora`: adapters in the trunk's blocks, by `peft`, and the head are trained.

With method `lora`, W x becomes W x + (alpha / rank) B A x, with A (rank, in) and B (out, rank), which is zero at first
(Hu et al., 2021). Of every method offered: adapters open with peft alone, merge into the trunk's weights, and leave
those as they are in training.
"""

import re
import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from peft import IA3Config, LNTuningConfig, LoraConfig, MissConfig, PeftConfig, PeftModel, VeraConfig, get_peft_model
from peft.tuners.lora import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.incremental_pca import IncrementalPCA
from safetensors import SafetensorError
from torch import Tensor, nn

from nightshift.backbone import encoder
from nightshift.backbone.encoder import ViT
from nightshift.config.kinds import Lora
from nightshift.config.params import EncoderArmSettings
from nightshift.console.errors import UserError
from nightshift.core.records import Prefix
from nightshift.engine import distributed
from nightshift.model.base import ArmModel
from nightshift.model.head_file import load_head, save_head
from nightshift.model.segmentation import SegmentationModel

warnings.filterwarnings("ignore", "Unsupported layer type", module="peft")  # peft asks LayerNorm for its in_features
_ONEDNN = torch.backends.mkldnn.is_available()  # PyTorch's name for oneDNN
EVA_CASES = 64  # training cases that `init: eva` looks at, at most


class OneStepLinear(Linear):
    """peft's layer, W x + s B A x, as one autograd function, where W is frozen and nothing is dropped.

    peft's own forward makes three more tensors of the output's size, and its backward two; allocating them takes more
    time than the products with A and B. Used in training alone: what it saves opens with peft's own layer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in) -> (..., out)."""
        name, *more = self.active_adapters
        plain = isinstance(self.lora_dropout[name], nn.Identity) and not self.base_layer.weight.requires_grad
        if self.disable_adapters or self.merged or more or not plain:
            result: Tensor = super().forward(x)
            return result
        device, kind = x.device.type, x.dtype
        if device != "meta" and torch.is_autocast_enabled(device):
            kind = torch.get_autocast_dtype(device)
        tensors = x.flatten(0, -2), self.base_layer.weight, self.lora_A[name].weight, self.lora_B[name].weight
        bias = self.base_layer.bias if self.base_layer.bias is None else self.base_layer.bias.to(kind)
        y: Tensor = _Update.apply(*(tensor.to(kind) for tensor in tensors), bias, self.scaling[name])
        return y.unflatten(0, x.shape[:-1])


class _Update(torch.autograd.Function):
    """rows (N, in), frozen weight (out, in), a (rank, in), b (out, rank), frozen bias (out,) or None -> (N, out)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, s: float) -> Tensor:
        y, inner = _linear(rows, weight, bias), _linear(rows, a)
        ctx.save_for_backward(rows, weight, a, b, inner)
        ctx.s = s
        return y.addmm_(inner, b.mT, alpha=s)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (rows, weight, a, b, inner) = gradients, ctx.saved_tensors
        of_inner, of_rows = _linear(gradient, b.mT) * ctx.s, None
        if ctx.needs_input_grad[0]:
            of_rows = _linear(gradient, weight.mT).addmm_(of_inner, a)
        of_a, of_b = _linear(of_inner.mT, rows.mT), torch.empty_like(b)
        torch.mul(_linear(inner.mT, gradient.mT).mT, ctx.s, out=of_b)  # laid out as b, or autograd would copy it
        return of_rows, None, of_a, of_b, None, None


def _linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`; on the CPU by oneDNN, as PyTorch's convolutions are, where `F.linear` asks MKL.

    On an AMD EPYC 9004 MKL took a tenth longer for a layer, and up to ten times as long for a product of rank 8.
    """
    assert rows.shape[-1] == weight.shape[-1]  # oneDNN's operator does not look
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and _ONEDNN and not torch.compiler.is_compiling():
        y: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return y
    return F.linear(rows, weight, bias)


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
    """A model with new adapters in its trunk. `adapters` is peft's wrapper of that trunk, which saves them.

    Raises UserError for a rank that `init: eva` cannot fill.
    """

    def __init__(self, neck: encoder.Sam3DualViTDetNeck, start: int, settings: EncoderArmSettings) -> None:
        arm = _lora(settings)
        most = min(settings.preset.embed_dim, settings.grid**2) // 2  # of what peft's PCA finds in the tokens of a case
        if arm.init == "eva" and arm.rank > most:
            place = f"arms.{settings.name}.rank {arm.rank}"
            raise UserError(f"{place}: init eva takes at most {most} at {settings.resolution} px")
        super().__init__(neck, start, settings, arm.activation_checkpointing)
        self.arm = arm
        self._adapters = (add_adapters(neck.trunk, self.arm),)  # in a tuple: its parameters are the trunk's already

    @property
    def adapters(self) -> PeftModel:
        return self._adapters[0]

    def train(self, mode: bool = True) -> Self:
        """Beside the head, peft's layers follow `mode` (dropout); what they wrap stays in eval mode."""
        super().train(mode)
        for layer in self.neck.trunk.modules():
            if isinstance(layer, BaseTunerLayer):
                layer.train(mode)  # type: ignore[attr-defined]  # it is a Module, too
                layer.get_base_layer().eval()
        return self

    def learning_rate_factor(self, name: str) -> float:
        """As peft's `create_loraplus_optimizer`: b_ratio for B, and for the magnitudes of DoRA."""
        return self.arm.b_ratio if "lora_B" in name or "lora_magnitude" in name else 1.0

    @torch.no_grad()
    def initialise(self, cases: Iterable[dict[str, Tensor]]) -> None:
        """With `init: eva`, A becomes the first principal components of what its layer sees (Paischer et al., 2024).

        By peft's incremental PCA in one pass over EVA_CASES cases. peft's `initialize_lora_eva_weights` goes round all
        cases until no component moves any more, which has no bound.
        """
        if self.arm.init != "eva":
            return
        layers = [layer for layer in self.neck.trunk.modules() if isinstance(layer, Linear)]
        pca = {layer: IncrementalPCA(self.arm.rank, lowrank=True, lowrank_seed=0) for layer in layers}

        def add(layer: Linear, inputs: tuple[Tensor]) -> None:
            with torch.autocast(inputs[0].device.type, enabled=False):
                pca[layer].partial_fit(inputs[0].flatten(0, -2).float())

        hooks = [layer.register_forward_pre_hook(add) for layer in layers]
        device = next(self.head.parameters()).device
        for case in islice(cases, EVA_CASES):
            tokens, images = (case[key].to(device).float() if key in case else None for key in ("tokens", "images"))
            self.eval().features(tokens, images)
        for hook in hooks:
            hook.remove()
        components = distributed.of_first([pca[layer].components_.cpu() for layer in layers])
        for layer, a in zip(layers, components, strict=True):
            layer.lora_A["default"].get_parameter("weight").copy_(a)


def _lora(settings: EncoderArmSettings) -> Lora:
    assert isinstance(settings.arm, Lora)
    return settings.arm


def add_adapters(trunk: ViT, lora: Lora) -> PeftModel:
    """Put new adapters into `trunk`, in place; only they require gradients. The PeftModel saves and loads them."""
    return get_peft_model(trunk, _config(lora))


def _config(lora: Lora) -> PeftConfig:
    """peft's configuration of the arm's method."""
    targets = _modules(lora, lora.targets)
    match lora.method:
        case "lora" | "dora":
            init = lora.init if lora.init == "gaussian" or lora.init == "orthogonal" else True
            config = LoraConfig(
                r=lora.rank,
                lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft takes fractions, too
                lora_dropout=lora.dropout,
                use_dora=lora.method == "dora",
                use_rslora=lora.rslora,
                init_lora_weights=init,
                target_modules=targets,
            )
            if lora.method == "lora":
                config._register_custom_module({nn.Linear: OneStepLinear})
            return config
        case "miss":
            return MissConfig(r=lora.rank, miss_dropout=lora.dropout, target_modules=targets)
        case "vera":
            return VeraConfig(r=lora.rank, vera_dropout=lora.dropout, target_modules=targets)
        case "ia3":
            return IA3Config(target_modules=targets, feedforward_modules=_modules(lora, ["mlp.fc2"]))
        case "ln_tuning":
            return LNTuningConfig(target_modules=_modules(lora, ["norm1", "norm2"]))


def _modules(lora: Lora, names: Sequence[str]) -> str:
    """A pattern for peft: the modules with these names in the adapted blocks. A list it would write in any order."""
    blocks, layers = ("|".join(map(re.escape, group)) for group in (map(str, lora.numbers), names))
    return rf"blocks\.({blocks})\.({layers})"


def save_adapters(adapted: PeftModel, folder: Path) -> None:
    """Write adapter_model.safetensors and adapter_config.json as peft does, without its empty model card."""
    adapted.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)


def merge_adapters(trunk: ViT, folder: Path) -> None:
    """Merge saved adapters into the weights of a fresh trunk, in place.

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
