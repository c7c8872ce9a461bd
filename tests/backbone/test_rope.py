"""The repair: the tables of a trunk built for that size, the output of transformers, the same in every wrapper."""

import ast
import warnings

import pytest
import torch
from torch._utils import ExceptionWrapper

from nightshift.arms import lora
from nightshift.backbone import encoder, rope
from nightshift.backbone.full_size import Size
from nightshift.backbone.rope_error import RopeError
from nightshift.config.kinds import Lora
from nightshift.probe.rope_check import first_wrong
from nightshift.probe.wrappers import legacy_replica

WINDOW, PATCH = 24, 14  # as SAM 3 has them; the widths are small
SIDES = (336, 504, 672, 1344)


def preset(side: int = 1008, depth: int = 2) -> Size:
    return Size(
        img_size=side, embed_dim=32, depth=depth, num_heads=2, mlp_ratio=2.0, drop_path_rate=0.0,
        global_blocks=(depth - 1,), d_model=16,
    )  # fmt: skip


def repaired(side: int) -> encoder.ViT:
    trunk = encoder.build(preset()).trunk
    rope.make_real(trunk)
    rope.set_grid(trunk, side // PATCH)
    return trunk


def images(height: int, width: int = 0) -> torch.Tensor:
    return torch.randn(1, 3, height, width or height, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("side", SIDES)
def test_repaired_tables_equal_those_of_a_trunk_built_for_the_size(side):
    native = encoder.build(preset(side)).trunk
    for real, shipped in zip(repaired(side).blocks, native.blocks, strict=True):
        table = torch.view_as_complex(real.attn.rope)
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
    settings = Lora(kind="lora", rank=2, alpha=4.0, targets=["attn.qkv", "attn.proj"], blocks=[0, 1])
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
    before = trunk.blocks[1].attn.rope.clone()
    for cast in (torch.bfloat16, torch.float16):
        trunk.to(cast)
        attention = trunk.blocks[1].attn
        assert attention.qkv.weight.dtype == cast and attention.rope.dtype == torch.float32
        assert torch.equal(attention.rope, before)
    meta = repaired(504).to("meta")
    assert meta.blocks[1].attn.rope.is_meta
    assert torch.equal(meta.to_empty(device="cpu").blocks[1].attn.rope, before)


def test_a_state_dict_has_no_tables_and_one_with_tables_loads():
    trunk = repaired(504)
    assert not any(name.endswith((".rope", ".freqs_cis")) for name in trunk.state_dict())
    trunk.load_state_dict(encoder.build(preset(1008)).trunk.state_dict())  # strict, with tables made at 1008
    assert trunk.blocks[1].attn.rope.shape == (36 * 36, 8, 2)


def test_explain_names_cause_and_cure_on_any_model():
    trunk = encoder.build(preset()).trunk
    with (
        pytest.raises(RopeError, match=r"block 1.*5184 rows.*576 tokens.*set_grid\(trunk, pixels=336\)"),
        rope.explain(),
    ):
        trunk(images(336))
    with pytest.raises(RopeError, match=r"block 0.*real view.*make_real"), rope.explain():
        legacy_replica(trunk)(images(1008))
    with pytest.raises(RopeError, match=r"36 x 36 tokens met 24 x 24; .*set_grid\(trunk, pixels=336\)"):
        repaired(504)(images(336))
    with pytest.raises(AssertionError, match="mine"), rope.explain():
        raise AssertionError("mine")


@pytest.mark.parametrize(
    ("pixels", "cure"),
    [
        ((1024, 1024), "1024 px is no multiple of the patch, 14 px: resize or pad the frames to 1022 px and call "
                       "nightshift.rope.set_grid(trunk, pixels=1022), or feed 1008 px"),
        ((512, 768), "to 518 x 770 px and call nightshift.rope.set_grid(trunk, pixels=(518, 770)), or feed 1008 px"),
        ((504, 336), "tokens (864, 8)); call nightshift.rope.set_grid(trunk, pixels=(504, 336)), or feed 1008 px"),
    ],
)  # fmt: skip
def test_the_cure_names_the_sizes_that_are_right_and_is_one(pixels, cure):
    size = preset()
    trunk = encoder.build(size, "meta").trunk
    with pytest.raises(RopeError) as caught, rope.explain():
        trunk(torch.empty(1, 3, *pixels, device="meta"))
    assert cure in str(caught.value)
    code = str(caught.value).split("nightshift.rope.")[1].split("), or")[0] + ")"
    right = ast.literal_eval(code.split("pixels=")[1][:-1])
    height, width = right if isinstance(right, tuple) else (right, right)
    eval(code, {"trunk": trunk, "set_grid": rope.set_grid})  # noqa: S307, the cure as it is printed
    assert rope.first_failure(trunk, torch.empty(1, 3, height, width, device="meta")) is None


def test_set_grid_refuses_pixels_that_would_be_dropped():
    trunk = encoder.build(preset(), "meta").trunk
    for pixels, said in (
        (1024, "of frames of 1024 px the last 2 rows and 2 columns of pixels are dropped.*1022 px"),
        (torch.Size((504, 515)), "504 x 515 px the last 0 rows and 11 columns .* 504 x 518 px"),
        (10, "the last 10 rows and 10 columns .* to 14 px"),
    ):
        with pytest.raises(RopeError, match=said):
            rope.set_grid(trunk, pixels=pixels)
        assert trunk.blocks[1].attn.input_size == (72, 72)
    with pytest.raises(RopeError, match="0 x 0 tokens"):
        rope.set_grid(trunk, 0)
    for wrong in ({}, {"grid": 3, "pixels": 42}):
        with pytest.raises(TypeError, match="either grid"):
            rope.set_grid(trunk, **wrong)


@pytest.mark.parametrize("real", [True, False])
def test_a_grid_that_is_not_square_has_the_right_positions(real):
    """Against the formula in float64 by the probe's own check, for frames as SAM 3 itself is never built for."""
    trunk = encoder.build(preset()).trunk
    if real:
        rope.make_real(trunk)
    rope.set_grid(trunk, pixels=(336, 672))
    assert first_wrong(trunk, images(336, 672)) is None
    rope.set_grid(trunk, (24, 48))
    assert first_wrong(trunk, images(336, 672)) is None
    if real:
        with pytest.raises(RopeError, match=r"24 x 48 tokens met 48 x 24; .*pixels=\(672, 336\)"):
            trunk(images(672, 336))  # as many tokens
    else:
        assert first_wrong(trunk, images(672, 336)).cause == "positions"


def test_explain_warns_of_runs_that_are_wrong_without_an_error():
    trunk = encoder.build(preset(), "meta").trunk

    def run(height: int, width: int) -> None:
        with rope.explain():
            trunk(torch.empty(1, 3, height, width, device="meta"))

    with pytest.warns(UserWarning, match="1016 px the last 8 rows and 8 columns .* to 1022 px"):
        run(1016, 1016)
    with pytest.warns(UserWarning, match=r"504 x 2016 px are 36 x 144 tokens .* for 72 x 72, .*pixels=\(504, 2016\)"):
        run(504, 2016)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(1008, 1008)
        trunk(torch.empty(1, 3, 1016, 1016, device="meta"))  # after explain, nobody looks
        rope.make_real(trunk)
        rope.set_grid(trunk, pixels=(504, 2016))
        run(504, 2016)


def test_explain_knows_what_data_parallel_raises_in_its_place():
    """Its threads lose the traceback but as text, and the shapes with it."""
    trunk = encoder.build(preset(), "meta").trunk
    try:
        trunk(torch.empty(1, 3, 336, 336, device="meta"))
    except AssertionError:
        wrapped = ExceptionWrapper(where="in replica 0 on device 0")
    with pytest.raises(RopeError, match=r"DataParallel replica.*make_real"), rope.explain():
        wrapped.reraise()


@pytest.mark.parametrize("act", [rope.make_real, lambda module: rope.set_grid(module, 36)])
def test_what_is_no_trunk_is_told_where_it_is(act):
    neck = encoder.build(preset(), "meta")
    model = torch.nn.ModuleDict({"backbone": torch.nn.ModuleDict({"vision_backbone": neck})})
    with pytest.raises(RopeError, match=r"ModuleDict is not .*give model\.backbone\.vision_backbone\.trunk$"):
        act(model)
    with pytest.raises(RopeError, match=r"Linear is not SAM 3's trunk: expected a sam3\.model\.vitdet\.ViT"):
        act(torch.nn.Linear(1, 1))
    act(neck.trunk)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_complex_product_has_the_bits_of_the_real_one_forward_and_backward(dtype, monkeypatch):
    """The real one is what a compiler is given."""
    attention = repaired(168).blocks[1].attn
    qkv = torch.randn(2, 144, 3, 2, 16, dtype=dtype, requires_grad=True)
    q, weights = qkv.permute(2, 0, 3, 1, 4).unbind(0)[0], torch.randn(2, 2, 144, 16, dtype=dtype)
    found = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        turned = attention._rotate(q)
        found.append((turned, *torch.autograd.grad((turned * weights).sum(), qkv)))
    for ours, real in zip(*found, strict=True):
        assert ours.dtype == dtype and torch.equal(ours, real)


@pytest.mark.parametrize(("name", "value"), [("use_rope", False), ("use_rel_pos", True), ("cls_token", True)])
def test_attention_that_has_more_than_rope_is_not_made_real(name, value):
    trunk = encoder.build(preset()).trunk
    setattr(trunk.blocks[1].attn, name, value)
    with pytest.raises(RopeError, match=r"^blocks\.1\.attn: expected RoPE alone"):
        rope.make_real(trunk)


def test_sam3_still_is_what_the_repair_relies_on():
    """RealAttention has its own forward for sam3's Attention, and another buffer; a change there must be looked at."""
    attention = encoder.build(preset()).trunk.blocks[1].attn
    assert set(dict(attention.named_buffers())) == {"freqs_cis"} and attention.freqs_cis.is_complex()
    assert attention.rope_pt_size == (WINDOW, WINDOW) and attention.rope_interp and attention.rope_theta == 10000.0
    shapes = []
    attention._apply_rope = lambda q, k: shapes.append((q.shape, k.shape)) or (q, k)
    attention(torch.zeros(1, 4, 6, 32))
    assert shapes == [((1, 2, 24, 16), (1, 2, 24, 16))]
