"""The GPU's rows of `make bench`, on the CPU and very small: that they run and what they count, not how fast."""

import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from benchmarks import arms, gpu
from nightshift.backbone import encoder
from nightshift.engine.device import seed_everything

CPU = torch.device("cpu")


def test_encoding_counts_what_the_products_cost(small):
    settings = small({"encoder.precision": "bf16"})
    rows = {row["name"]: row["value"] for row in gpu.encode_rows(settings, CPU, side=64)}
    assert set(rows) == {"encode_tflops", "encode_over_matmul_peak"} and all(value > 0 for value in rows.values())


def test_the_counted_products_are_those_of_the_trunk(small, monkeypatch):
    """Twice the multiplications of every Linear, patch embedding and attention, by hand."""
    settings, counted = small({"encoder.precision": "bf16"}), []
    real = gpu.FlopCounterMode.get_total_flops
    monkeypatch.setattr(gpu.FlopCounterMode, "get_total_flops", lambda self: counted.append(real(self)) or counted[0])
    list(gpu.encode_rows(settings, CPU, side=64))
    trunk, tokens = encoder.build(settings.preset).trunk, 4 * 4 * 4
    weights = sum(m.weight.numel() for m in trunk.modules() if isinstance(m, torch.nn.Linear | torch.nn.Conv2d))
    attended = 4 + 16 + 16  # keys of a query: the window of block 0, everything in blocks 1 and 2
    assert counted[0] == 2 * tokens * (weights + 2 * attended * settings.preset.embed_dim)


@pytest.mark.parametrize(
    "compiled",
    [False, pytest.param(True, marks=[pytest.mark.slow, pytest.mark.skipif(not shutil.which("g++"), reason="no g++")])],
)
def test_a_step_of_the_lora_arm_is_timed(small, compiled):
    seed_everything(0)
    rows = list(gpu.step_rows(small({}, "lora"), CPU, compiled))
    word = "on" if compiled else "off"
    assert [row["name"] for row in rows] == [
        f"lora_step_1008_batch2_compile_{word}_{what}" for what in ("seconds", "peak")
    ]
    assert rows[0]["value"] > 0


def test_the_command_says_what_it_measures():
    command = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "reports/benchmark.json" in done.stdout


def test_the_rows_of_arms_keep_their_names_whatever_arms_params_has(small, change, monkeypatch):
    """On the very small encoder."""
    small()
    change({"arms": {"one": {"kind": "frozen"}}, "compare.reference": "one"})
    sides = {336: 28, 504: 56, 1008: 56}
    read = arms._settings
    monkeypatch.setattr(arms, "_settings", lambda arm, side: read(arm.replace("last: 8", "last: 1"), sides[side]))
    monkeypatch.setattr(arms, "ENCODER", "mini")
    monkeypatch.setattr(arms, "PAIRS", 1)
    names = [row["name"] for row in arms.rows()]
    assert names == [
        "frozen_epoch_cached_over_uncached",
        "lora_last8_cached_over_all",
        "lora_last8_cached_over_uncached",
        "lora_step_over_transformers_peft",
    ]
