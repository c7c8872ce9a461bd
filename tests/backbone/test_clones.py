"""A clone of sam3 with `use_rope_real`: three tables instead of one, and an MLP that goes past its adapter."""

import warnings

import pytest
import torch
from helpers.clone import CloneMlp, CloneViT
from peft import LoraConfig, get_peft_model

from nightshift.backbone import encoder
from nightshift.backbone.full_size import Size
from nightshift.probe.rope_check import first_wrong
from nightshift.probe.wrappers import legacy_replica
from nightshift.rope import RopeError, explain, first_failure, make_real, set_grid

TABLES = {"freqs_cis", "freqs_cis_real", "freqs_cis_imag"}


@pytest.fixture(autouse=True)
def clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "ViT", CloneViT)


def trunk_for(side: int = 168, device: str = "cpu", rope_real: bool = True) -> encoder.ViT:
    size = Size(img_size=side, pretrain_img_size=56, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2.0,
                drop_path_rate=0.0, window_size=4, global_blocks=(1,), d_model=16)  # fmt: skip
    return encoder.build(size, device, rope_real).trunk


def images(height: int, width: int = 0) -> torch.Tensor:
    return torch.rand(1, 3, height, width or height, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def output(trunk: encoder.ViT, side: int) -> torch.Tensor:
    return trunk(images(side))[-1]


def tables(trunk: encoder.ViT) -> set[str]:
    return {name.rpartition(".")[2] for name in trunk.state_dict()} & TABLES


def test_only_a_sam3_that_has_it_is_asked_for_it(monkeypatch):
    assert encoder.has_rope_real() and tables(trunk_for()) == TABLES
    assert tables(trunk_for(rope_real=False)) == {"freqs_cis"}
    monkeypatch.undo()
    assert not encoder.has_rope_real()


def test_make_real_takes_all_three_away_and_leaves_the_output():
    trunk = trunk_for()
    before = output(trunk, 168)
    make_real(trunk)
    assert not tables(trunk)
    torch.testing.assert_close(output(trunk, 168), before, rtol=1e-5, atol=1e-5)
    trunk.load_state_dict(trunk_for(336).state_dict())  # strict, with all three tables, of another size
    torch.testing.assert_close(output(trunk, 168), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("real", [True, False])
def test_set_grid_makes_what_a_trunk_of_that_size_has(real):
    trunk, native = trunk_for(), trunk_for(252)
    if real:
        make_real(trunk)
    set_grid(trunk, pixels=252)
    torch.testing.assert_close(output(trunk, 252), output(native, 252), rtol=1e-5, atol=1e-5)
    assert first_wrong(trunk, images(252)) is None
    if not real:
        for ours, theirs in zip(trunk.buffers(), native.buffers(), strict=True):
            assert torch.equal(ours, theirs)
    set_grid(trunk, pixels=(168, 336))
    assert first_wrong(trunk, images(168, 336)) is None


def test_explain_names_block_shapes_and_cure():
    said = r"block 1: .* 144 rows.* 324 tokens .*set_grid\(trunk, pixels=252\), or feed 168 px"
    with pytest.raises(RopeError, match=said), explain():
        output(trunk_for(), 252)
    failure = first_failure(trunk_for(device="meta"), torch.empty(1, 3, 252, 252, device="meta"))
    assert (failure.cause, failure.block, failure.table_shape) == ("grid", 1, (144, 8))


def test_what_is_wrong_without_an_error_is_found():
    as_many = 84, 336
    with pytest.warns(UserWarning, match=r"6 x 24 tokens and meet position tables made for 12 x 12"), explain():
        trunk_for()(images(*as_many))
    assert first_wrong(trunk_for(), images(168)) is None
    assert first_wrong(trunk_for(), images(*as_many)).cause == "positions"
    trunk = trunk_for()
    trunk.blocks[1].attn.freqs_cis_imag *= -1
    assert (first_wrong(trunk, images(168)).block, first_wrong(trunk, images(168)).cause) == (1, "values")


def test_real_tables_need_no_repair_for_data_parallel_and_casts():
    trunk = trunk_for()
    assert torch.equal(output(legacy_replica(trunk), 168), output(trunk, 168))
    assert first_failure(legacy_replica(trunk_for(rope_real=False)), images(168)).cause == "replica_real_view"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the complex table loses its imaginary part; nothing uses it
        trunk.to(torch.bfloat16)
    assert first_wrong(trunk, images(168).bfloat16()) is None


@pytest.mark.parametrize("own", [True, False])
def test_an_adapter_on_fc1_counts_without_a_gradient(own):
    """As the clone has it, only where there is a gradient, which is while it is trained; as we build it, always."""
    trunk = trunk_for()
    if own:
        for block in trunk.blocks:
            block.mlp.__class__ = CloneMlp
    get_peft_model(trunk, LoraConfig(r=2, target_modules=["mlp.fc1"], init_lora_weights=False))
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        adapted = output(trunk, 168)
        for name, value in trunk.named_parameters():
            if "lora_B" in name:
                torch.nn.init.zeros_(value)
        assert torch.equal(output(trunk, 168), adapted) == own
