"""The probe: every cause that is known has a case that finds it."""

import importlib
import subprocess
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from helpers.clone import CloneViT
from torch.nn.parallel import comm

from nightshift.backbone import encoder
from nightshift.engine import device as devices
from nightshift.jobs import gpu_lock
from nightshift.probe import cases as making
from nightshift.probe.cases import NOT_SQUARE, SHALLOW, ProbeCase, all_cases, shape_case
from nightshift.probe.ddp import ddp_over_gloo
from nightshift.probe.names import ADAPTERS, CAUSES, WRAPPERS
from nightshift.probe.rope_check import first_wrong
from nightshift.probe.wrappers import WRAP, installed_replica, legacy_replica


def only(cases: list[ProbeCase], **labels: object) -> list[ProbeCase]:
    return [case for case in cases if all(getattr(case, key) == value for key, value in labels.items())]


def test_at_least_sixty_cases_each_with_a_name_of_its_own(cases):
    assert len(cases) >= 60
    assert len({case.case for case in cases}) == len(cases)
    assert {case.outcome for case in cases} == {"ok", "assertion", "wrong", "error"}


def test_every_cause_and_wrapper_is_explained(cases):
    met = {case.cause for case in cases} - {""}
    assert met == set(CAUSES) - {"values"}  # that one is for what nobody has met
    assert tuple(WRAP) == WRAPPERS


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_the_grid_decides_at_full_size_whatever_the_adapter(cases, adapter):
    found = only(cases, encoder="sam3", adapter=adapter, wrapper="none", table="as_shipped")
    ends = {row.height: (row.outcome, row.cause, row.block) for row in found}
    assert ends.pop(1008) == ("ok", "", None)
    assert ends.pop(1016) == ("wrong", "pixels_dropped", None)
    assert set(ends) == {336, 504, 512, 672, 1022, 1024, 1344}
    assert set(ends.values()) == {("assertion", "grid", 7)}


def test_every_false_pass_is_found_with_its_cause(cases):
    """What runs without an assertion and is wrong, in a trunk as shipped or regenerated without scale."""
    wrong = {(r.height, r.width, r.dtype, r.table): r.cause for r in only(cases, encoder="sam3-shallow")}
    for size in NOT_SQUARE:
        assert wrong.pop((*size, "float32", "as_shipped")) == "positions"
    for side in (1009, 1016):
        assert wrong.pop((side, side, "float32", "as_shipped")) == "pixels_dropped"
    for side in (504, 1008):
        assert wrong.pop((side, side, "float32", "unscaled")) == "unscaled"
    assert wrong.pop((1008, 1008, "bfloat16", "as_shipped")) == "imaginary_lost"
    assert (336, 336, "float32", "unscaled") in wrong  # where the scale is 1
    assert wrong.pop((504, 504, "float32", "from_file")) == "table_size"
    assert wrong[504, 504, "float32", "from_file_repaired"] == ""
    assert set(wrong.values()) == {""}


@pytest.mark.parametrize("wrapper", ["none", "replica_installed", "replica_legacy"])
def test_blocks_that_are_alike_are_asked_once_and_the_one_that_fails_is_named(wrapper):
    trunk = WRAP[wrapper](encoder.build(replace(SHALLOW, depth=6, global_blocks=(3, 5)), "meta").trunk)
    blocks, ran = list(trunk.blocks), []
    for i, block in enumerate(blocks):
        block.register_forward_hook(lambda *_, i=i: ran.append(i))
    right, legacy = (1008, 1008), wrapper == "replica_legacy"
    assert shape_case("", trunk, right).block == (0 if legacy else None)
    assert ran == ([] if legacy else [0, 1, 3])  # block 0 has no drop path
    assert shape_case("", trunk, (504, 504)).block == (0 if legacy else 3)
    for odd in (5, 4) if not legacy else ():  # a block with a table of its own is asked too
        blocks[odd].attn.freqs_cis = blocks[odd].attn.freqs_cis[1:]
        assert shape_case("", trunk, right).block == odd
    assert list(trunk.blocks) == blocks


def test_a_rotation_that_is_wrong_in_another_way_is_found():
    """A check that only knew the causes above would let these pass: swapped axes, and a table of noise."""
    size = replace(SHALLOW, img_size=84, pretrain_img_size=42, num_heads=2, window_size=3)
    images = torch.rand(1, 3, 84, 84)
    for spoil, cause in ((lambda table: table.reshape(6, 6, -1).transpose(0, 1).flatten(0, 1), "values"),
                         (lambda table: torch.randn_like(table), "values")):  # fmt: skip
        trunk = encoder.build(size).trunk
        assert first_wrong(trunk, images) is None
        attention = trunk.blocks[1].attn
        attention.freqs_cis = spoil(attention.freqs_cis).contiguous()
        found = first_wrong(trunk, images)
        assert (found.block, found.cause) == (1, cause)
        assert "_apply_rope" not in vars(attention)


