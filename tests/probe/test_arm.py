"""An arm's own verdict: the configured encoder with what the arm puts into it."""

import json
from pathlib import Path

import pytest

from nightshift.config import params, resolved
from nightshift.console.errors import UserError
from nightshift.jobs.preconditions import require_ok
from stages import probe_arm


def verdict(arm: str) -> dict:
    """What the stage writes for the present params.yaml."""
    resolved.write_all(params.read())
    probe_arm.main(arm)
    return json.loads(Path(f"reports/probe/arms/{arm}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("arm", ["frozen", "lora"])
def test_tables_as_shipped_at_another_size_stop_the_arm(small, arm):
    small({"encoder.resolution": 70, "encoder.rope": "as_shipped"})
    found = verdict(arm)
    assert found["ok"] is False
    assert found["cause"] == "at 70 px the table of block 1 is 16 x 8 and the tokens need 25 x 8"
    assert found["cure"] == "Set encoder.rope to repaired, or encoder.resolution to 56, which the tables are made for"
    with pytest.raises(UserError, match=f"arm {arm}: at 70 px the table of block 1 .* Set encoder.rope to repaired"):
        require_ok(arm)


@pytest.mark.parametrize("resolution", ["native", 70])
def test_repaired_any_multiple_of_the_patch_is_ok(small, resolution):
    small({"encoder.resolution": resolution})
    expected = {"ok": True, "cause": "", "cure": ""}
    assert verdict("frozen") == expected | {"prefix": {"blocks": 3, "output": "tokens"}}
    assert verdict("lora") == expected | {"prefix": {"blocks": 1, "output": "tokens"}}
    require_ok("lora")


def test_the_prefix_follows_the_arm_and_nothing_else_does(small):
    """What encode@ARM depends on: no setting of a LoRA layer changes a byte of it but the first adapted block."""
    small({"arms.frozen.level": "neck"})
    assert verdict("frozen")["prefix"] == {"blocks": 3, "output": "levels"}
    before = verdict("lora")
    small({"arms.lora.rank": 3, "arms.lora.alpha": 1.0, "arms.lora.targets": ["attn.qkv"], "train.epochs": 9})
    assert verdict("lora") == before
    small({"arms.lora.blocks": [2]})
    assert verdict("lora") == before | {"prefix": {"blocks": 2, "output": "tokens"}}
