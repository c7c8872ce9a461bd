"""Weights files of a very small encoder in each layout and of each release, beside tensors of the rest of SAM 3."""

from pathlib import Path

import torch
from helpers.models import MINI
from safetensors.torch import save_file

from nightshift.backbone import encoder
from nightshift.config.presets import Encoder

PREFIX = "detector.backbone.vision_backbone."
OTHERS = {
    "detector.transformer.encoder.layers.0.linear1.weight": torch.ones(3, 3),
    "detector.backbone.vision_backbone.sam2_convs.0.conv_1x1.weight": torch.ones(2),
    "tracker.maskmem_tpos_enc": torch.ones(1),
}
LEVELS = {"SAM 3": [4.0, 2.0, 1.0, 0.5], "SAM 3.1": [4.0, 2.0, 1.0]}


def preset(**changes) -> Encoder:
    return Encoder(**MINI | {"seed": 7} | changes)


def fresh(release="SAM 3"):
    return encoder.build(preset(seed=1, scale_factors=LEVELS[release]), "meta")


def saved(path: Path, change=lambda state: None, wrap=False, cast=None, release="SAM 3") -> Path:
    """The weights of seed 7 in a release's own layout, tables included, beside tensors of the rest of the model."""
    neck = encoder.build(preset(scale_factors=LEVELS[release]))
    state = {PREFIX + name: value.to(cast) if cast and value.is_floating_point() else value
             for name, value in neck.state_dict().items()}  # fmt: skip
    state |= of_sam31(state) if release == "SAM 3.1" else OTHERS
    change(state)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state} if wrap else state, path)
    return path


def of_sam31(state):
    """What SAM 3.1's file has beside trunk and convs, and what a clone adds to it that has use_rope_real."""
    others = {"tracker.model.maskmem_tpos_enc": torch.ones(1)}
    for name, value in state.items():
        if ".convs." in name:
            others |= {name.replace(".convs.", f".{use}_convs."): -value for use in ("interactive", "propagation")}
        if name.endswith("freqs_cis"):
            others |= {f"{name}_real": value.real.clone(), f"{name}_imag": value.imag.clone()}
    return others


def in_transformers_layout(path: Path):
    """The same weights in the module that transformers has for them, saved by it."""
    from transformers import Sam3VisionConfig, Sam3VisionModel, Sam3ViTConfig

    config = Sam3VisionConfig(
        backbone_config=Sam3ViTConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=56,
            pretrain_image_size=28, patch_size=14, window_size=2, global_attn_indexes=[1, 2], hidden_act="gelu",
            layer_norm_eps=1e-5, rope_theta=10000.0,
        ),
        fpn_hidden_size=16,
        scale_factors=[4.0, 2.0, 1.0, 0.5],
    )  # fmt: skip
    torch.manual_seed(3)
    model = Sam3VisionModel(config).eval()
    state = {f"detector_model.vision_encoder.{name}": value for name, value in model.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()} | OTHERS, path)
    return path, model
