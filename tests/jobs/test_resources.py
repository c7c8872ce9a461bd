"""Costs: written when a stage ends well, with the time of the processes before."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from nightshift.core.io import write_text
from nightshift.core.records import Cost
from nightshift.jobs import resources

FILE = Path("reports/cost/wide/train.json")


def test_what_a_stage_took_is_a_record(checkout):
    (checkout / "hardware.yaml").write_text("threads: 1\n")
    with resources.recorded("wide", "train") as record:
        time.sleep(0.01)
        record |= {"parameters_trained": 7, "seconds_before": 1000.0, "cases_per_second": 2.5}
    cost = Cost.read(FILE)
    assert (cost.stage, cost.parameters_trained, cost.cases_per_second, cost.cases) == ("train@wide", 7, 2.5, None)
    assert 1000.01 <= cost.seconds < 1060 and cost.threads == 1
    assert 2**20 < cost.peak_memory_bytes < 2**40 and cost.peak_device_memory_bytes >= 0
    assert cost.machine.keys() == {"system", "processor", "cores", "gpu"}
    assert cost.revision == "unknown"  # this folder is in no git repository


def test_a_stage_that_fails_has_no_cost(checkout):
    with pytest.raises(ZeroDivisionError), resources.recorded("wide", "train"):
        raise ZeroDivisionError
    assert not FILE.exists()


def test_a_key_that_no_reader_knows_is_a_bug(checkout):
    with pytest.raises(ValidationError), resources.recorded("wide", "train") as record:
        record["case"] = 1


def test_the_revision_tells_of_edits_but_not_of_what_the_run_writes(checkout):
    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True
        )

    for path in ("code.py", "dvc.lock", "stages/dvc.lock", "reports/a"):
        write_text(path, "1")
    git("init")
    git("add", ".")
    git("commit", "-m", "x")
    clean = resources.revision()
    assert len(clean) == 12
    for path in ("dvc.lock", "stages/dvc.lock", "reports/a", "untracked.py"):
        write_text(path, "2")
    assert resources.revision() == clean
    write_text("code.py", "2")
    assert resources.revision() == f"{clean}+"


def test_the_peak_is_that_of_the_process_itself_not_of_the_one_that_started_it():
    large = b"\1" * 600_000_000  # resident here when the other one starts
    code = "from nightshift.jobs.resources import peak_memory; print(peak_memory())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(large) < resources.peak_memory()
