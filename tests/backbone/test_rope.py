"""The repair: the tables of a trunk built for that size, the output of transformers, safe in every wrapper."""

import pytest
import torch

from nightshift.backbone import encoder
from nightshift.model.segmentation import lora
from nightshift.backbone import rope
from nightshift.config.params import Encoder, Frozen, Lora
from nightshift.probe.wrappers import legacy_replica

WINDOW, PATCH = 24, 14  # as SAM 3 has them; the widths are small
SIDES = (336, 504, 672, 1344)


def preset(side: int = 1008, depth: int = 2) -> Encoder:
    return Encoder(
        img_size=side, pretrain_img_size=336, patch_size=PATCH, embed_dim=32, depth=depth, num_heads=2, mlp_ratio=2.0,
        drop_path_rate=0.0, window_size=WINDOW, global_blocks=[depth - 1], d_model=16, seed=0,
    )  # fmt: skip


def repaired(side: int) -> encoder.ViT:
    trunk = encoder.build(preset()).trunk
    rope.make_real(trunk)
    rope.set_grid(trunk, side // PATCH)
    return trunk


def images(side: int) -> torch.Tensor:
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", SIDES)
def test_repaired_tables_equal_those_of_a_trunk_built_for_the_size(side):
    native = encoder.build(preset(side)).trunk
    for real, shipped in zip(repaired(side).blocks, native.blocks, strict=True):
        table = torch.complex(real.attn.rope_cos, real.attn.rope_sin)
        assert (table - shipped.attn.freqs_cis).abs().max() <= 1e-6
    complex_only = encoder.build(preset()).trunk
    rope.set_grid(complex_only, side // PATCH)
    for ours, shipped in zip(complex_only.blocks, native.blocks, strict=True):
        assert (ours.attn.freqs_cis - shipped.attn.freqs_cis).abs().max() <= 1e-6


@pytest.mark.parametrize("side", (336, 504))
def test_repaired_output_equals_that_of_a_trunk_built_for_the_size(side):
    with torch.no_grad():
        ours, native = repaired(side)(images(side))[-1], encoder.build(preset(side)).trunk(images(side))[-1]
    assert (ours - native).norm() / native.norm() <= 1e-5


@pytest.mark.parametrize("side", SIDES)
def test_repaired_output_equals_transformers(side):
    """An independent reference: Hugging Face's port keeps real tables of its own making."""
    from transformers import Sam3ViTConfig, Sam3ViTModel

    config = Sam3ViTConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=side,
        pretrain_image_size=336, patch_size=PATCH, window_size=WINDOW, global_attn_indexes=[1], hidden_act="gelu",
        layer_norm_eps=1e-5, rope_theta=10000.0,
    )  # fmt: skip
    reference = Sam3ViTModel(config).eval()
    trunk = repaired(side)
    weights = {}
    for name, value in trunk.state_dict().items():
        if name == "pos_embed":
            weights["embeddings.position_embeddings"] = value[:, 1:]  # sam3 keeps a class token's place and skips it
        elif name.startswith("patch_embed.proj"):
            weights["embeddings.patch_embeddings.projection.weight"] = value
        elif name.startswith("ln_pre"):
            weights[name.replace("ln_pre", "layer_norm")] = value
        elif ".attn.qkv." in name:
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                weights[_layer(name).replace("qkv", f"{part}_proj")] = piece
        else:
            weights[_layer(name)] = value
    reference.load_state_dict(weights)
    with torch.no_grad():
        ours = trunk(images(side))[-1].flatten(2).mT
        theirs = reference(images(side)).last_hidden_state
    assert (ours - theirs).norm() / theirs.norm() <= 1e-5


def _layer(name: str) -> str:
    name = name.replace("blocks.", "layers.").replace("norm1", "layer_norm1").replace("norm2", "layer_norm2")
    return name.replace(".attn.proj", ".attention.o_proj").replace(".attn.", ".attention.")


def test_a_legacy_replica_of_the_repaired_trunk_with_lora_is_the_plain_one():
    own = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": ["attn.qkv", "attn.proj"], "blocks": "all"}
    settings = Lora(**own, activation_checkpointing=False, **dict.fromkeys(Frozen.model_fields))
    side = 336
    shipped = encoder.build(preset(side)).trunk
    assert rope.first_failure(legacy_replica(shipped), images(side)).cause == "replica_real_view"
    trunk = repaired(side)
    lora.add_adapters(trunk, settings)
    replica = legacy_replica(trunk)
    grads = []
    for model in (trunk, replica):
        out = model(images(side))[-1]
        out.square().mean().backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    with torch.no_grad():
        assert torch.equal(trunk(images(side))[-1], replica(images(side))[-1])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_casts_leave_the_tables_in_float32_and_moves_take_them_along():
    trunk = repaired(504)
    before = trunk.blocks[1].attn.rope_cos.clone()
    for cast in (torch.bfloat16, torch.float16):
        trunk.to(cast)
        attention = trunk.blocks[1].attn
        assert attention.qkv.weight.dtype == cast and attention.rope_cos.dtype == torch.float32
        assert torch.equal(attention.rope_cos, before)
    meta = repaired(504).to("meta")
    assert meta.blocks[1].attn.rope_cos.is_meta
    assert torch.equal(meta.to_empty(device="cpu").blocks[1].attn.rope_cos, before)


def test_a_state_dict_has_no_tables_and_one_with_tables_loads():
    trunk = repaired(504)
    assert not any("rope_" in name or "freqs_cis" in name for name in trunk.state_dict())
    trunk.load_state_dict(encoder.build(preset(1008)).trunk.state_dict())  # strict, with tables made at 1008
    assert trunk.blocks[1].attn.rope_cos.shape == (36 * 36, 8)


def test_explain_names_cause_and_cure_on_any_model():
    trunk = encoder.build(preset()).trunk
    with pytest.raises(rope.RopeError, match=r"block 1.*5184 rows.*576 tokens.*set_grid"), rope.explain():
        trunk(images(336))
    with pytest.raises(rope.RopeError, match=r"block 0.*real view.*make_real"), rope.explain():
        legacy_replica(trunk)(images(1008))
    with pytest.raises(rope.RopeError, match="set_grid"):
        repaired(504)(images(336))
    with pytest.raises(AssertionError, match="mine"), rope.explain():
        raise AssertionError("mine")


def test_sam3_still_is_what_the_repair_relies_on():
    """RealAttention overrides one method and one buffer of sam3's Attention; a change there must be looked at."""
    attention = encoder.build(preset()).trunk.blocks[1].attn
    assert set(dict(attention.named_buffers())) == {"freqs_cis"} and attention.freqs_cis.is_complex()
    assert attention.rope_pt_size == (WINDOW, WINDOW) and attention.rope_interp and attention.rope_theta == 10000.0
    seen = []
    attention._apply_rope = lambda q, k: seen.append((q.shape, k.shape)) or (q, k)
    attention(torch.zeros(1, 4, 6, 32))
    assert seen == [((1, 2, 24, 16), (1, 2, 24, 16))]
