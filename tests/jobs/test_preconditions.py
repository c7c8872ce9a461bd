"""No arm is encoded or trained that the probe refuses; the check costs no import of torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from helpers.engine import environment

from nightshift.console.errors import UserError
from nightshift.core.records import ArmVerdict, Prefix
from nightshift.jobs.preconditions import NO_TRAINING, require_ok

PREFIX = Prefix(blocks=3)
FOLDER = Path("reports/probe/arms")


def test_the_verdict_of_an_arm_that_may_start(checkout):
    verdict = ArmVerdict(ok=True, prefix=PREFIX)
    verdict.write(FOLDER / "wide.json")
    assert require_ok("wide") == verdict


def test_a_refusal_has_cause_and_cure(checkout):
    ArmVerdict(ok=False, cause="RoPE asserts at 1024 px", cure="Set encoder.rope=repaired", prefix=PREFIX).write(
        FOLDER / "wide.json"
    )
    told = r"^the probe refuses arm wide: RoPE asserts at 1024 px. Set encoder.rope=repaired$"
    with pytest.raises(UserError, match=told):
        require_ok("wide")


def test_without_a_verdict_nothing_starts(checkout):
    with pytest.raises(UserError, match=r"arms.wide.json: no such file yet; `dvc repro` makes it$"):
        require_ok("wide")


def test_nothing_is_trained_where_only_the_run_cache_was_asked_for(checkout, monkeypatch):
    ArmVerdict(ok=True, prefix=PREFIX).write(FOLDER / "wide.json")
    monkeypatch.setenv(NO_TRAINING, "1")
    with pytest.raises(UserError, match=r"^arm wide is not trained .*: `dvc repro train@wide` does it$"):
        require_ok("wide")


def test_it_needs_no_torch():
    code = "import sys, nightshift.jobs.preconditions, nightshift.jobs.resources; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, env=environment(), capture_output=True, text=True, check=True).stdout == "False\n"
