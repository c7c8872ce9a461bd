"""SAM 3's image encoder, trunk and neck: built from the `sam3` package's own classes, run as a whole or block by block.

Shapes: B cases, an R x R square of pixels, a g x g grid of tokens with g = R // patch_size, D = embed_dim.

    image (B, 3, R, R) --patch_embed, positions, ln_pre, block 0..k-1--> tokens (B, g, g, D)      `run_prefix`
    tokens (B, g, g, D) --block k..depth-1--> features (B, D, g, g)                               `run_suffix`
    features (B, D, g, g) --neck--> levels (B, d_model, s g, s g) for s in scale_factors           `neck_levels`

`run_suffix(run_prefix(x, k), k)` equals `trunk(x)[-1]` bit for bit, for any k: so an arm may keep the tokens of its
frozen blocks and train from there.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from nightshift.backbone.full_size import EncoderSize
from nightshift.backbone.pretrained import place_of
from nightshift.backbone.rope import make_real, make_tables, set_grid  # imports sam3 without its warnings, so first
from nightshift.backbone.state_dict import load
from nightshift.console.progress import say

if TYPE_CHECKING:  # pydantic is not needed for anything here but `configured`
    from nightshift.config.params import EncoderSettings

from sam3.model.necks import Sam3DualViTDetNeck as Sam3DualViTDetNeck  # isort: skip
from sam3.model.position_encoding import PositionEmbeddingSine  # isort: skip
from sam3.model.vitdet import Mlp, ViT as ViT, get_abs_pos  # isort: skip


class _LinspaceOnCpu(TorchFunctionMode):
    """`ViT.__init__` calls `.item()` on a linspace, which the meta device refuses: that one goes to the CPU."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = {**(kwargs or {}), "device": "cpu"} if func is torch.linspace else kwargs or {}
        return func(*args, **kwargs)


class PlainMlp(Mlp):  # type: ignore[misc]
    """SAM 3's MLP by its layers' own forward.

    Clones since SAM 3.1 compute `fc1`, where there is no gradient, from its bare weight in bfloat16: an adapter on it
    is trained and then not used, and `fc2` in float32 refuses the result.
    """

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y


def has_rope_real() -> bool:
    """Whether this sam3 can rotate by real tables, as clones since SAM 3.1 can; the package 0.1.4 cannot."""
    return "use_rope_real" in inspect.signature(ViT).parameters


def build(size: EncoderSize, device: str = "cpu", rope_real: bool = False) -> Sam3DualViTDetNeck:
    """Trunk and neck of that size, with random weights from its seed, frozen, in eval mode.

    On `meta` it has shapes and no weights: the full size takes 0.3 s and no memory. Eval mode matters: a frozen block
    in training mode would drop paths at random (drop_path_rate). `rope_real` asks for sam3's own real tables.
    """
    with torch.random.fork_rng(devices=[]), torch.device(device), _LinspaceOnCpu():
        torch.manual_seed(size.seed)
        trunk = ViT(
            img_size=size.img_size,
            pretrain_img_size=size.pretrain_img_size,
            patch_size=size.patch_size,
            embed_dim=size.embed_dim,
            depth=size.depth,
            num_heads=size.num_heads,
            mlp_ratio=size.mlp_ratio,
            drop_path_rate=size.drop_path_rate,
            window_size=size.window_size,
            global_att_blocks=tuple(size.global_blocks),
            # what follows is the same in every SAM 3
            norm_layer="LayerNorm",
            qkv_bias=True,
            use_abs_pos=True,
            tile_abs_pos=True,
            rel_pos_blocks=(),
            use_rope=True,
            use_interp_rope=True,
            pretrain_use_cls_token=True,
            retain_cls_token=False,
            ln_pre=True,
            ln_post=False,
            return_interm_layers=False,
            bias_patch_embed=False,
            use_act_checkpoint=False,  # an arm that needs it checkpoints its own blocks
            **({"use_rope_real": True} if rope_real else {}),
        )
        for block in trunk.blocks:
            block.mlp.__class__ = PlainMlp
        neck = Sam3DualViTDetNeck(
            trunk=trunk,
            position_encoding=PositionEmbeddingSine(num_pos_feats=size.d_model),
            d_model=size.d_model,
            scale_factors=list(size.scale_factors),
        )
    return neck.eval().requires_grad_(False)


