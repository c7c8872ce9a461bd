"""The encoder on sam3's own classes, very small or on meta: its blocks one by one, its sizes, the assertion."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from helpers.models import batch
from sam3.model.vitdet import Mlp

from nightshift.backbone import encoder, rope
from nightshift.backbone.full_size import FULL_SIZE
from nightshift.backbone.rope_error import Call, Failure
from nightshift.config.params import read_preset
from nightshift.config.presets import Encoder
from nightshift.core.records import LEVELS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def neck(small):
    return encoder.build(small().preset)


@pytest.fixture(scope="module")
def sam3():
    return encoder.build(FULL_SIZE, device="meta")


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("k", range(4))
def test_prefix_and_suffix_are_the_trunk_bit_for_bit(neck, k):
    x = batch()
    tokens = encoder.run_prefix(neck.trunk, x, k)
    assert tokens.shape == (2, 4, 4, 32)
    features = encoder.run_suffix(neck.trunk, tokens, k)
    assert torch.equal(features, neck.trunk(x)[-1])
    assert features.std() > 0.1


@torch.no_grad()
def test_the_mlp_is_that_of_the_package_bit_for_bit(neck):
    ours = neck.trunk(batch())[-1]
    for block in neck.trunk.blocks:
        block.mlp.__class__ = Mlp
    assert torch.equal(neck.trunk(batch())[-1], ours)


@torch.no_grad()
def test_neck_levels_are_those_of_the_neck(neck):
    x = batch()
    levels = encoder.neck_levels(neck, neck.trunk(x)[-1])
    expected = neck(x)[0]
    assert [tuple(level.shape) for level in levels] == [(2, 16, s, s) for s in (16, 8, 4, 2)]
    assert all(torch.equal(a, b) for a, b in zip(levels, expected, strict=True))


@torch.no_grad()
def test_a_neck_of_three_levels_has_the_finest_of_the_four(small, neck):
    three = encoder.build(small().preset.model_copy(update={"scale_factors": [4.0, 2.0, 1.0]}))
    features = neck.trunk(batch())[-1]
    levels = encoder.neck_levels(three, features)
    assert len(levels) == LEVELS == 3
    assert all(torch.equal(a, b) for a, b in zip(levels, encoder.neck_levels(neck, features)[:LEVELS], strict=True))


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


@pytest.mark.parametrize(
    ("name", "levels", "hub"),
    [("sam3", 4, "facebook/sam3/sam3.pt"), ("sam3.1", 3, "facebook/sam3.1/sam3.1_multiplex.pt")],
)
def test_the_presets_of_full_size_are_one_trunk_with_a_neck_of_their_own(name, levels, hub):
    preset = read_preset("encoder", name, Encoder, ROOT).model_dump()
    assert (len(preset["scale_factors"]), preset.pop("hub")) == (levels, hub)
    full = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(FULL_SIZE).items()}
    assert full | {"scale_factors": full["scale_factors"][:levels]} == preset


def test_first_failure_at_full_size(sam3):
    failure = rope.first_failure(sam3.trunk, torch.empty(1, 3, 1024, 1024, device="meta"))
    assert failure == Failure((5184, 32), (5329, 32), Call(7, (1024, 1024), 14))
    assert (failure.block, failure.cause) == (7, "grid")
    assert rope.first_failure(sam3.trunk, torch.empty(1, 3, 1008, 1008, device="meta")) is None
    assert Failure((576, 32, 2), (576, 32)).cause == "replica_real_view"


def test_first_failure_with_weights_and_with_another_error(neck):
    assert rope.first_failure(neck.trunk, batch()) is None
    assert rope.first_failure(neck.trunk, batch(side=70)) == Failure((16, 8), (25, 8), Call(1, (70, 70), 14))
    table = neck.trunk.blocks[0].attn.freqs_cis
    neck.trunk.blocks[0].attn.freqs_cis = torch.view_as_real(table)  # as a replica of DataParallel had it
    assert rope.first_failure(neck.trunk, batch()).cause == "replica_real_view"
    with pytest.raises(RuntimeError):
        rope.first_failure(neck.trunk, torch.zeros(1, 4, 56, 56))

    def broken(_module, _inputs):
        raise AssertionError("not RoPE's")

    neck.trunk.blocks[0].register_forward_pre_hook(broken)
    with pytest.raises(AssertionError, match="not RoPE's"):
        rope.first_failure(neck.trunk, batch())
