"""The probe: every cause that is known has a case that finds it, and the verdict follows the cases, not a version."""

import csv
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nightshift.backbone import encoder
from nightshift.jobs import preconditions as gate
from nightshift.probe import heatmap as matrix
from nightshift.probe import cases as probing
from nightshift.backbone import rope
from nightshift.probe import rope_check as rotation
from nightshift.config import params as settings
from nightshift.probe import summary as verdicts
from nightshift.probe import wrappers as wrapping
from nightshift.console.errors import UserError
from nightshift.core.io import write_json
from nightshift.config.params import Encoder
from stages import probe


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    """All in-process cases of the shipped settings (the test runs in the project's root)."""
    chosen = settings.read()
    quick = chosen.model_copy(update={"probe": chosen.probe.model_copy(update={"ddp": False})})
    return probing.probe_cases(quick)


def only(rows, **what) -> list[dict]:
    return [row for row in rows if all(row[key] == value for key, value in what.items())]


def test_at_least_sixty_cases_each_with_a_name_of_its_own(rows):
    assert len(rows) >= 60
    assert len({row["case"] for row in rows}) == len(rows)
    assert all(tuple(row) == probing.COLUMNS for row in rows)


@pytest.mark.parametrize("adapter", wrapping.ADAPTERS)
def test_the_grid_decides_at_full_size_whatever_the_adapter(rows, adapter):
    found = only(rows, encoder="sam3", adapter=adapter, wrapper="none", table="as_shipped")
    ends = {row["height"]: (row["outcome"], row["cause"], row["block"]) for row in found}
    assert ends.pop(1008) == ("ok", "", "")
    assert ends.pop(1016) == ("wrong", "pixels_dropped", "")
    assert set(ends) == {336, 504, 512, 672, 1022, 1024, 1344}
    assert set(ends.values()) == {("assertion", "grid", 7)}


def test_every_false_pass_is_found_with_its_cause(rows):
    """What runs without an assertion and is wrong, in a trunk as shipped or regenerated without scale."""
    wrong = {(r["height"], r["width"], r["dtype"], r["table"]): r["cause"] for r in only(rows, encoder="sam3-shallow")}
    for size in probing.NOT_SQUARE:
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


def test_a_rotation_that_is_wrong_in_another_way_is_found():
    """A check that only knew the causes above would let these pass: swapped axes, and a table of noise."""
    preset = settings.read_preset("encoder", "sam3", Encoder)
    small = {"img_size": 84, "pretrain_img_size": 42, "embed_dim": 32, "depth": 2, "num_heads": 2, "window_size": 3}
    preset = preset.model_copy(update=small | {"global_blocks": [1], "d_model": 16})
    images = torch.rand(1, 3, 84, 84)
    for spoil, cause in ((lambda table: table.reshape(6, 6, -1).transpose(0, 1).flatten(0, 1), "values"),
                         (lambda table: torch.randn_like(table), "values")):  # fmt: skip
        trunk = encoder.build(preset).trunk
        assert rotation.first_wrong(trunk, images) is None
        attention = trunk.blocks[1].attn
        attention.freqs_cis = spoil(attention.freqs_cis).contiguous()
        found = rotation.first_wrong(trunk, images)
        assert (found.block, found.cause) == (1, cause)
        assert "_apply_rope" not in vars(attention)


def test_replicas(rows):
    legacy = only(rows, wrapper="replica_legacy", table="as_shipped")
    assert {(r["cause"], r["block"], r["table_shape"], r["expected_shape"]) for r in legacy} == {
        ("replica_real_view", 0, "576 x 32 x 2", "576 x 32")
    }
    assert {r["outcome"] for r in only(rows, wrapper="head_only")} == {"ok"}
    repaired = [r for r in rows if "replica" in r["wrapper"] and r["table"] == "repaired"]
    assert len(repaired) == 4 and {r["outcome"] for r in repaired} == {"ok"}


def test_the_verdict_of_the_pinned_torch(rows):
    answers = {name: h["verdict"] for name, h in verdicts.hypotheses(rows).items()}
    assert answers == {
        "lora_wrapper": "refuted", "data_parallel": "refuted", "resolution": "supported", "attention_layer": "refuted",
    }  # fmt: skip
    fixes = verdicts.fixes(rows)
    assert "0 of 9" in fixes["contiguous"] and "wraps the head alone" in fixes["two_gpus"]


