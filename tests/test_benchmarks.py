"""The GPU's rows of `make bench`, on the CPU and very small: that they run and what they count, not how fast."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from benchmarks import arms, gpu, gpu_encode, gpu_part, gpu_rows, gpu_steps, timing
from nightshift.backbone import encoder
from nightshift.engine.device import seed_everything

CPU = torch.device("cpu")


@pytest.fixture
def bench(small, monkeypatch):
    """Of the very small encoder, on the CPU."""
    small()
    monkeypatch.setattr(gpu_rows.Bench, "settings", lambda self, arm, *changes: small({}, arm))
    return gpu_rows.Bench(CPU, True, Path("kernels.txt"))


def test_encoding_counts_what_the_products_cost(bench):
    rows = {row["name"]: row["value"] for row in gpu_rows.collected(gpu_encode.measurements(bench))}
    for variant in gpu_steps.VARIANTS:
        name = f"encode_batch4/{variant}"
        assert rows[f"{name}.seconds_per_case"] > 0 and rows[f"{name}.share_of_peak"] > 0
        assert rows[f"{name}.difference"] < 0.01


def test_the_counted_products_are_those_of_the_trunk(small):
    """Twice the multiplications of every Linear, patch embedding and attention, by hand."""
    settings = small({"encoder.precision": "bf16"})
    encoding = gpu_encode.Encoding(settings, gpu_rows.Bench(CPU, True, Path("kernels.txt")))
    trunk, tokens = encoder.build(settings.preset).trunk, 4 * 4 * 4
    weights = sum(m.weight.numel() for m in trunk.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))
    attended = 4 + 16 + 16  # keys of a query: the window of block 0, everything in blocks 1 and 2
    assert encoding.flops == 2 * tokens * (weights + 2 * attended * settings.preset.embed_dim)


def test_products_in_place_are_counted():
    own, one, other = torch.zeros(5, 7), torch.ones(5, 3), torch.ones(3, 7)
    assert gpu_rows.flops_of(lambda: own.addmm_(one, other)) == 2 * 5 * 3 * 7


@pytest.mark.parametrize("variant", gpu_steps.VARIANTS)
def test_a_step_of_the_lora_arm_is_timed_and_has_the_same_gradients(bench, variant):
    seed_everything(0)
    rows = {row["name"]: row["value"] for row in gpu_steps.Stepping("lora", 2, bench).rows(variant)}
    assert rows[f"lora_batch2/{variant}.seconds_per_case"] > 0
    assert rows[f"lora_batch2/{variant}.difference"] < 1e-4


def test_out_of_memory_in_one_row_is_said_and_the_rest_goes_on(tmp_path, capsys):
    def too_much():
        yield timing.row("large.seconds_per_case", 1.0, "s")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 36 GiB")

    measurements = [
        ("large", too_much),
        ("wrong", lambda: 1 / 0),
        ("small", lambda: [timing.row("small.memory", 2.0, "GB")]),
    ]
    gpu_part.write_rows(tmp_path / "rows.json", gpu_rows.collected(measurements))
    rows = {row["name"]: row for row in gpu_part.read_rows(tmp_path / "rows.json")}
    assert rows["large"]["note"].startswith("out of memory: CUDA out of memory")
    assert rows["wrong"]["note"] == "ZeroDivisionError: division by zero"
    assert rows["large.seconds_per_case"]["value"] == 1 and rows["small.memory"]["value"] == 2
    assert "out of memory" in capsys.readouterr().out


def test_the_table_has_the_memory_beside_the_plan():
    rows = [
        timing.row("lora_batch4/as_it_is.seconds_per_case", 0.06, "s"),
        timing.row("lora_batch4/as_it_is.memory", 33.0, "GB"),
        timing.row("lora_batch4.plan", 36.0, "GB"),
        timing.noted("lora_batch9", "out of memory"),
    ]
    lines = gpu.table(rows)
    assert lines[-1].split() == ["lora_batch4/as_it_is", "0.0600", "33.0000", "36.0000"]
    assert "out of memory" in lines[0]


def test_the_command_says_what_it_measures():
    command = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "reports/benchmark.json" in done.stdout


def test_the_rows_of_arms_keep_their_names_whatever_arms_params_has(small, change, monkeypatch):
    """On the very small encoder."""
    small()
    change({"arms": {"one": {"kind": "frozen"}}, "compare.reference": "one"})
    sides = {504: 56, 672: 28, 1008: 56}
    read = arms._settings
    monkeypatch.setattr(arms, "_settings", lambda arm, side: read(arm.replace("last: 8", "last: 1"), sides[side]))
    monkeypatch.setattr(arms, "ENCODER", "mini")
    monkeypatch.setattr(arms, "PAIRS", 1)
    names = [row["name"] for row in arms.rows()]
    assert names == [
        "frozen_epoch_cached_over_uncached",
        "lora_last8_cached_over_all",
        "lora_last8_cached_over_uncached",
        "rotation_over_before",
        "lora_step_over_transformers_peft",
    ]