def test_replicas(cases):
    legacy = only(cases, wrapper="replica_legacy", table="as_shipped")
    assert {(r.cause, r.block, r.table_shape, r.expected_shape) for r in legacy} == {
        ("replica_real_view", 0, "576 x 32 x 2", "576 x 32")
    }
    assert {r.outcome for r in only(cases, wrapper="head_only")} == {"ok"}
    repaired = [r for r in cases if "replica" in r.wrapper and r.table == "repaired"]
    assert len(repaired) == 4 and {r.outcome for r in repaired} == {"ok"}


@pytest.mark.slow
def test_a_clone_is_asked_with_its_real_tables_too(monkeypatch):
    """They stop what DataParallel and `.to(bfloat16)` do to the complex ones, and change nothing about the grid."""
    monkeypatch.setattr(encoder, "ViT", CloneViT)
    found = all_cases([1008, 1024], ddp=False)
    real = only(found, table="rope_real")
    assert len({case.case for case in found}) == len(found)
    assert {case.outcome for case in found if case.table == "repaired"} == {"ok", "wrong"}  # 1024 px drop pixels
    for adapter in ADAPTERS:
        ends = {row.height: row.cause for row in only(real, encoder="sam3", adapter=adapter, wrapper="none")}
        assert ends == {1008: "", 1024: "grid"}
    wrong = {(row.height, row.width): row.cause for row in only(real, encoder="sam3-shallow", dtype="float32")}
    assert wrong == {(1008, 1008): ""} | dict.fromkeys(NOT_SQUARE, "positions")
    assert {row.outcome for row in real if "replica" in row.wrapper or row.dtype == "bfloat16"} == {"ok"}


def test_torch_is_left_as_it_was_after_a_replica():
    module = importlib.import_module("torch.nn.parallel.replicate")
    before = comm.broadcast_coalesced, module._get_device_index
    table = torch.polar(torch.ones(3), torch.arange(3.0))
    layer = torch.nn.Linear(1, 1)
    layer.register_buffer("table", table)
    assert torch.equal(installed_replica(layer).table, table)  # torch >= 2.11 turns it back
    assert torch.equal(legacy_replica(layer).table, torch.view_as_real(table))
    assert (comm.broadcast_coalesced, module._get_device_index) == before


def test_ddp_over_gloo_with_two_real_processes():
    with ddp_over_gloo() as errors:
        assert errors() == {"as_shipped": "", "repaired": ""}


@pytest.mark.parametrize("ranks", ["1", "01"])
def test_a_process_that_dies_before_it_meets_the_other_is_named_at_once(monkeypatch, ranks):
    popen, dead = subprocess.Popen, []

    def dying(command, **keys):
        if command[3] not in ranks:
            return popen(command, **keys)
        dead.append(popen([*command[:1], "-c", "raise SystemExit('no room')"], **keys))
        return dead[-1]

    monkeypatch.setattr(subprocess, "Popen", dying)
    with pytest.raises(RuntimeError, match="no room"), ddp_over_gloo() as errors:
        for process in dead:
            process.wait()
        errors()


def test_only_free_gpus_are_asked(monkeypatch, capsys):
    asked: list[list[int]] = []

    @contextmanager
    def if_free(stage, count):
        yield ([1], "") if count == 1 else ([], "GPU 0 in use by train@lora")

    monkeypatch.setattr(gpu_lock, "if_free", if_free)
    monkeypatch.setattr(making, "_on_gpu", lambda trunk, numbers, table: asked.append(numbers))
    monkeypatch.setattr(making, "adapt", lambda trunk, adapter: trunk.to("meta"))
    monkeypatch.setattr(torch.nn.Module, "to", lambda module, device: module)
    assert making._on_gpus() == []  # hardware.yaml says cpu here, or there is none
    monkeypatch.setattr(devices, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(gpu_lock, "device_numbers", lambda count: [0, 1])
    making._on_gpus()
    assert asked == [[1], [1]]
    assert capsys.readouterr().out == "no DataParallel on 2 GPU(s): GPU 0 in use by train@lora\n"
