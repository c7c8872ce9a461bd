"""Stages as processes of their own, that may kill themselves (SIGKILL) at some event, for tests of what is left."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.models import UNET

from nightshift.config import params, resolved
from nightshift.core.hashing import hash_folder
from nightshift.core.io import read_csv
from nightshift.core.records import ArmVerdict, Fold, Folds
from nightshift.data.locations import FOLDS, FRAMES, PREPARED
from nightshift.model.kinds import prefix_of

SLOW = 0.5  # seconds that a step takes in the event `slow_gradient`

# Runs a stage, and kills the process before or after the N-th of some kind of event.
KILLED = f"""
SLOW = {SLOW}
import os, signal, sys, time
from importlib import import_module
event, number, stage, arm = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
from nightshift import feature_cache
from nightshift.console.errors import run
from nightshift.core import records
from nightshift.engine import checkpoints
from nightshift.model import weights_file
from nightshift.training import state
count = 0
def dies(after):
    def wrap(function):
        def wrapped(*arguments, **options):
            global count
            count += 1
            if count == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if count == number and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return wrapped
    return wrap
feature_cache.LIMIT = 2**13  # bytes: four cases to a shard
if event == "shard":
    feature_cache.save_file = dies(True)(feature_cache.save_file)
elif event == "step":
    state.TrainingState.step = dies(True)(state.TrainingState.step)
elif event == "gradient":
    state.add_gradients = dies(True)(state.add_gradients)
elif event == "slow_gradient":
    real_gradients = dies(True)(state.add_gradients)
    def slow(*arguments):
        time.sleep(SLOW)
        return real_gradients(*arguments)
    state.add_gradients = slow
elif event == "inside_write":
    real = checkpoints.save_file
    def half(tensors, path, metadata):
        real(tensors, path, metadata=metadata)
        os.truncate(path, path.stat().st_size // 2)
    checkpoints.save_file = dies(True)(half) if number == 1 else dies(True)(real)
elif event == "after_rename":
    checkpoints._states = dies(False)(checkpoints._states)
elif event == "before_move":
    checkpoints.finished = dies(False)(checkpoints.finished)
elif event == "after_move":
    records.Cost.write = dies(False)(records.Cost.write)
elif event == "full":
    def full(*arguments, **options):
        raise OSError(28, "No space left on device", "models/x")
    weights_file.save_file = full
run(lambda: import_module(f"stages.{{stage}}").main(arm))
"""


@pytest.fixture
def project(small, prepared) -> Path:
    """Miniature settings with prepared cases and a probe that lets all arms pass; a checkpoint after every batch."""
    small({"train.epochs": 3, "arms.lora.dropout": 0.3, "arms.full": {"kind": "full", "neck": True}, "arms.unet": UNET})
    Path("hardware.yaml").write_text("device: cpu\nthreads: 1\ncheckpoint_minutes: 0\n")
    settings = params.read()
    for name in settings.arms:
        arm = settings.arm(name)
        ArmVerdict(ok=True, prefix=prefix_of(arm)).write(Path("reports/probe/arms") / f"{name}.json")
    return Path.cwd()


def resolve() -> None:
    """What the stage `inputs` does before another one: the present settings become those that stages read."""
    resolved.write_all(params.read())


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)}


def stage(
    name: str, event: str = "none", number: int = 0, by: signal.Signals | None = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    """Run a stage, such as `train@lora`, with the present settings; at the N-th event it sends itself a signal.

    With `by` None it asks itself to stop by a file.
    """
    resolve()
    step, arm = name.split("@")
    itself = "os.kill(os.getpid(), signal.SIGKILL)"
    asks = "checkpoints.ask_to_stop(os.getpid())" if by is None else f"os.kill(os.getpid(), {int(by)})"
    code = KILLED.replace(itself, asks)
    command = [sys.executable, "-c", code, event, str(number), step, arm]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def whole(arm: str) -> None:
    """Encode and train the arm."""
    for step in ("encode", "train"):
        done = stage(f"{step}@{arm}")
        assert done.returncode == 0, done.stderr


def outputs(arm: str) -> tuple[str, str]:
    """Hashes of what the arm's stages made."""
    return hash_folder(Path("data/encoded") / arm), hash_folder(Path("models") / arm)


def folded(change, count: int, arm: str) -> None:
    """The prepared cases in `count` folds instead of one, encoded."""
    change({"train.epochs": 2})
    ids = [row["case_id"] for row in read_csv(PREPARED / FRAMES / "cases.csv")]
    parts = [(ids[i::count], ids[(i + 1) % count :: count]) for i in range(count)]  # tested, and chosen by
    folds = [Fold(train=[c for c in ids if c not in (*test, *val)], val=val, test=test) for test, val in parts]
    Folds(folds=folds).write(PREPARED / FOLDS)
    assert stage(f"encode@{arm}").returncode == 0
