"""The encoder on sam3's own classes, very small or on meta: blocks, framing, LoRA by peft, the RoPE probe."""

from functools import partial

import numpy as np
import peft
import pytest
import torch

from nightshift.backbone import encoder
from nightshift.data import letterbox as framing
from nightshift.model.segmentation import lora
from nightshift.backbone import rope
from nightshift.engine.device import autocast
from nightshift.console.errors import UserError
from nightshift.config.params import Encoder, read_preset


@pytest.fixture
def neck(small):
    return encoder.build(small().preset)


@pytest.fixture
def sam3(checkout):
    return encoder.build(read_preset("encoder", "sam3", Encoder), device="meta")


def images(count: int = 2, side: int = 56) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("k", range(4))
def test_prefix_and_suffix_are_the_trunk_bit_for_bit(neck, k):
    x = images()
    tokens = encoder.run_prefix(neck.trunk, x, k)
    assert tokens.shape == (2, 4, 4, 32)
    features = encoder.run_suffix(neck.trunk, tokens, k)
    assert torch.equal(features, neck.trunk(x)[-1])
    assert features.std() > 0.1


@torch.no_grad()
def test_neck_levels_are_those_of_the_neck(neck):
    x = images()
    levels = encoder.neck_levels(neck, neck.trunk(x)[-1])
    expected = neck(x)[0]
    assert [tuple(level.shape) for level in levels] == [(2, 16, s, s) for s in (16, 8, 4, 2)]
    assert all(torch.equal(a, b) for a, b in zip(levels, expected, strict=True))


def test_weights_come_from_the_seed_alone(small):
    preset = small().preset
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = encoder.build(preset)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert same(one, encoder.build(preset))
    assert not same(one, encoder.build(preset.model_copy(update={"seed": 1})))


def test_it_is_frozen_and_in_eval_mode(neck):
    assert encoder.count_parameters(neck) == 0
    assert not any(module.training for module in neck.modules())
    assert encoder.count_parameters(torch.nn.Linear(3, 2)) == 8


def test_full_size_has_the_known_sizes(sam3):
    trunk = sam3.trunk
    assert round(sum(p.numel() for p in trunk.parameters()) / 1e6) == 446
    assert len(trunk.blocks) == 32
    tables = [tuple(block.attn.freqs_cis.shape) for block in trunk.blocks]
    assert [i for i, table in enumerate(tables) if table == (5184, 32)] == [7, 15, 23, 31]
    assert tables.count((576, 32)) == 28
    assert {block.attn.freqs_cis.dtype for block in trunk.blocks} == {torch.complex64}
    assert [block.window_size for block in trunk.blocks[:8]] == [24] * 7 + [0]
    levels = encoder.neck_levels(sam3, torch.empty(1, 1024, 72, 72, device="meta"))
    assert [tuple(level.shape[1:]) for level in levels] == [(256, s, s) for s in (288, 144, 72, 36)]


SHAPES = [(120, 60), (60, 120), (90, 90), (37, 101), (512, 300)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resolution", [56, 168])
def test_a_blob_returns_to_its_place_and_is_never_in_the_padding(shape, resolution):
    radius = 1.5 * max(1, max(shape) / resolution)
    y, x = np.indices(shape)
    rows, columns = framing.inner_size(*shape, resolution)
    for share in ((0.2, 0.2), (0.5, 0.75), (0.8, 0.8)):
        centre = [round(s * n) for s, n in zip(share, shape, strict=True)]
        blob = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * radius**2))
        square = framing.mask_to_square(blob, resolution)
        assert square.shape == (1, resolution, resolution)
        assert square[:, rows:].abs().sum() == square[:, :, columns:].abs().sum() == 0
        back = framing.square_to_frame(square[0], *shape).numpy()
        assert back.shape == shape
        found = [float((back * axis).sum() / back.sum()) for axis in (y, x)]
        assert np.abs(np.subtract(found, centre)).max() < 0.5
        scale = resolution / max(shape)
        inside = [float((square[0].numpy() * axis).sum() / square.sum()) for axis in np.indices((resolution,) * 2)]
        expected = [(c + 0.5) * scale - 0.5 for c in centre]
        assert np.abs(np.subtract(inside, expected)).max() < 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_corner_pixels_stay_in_their_corners(shape):
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        marker = np.zeros(shape, np.uint8)
        marker[corner] = 1
        back = framing.square_to_frame(framing.mask_to_square(marker, 168)[0], *shape).numpy()
        assert back[corner] == back.max() > 0


def test_frames_are_normalised_and_padded_with_grey():
    frame = np.full((30, 60), 255, np.uint8)
    frame[:, :30] = 0
    square = framing.frame_to_square(frame, 60)
    assert square.shape == (3, 60, 60)
    assert torch.equal(square[0], square[2])
    assert (square[:, :30, :30] == -1).all()
    assert (square[:, :30, 30:] == 1).all()
    assert (square[:, 30:] == 0).all()
    assert framing.inner_size(2, 1000, 56) == (1, 56)


@torch.no_grad()
def output(trunk, x=None) -> torch.Tensor:
    return encoder.run_suffix(trunk, encoder.run_prefix(trunk, images() if x is None else x, 0), 0)