def test_the_verdict_follows_the_cases(rows):
    """As on torch 2.9, where the installed replica ends as the legacy one: nothing hangs on a version number."""
    legacy = {r["adapter"]: r for r in only(rows, wrapper="replica_legacy", table="as_shipped")}
    keys = ("outcome", "cause", "block", "table_shape", "expected_shape")
    old = [
        r | {k: legacy[r["adapter"]][k] for k in keys}
        if (r["wrapper"], r["table"]) == ("replica_installed", "as_shipped")
        else r
        for r in rows
    ]
    answer = verdicts.hypotheses(old)["data_parallel"]
    assert answer["verdict"] == "supported" and "576 x 32 x 2" in answer["because"]
    broken = [r | ({"outcome": "error"} if r["case"] == "sam3-1008x1008-peft_attention" else {}) for r in rows]
    assert verdicts.hypotheses(broken)["lora_wrapper"]["cases"] == ["sam3-1008x1008-peft_attention"]
    native = [r | ({"outcome": "wrong"} if r["case"] == "sam3-shallow-1008x1008" else {}) for r in rows]
    assert verdicts.hypotheses(native)["attention_layer"]["verdict"] == "supported"


def test_sizes_and_their_cost():
    full = settings.read_preset("encoder", "sam3", Encoder)
    sizes = {s["side"]: s for s in verdicts.resolutions(full)}
    assert sizes[1008]["relative_flops"] == sizes[1008]["relative_activations"] == 1
    assert sizes[504]["window_padding"] == round(1 - 36**2 / 48**2, 3) and sizes[672]["window_padding"] == 0
    assert verdicts.recommended(list(sizes.values()), 512) == 672
    assert verdicts.recommended(list(sizes.values()), 2000) == 1344


@pytest.mark.parametrize(
    ("values", "cause", "cure"),
    [
        (
            {"encoder.resolution": 70, "encoder.rope": "as_shipped"},
            "the table of block 1 is 16 x 8",
            "rope to repaired",
        ),
        ({"encoder.resolution": 60}, "the last 4 rows", "multiple of 14, 56"),
    ],
)
def test_a_failing_verdict_stops_the_arm(small, values, cause, cure):
    chosen = small(values)
    verdict = verdicts.arm_verdict(probing.configured(chosen, "peft"), chosen)
    assert verdict["ok"] is False and cause in verdict["cause"] and cure in verdict["cure"]
    write_json(Path("reports/probe/lora.json"), verdict)
    with pytest.raises(UserError, match="the probe refuses the lora arm"):
        gate.require_ok("lora")


def test_repaired_any_multiple_of_the_patch_is_ok(small):
    chosen = small({"encoder.resolution": 70})
    for adapter in ("none", "peft"):
        assert verdicts.arm_verdict(probing.configured(chosen, adapter), chosen)["ok"]


def test_the_picture_shows_every_cause_and_is_reproducible(rows):
    svg = matrix.matrix(rows)
    assert svg == matrix.matrix(rows)
    assert all(matrix.COLOURS[row["cause"] or row["outcome"]] in svg for row in rows)


def test_alone_it_answers_a_question_and_writes_nothing(checkout, capsys):
    (checkout / "params.yaml").unlink()
    probe.main(["--sides", "1024", "--adapters", "lora_by_hand"])
    said = capsys.readouterr().out
    assert "sam3-1024x1024-lora_by_hand  assertion  grid" in said and f"tested: {rope.SAM3}" in said
    assert not (checkout / "reports").exists()


def test_it_says_what_the_tables_of_a_weights_file_are_made_for(checkout, capsys):
    tables = {f"detector.backbone.vision_backbone.trunk.blocks.{i}.attn.freqs_cis": n for i, n in enumerate((4, 9, 9))}
    state = {name: torch.zeros(n * n, 32, dtype=torch.complex64) for name, n in tables.items()}
    torch.save({"model": state}, "sam3.pt")
    save_file({name: torch.view_as_real(value) for name, value in state.items()}, "sam3.safetensors")
    for name in ("sam3.pt", "sam3.safetensors"):
        probe.main(["--weights", name])
        said = capsys.readouterr().out
        assert "2 blocks are for 9 x 9 tokens, 126 px" in said
    Path("bad.pt").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
    save_file({"a": torch.zeros(1)}, "none.safetensors")
    for name in ("bad.pt", "none.safetensors", "absent.pt"):
        with pytest.raises(UserError, match=name):
            probe.main(["--weights", name])
    assert not Path("owned").exists()


@pytest.mark.slow
def test_ddp_over_gloo_with_two_real_processes():
    preset = settings.read_preset("encoder", "tiny", Encoder)
    assert wrapping.ddp_over_gloo(preset) == {"as_shipped": "", "repaired": ""}


def test_the_contract_columns(rows, tmp_path):
    probe.write_csv(tmp_path / "cases.csv", probing.COLUMNS, rows)
    with (tmp_path / "cases.csv").open(encoding="utf-8") as handle:
        outcomes = {row["outcome"] for row in csv.DictReader(handle)}
    assert outcomes == {"ok", "assertion", "wrong", "error"}