def configured(
    settings: "EncoderSettings", device: str = "cpu", change: Callable[[Sam3DualViTDetNeck], object] = lambda neck: None
) -> Sam3DualViTDetNeck:
    """The encoder that the settings describe: weights, position tables, precision.

    Args:
        settings: the tables are made for its resolution (rope `repaired`), or left as they are (`as_shipped`).
        device: on `meta` there are no weights, whatever the settings say.
        change: of the weights, or of which are trained, before those that are not are rounded to half precision.

    Raises:
        UserError: weights that are missing or do not fit.
    """
    from nightshift.engine.device import HALF  # imports pydantic

    file = None if device == "meta" else place_of(settings.weights)
    neck = build(settings.preset, "meta" if file else device)
    if file:
        say(str(load(neck, file)))
        make_tables(neck.trunk)
    if settings.encoder.rope == "repaired":
        make_real(neck.trunk)
        set_grid(neck.trunk, settings.grid)
    change(neck)
    if settings.encoder.precision in HALF:
        halve(neck, HALF[settings.encoder.precision])
    return neck


def compile_blocks(trunk: ViT, backend: str = "inductor") -> None:
    """Have every block compiled where it first runs, in a few graphs that all blocks share; no other part of the trunk.

    Drop-path goes: it never runs here, and its rate, another one in each block, would be a part of the graphs.
    """
    torch._dynamo.config.recompile_limit = 64  # windowed and global, with gradients and without, batches of two sizes
    for block in trunk.blocks:
        block.drop_path = nn.Identity()
        block.compile(fullgraph=True, backend=backend)


def halve(neck: nn.Module, half: torch.dtype) -> None:
    """Keep what autocast would cast at every use, the weights of linear layers and convolutions, in half precision.

    Not those that are trained: an update is often smaller than what half precision can add to a weight.
    """
    for module in neck.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) and not module.weight.requires_grad:
            module.to(half)


def run_prefix(trunk: ViT, images: Tensor, end: int) -> Tensor:
    """Images (B, 3, R, R) through the patch embedding and blocks 0..end-1 -> tokens (B, g, g, D)."""
    tokens: Tensor = trunk.patch_embed(images)
    grid = tokens.shape[1], tokens.shape[2]
    tokens = tokens + get_abs_pos(
        trunk.pos_embed, trunk.pretrain_use_cls_token, grid, trunk.retain_cls_token, tiling=trunk.tile_abs_pos
    )
    tokens = trunk.ln_pre(tokens)
    for block in trunk.blocks[:end]:
        tokens = block(tokens)
    return tokens


def run_suffix(trunk: ViT, tokens: Tensor, start: int, activation_checkpointing: bool = False) -> Tensor:
    """Tokens (B, g, g, D) before block `start` through the blocks that are left -> features (B, D, g, g).

    With activation checkpointing a block keeps only its input, and is run again in the backward pass.
    """
    for block in trunk.blocks[start:]:
        if activation_checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(block, tokens, use_reentrant=False)
        else:
            tokens = block(tokens)
    features: Tensor = trunk.ln_post(tokens)
    return features.permute(0, 3, 1, 2)


def neck_levels(neck: Sam3DualViTDetNeck, features: Tensor, count: int | None = None) -> list[Tensor]:
    """Features (B, D, g, g) -> the neck's first `count` levels, or all, without positions for SAM 3's decoder."""
    return [conv(features) for conv in neck.convs[:count]]


def count_parameters(module: nn.Module) -> int:
    """Number of parameters that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