@pytest.mark.parametrize(
    ("blocks", "adapted"), [("all", [0, 1, 2]), ({"last": 2}, [1, 2]), ({"last": 3}, [0, 1, 2]), ([2, 0, 2], [0, 2])]
)
def test_adapters_are_where_the_settings_say(small, blocks, adapted):
    settings = small({"lora.blocks": blocks}).lora
    trunk = encoder.build(small().preset).trunk
    model = lora.add_adapters(trunk, settings)
    names = [name for name, p in trunk.named_parameters() if p.requires_grad]
    expected = {f"blocks.{i}.{target}" for i in adapted for target in settings.targets}
    assert {name.split(".lora_")[0] for name in names} == expected
    assert len(names) == 2 * len(expected)
    assert all("lora_" in name for name in names)
    assert type(trunk.patch_embed.proj) is torch.nn.Conv2d
    assert lora.adapted_blocks(settings, 3) == adapted
    assert lora.prefix_end(settings, 3) == adapted[0]
    assert sum(p.numel() for p in [p for p in model.parameters() if p.requires_grad]) == encoder.count_parameters(trunk)


@pytest.mark.parametrize("blocks", [[3], [0, 7], {"last": 4}, []])
def test_blocks_that_are_not_there(small, blocks):
    with pytest.raises(UserError, match=r"lora\.blocks .*: the encoder has blocks 0\.\.2"):
        lora.add_adapters(encoder.build(small().preset).trunk, small({"lora.blocks": blocks}).lora)


def trained(trunk, settings) -> peft.PeftModel:
    """Adapters after two steps; the second, because A has no gradient while B is 0."""
    model = lora.add_adapters(trunk, settings)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.05)
    for _ in range(2):
        optimiser.zero_grad()
        encoder.run_suffix(trunk, encoder.run_prefix(trunk, images(), 0), 0).square().mean().backward()
        optimiser.step()
    return model


def test_training_changes_the_output_and_no_base_weight(small, neck):
    trunk, before = neck.trunk, output(neck.trunk)
    base = {name: p.clone() for name, p in trunk.named_parameters()}
    lora.add_adapters(trunk, small().lora)
    assert torch.equal(output(trunk), before)
    other = encoder.build(small().preset).trunk
    trained(other, small().lora)
    assert not torch.allclose(output(other), before, atol=1e-3)
    kept = {name.replace(".base_layer", ""): p for name, p in other.named_parameters() if "lora_" not in name}
    assert kept.keys() == base.keys()
    assert all(torch.equal(kept[name], base[name]) for name in base)


@pytest.mark.parametrize("blocks", ["all", {"last": 1}])
def test_saved_adapters_open_with_plain_peft(small, tmp_path, blocks):
    settings = small({"lora.blocks": blocks})
    trunk = encoder.build(settings.preset).trunk
    lora.save_adapters(trained(trunk, settings.lora), tmp_path / "a")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    plain, own = (encoder.build(settings.preset).trunk for _ in range(2))
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "a")
    lora.merge_adapters(own, tmp_path / "a")
    with torch.no_grad():
        plainly = model(images())[-1]
    for other in (plainly, output(own)):  # peft's layer, merged weights: other sums, same map
        torch.testing.assert_close(other, output(trunk), rtol=1e-5, atol=1e-5)
    assert own.state_dict().keys() == encoder.build(settings.preset).trunk.state_dict().keys()
    assert encoder.count_parameters(own) == 0


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_a_layer_that_adds_in_place_is_pefts(small, neck, precision, near, dropout):
    lora.add_adapters(neck.trunk, small({"lora.dropout": dropout}).lora)
    layer, x = neck.trunk.blocks[-1].attn.qkv, torch.randn(2, 4, 4, 32, requires_grad=True)
    assert type(layer) is lora.InPlaceLinear
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(b)
    found = []
    for forward in (layer.forward, partial(peft.tuners.lora.Linear.forward, layer)):
        torch.manual_seed(0)  # of the dropout
        with autocast(torch.device("cpu"), precision):
            y = forward(x)
        found.append((y, *torch.autograd.grad(y.float().square().sum(), (x, a, b))))
    for ours, theirs in zip(*found, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert torch.linalg.vector_norm(ours - theirs) <= near * torch.linalg.vector_norm(theirs)


def test_first_failure_at_full_size(sam3):
    failure = rope.first_failure(sam3.trunk, torch.empty(1, 3, 1024, 1024, device="meta"))
    assert failure == rope.Failure(7, (5184, 32), (5329, 32))
    assert failure.cause == "grid"
    assert rope.first_failure(sam3.trunk, torch.empty(1, 3, 1008, 1008, device="meta")) is None
    assert rope.Failure(0, (576, 32, 2), (576, 32)).cause == "replica_real_view"


def test_first_failure_with_weights_and_with_another_error(neck):
    assert rope.first_failure(neck.trunk, images()) is None
    assert rope.first_failure(neck.trunk, images(side=70)) == rope.Failure(1, (16, 8), (25, 8))
    table = neck.trunk.blocks[0].attn.freqs_cis
    neck.trunk.blocks[0].attn.freqs_cis = torch.view_as_real(table)  # as a replica of DataParallel had it
    assert rope.first_failure(neck.trunk, images()).cause == "replica_real_view"
    with pytest.raises(RuntimeError):
        rope.first_failure(neck.trunk, torch.zeros(1, 4, 56, 56))

    def broken(_module, _inputs):
        raise AssertionError("not RoPE's")

    neck.trunk.blocks[0].register_forward_pre_hook(broken)
    with pytest.raises(AssertionError, match="not RoPE's"):
        rope.first_failure(neck.trunk, images())
