"""A run that is killed anywhere goes on after its last checkpoint, and ends with the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.engine import SLOW, environment, folded, outputs, resolve, stage, whole

from nightshift import feature_cache
from nightshift.commands import watching
from nightshift.config import params, resolved
from nightshift.console.errors import UserError
from nightshift.core.hashing import hash_folder
from nightshift.core.io import read_json, remove
from nightshift.core.records import Prefix
from nightshift.engine import checkpoints
from nightshift.training import state
from nightshift.training.arm import train_arm


def clean(arm: str) -> None:
    """What DVC does before it runs a stage: its outputs go; and here the checkpoints of an undisturbed run."""
    for folder in (Path("data/encoded") / arm, Path("models") / arm, checkpoints.FOLDER):
        remove(folder)


OPTIONS = {"augment.variants": 2, "train.loss": {"cldice": 0.5, "from_epoch": 2}, "train.ema": 0.9}
FEW = [("encode", "shard", 2), ("train", "step", 5)]
EVENTS = [
    ("encode", "shard", 2),
    ("encode", "after_move", 1),
    ("train", "step", 2),
    ("train", "step", 5),
    ("train", "inside_write", 1),
    ("train", "after_rename", 3),
    ("train", "before_move", 1),
    ("train", "after_move", 1),
]


@pytest.mark.parametrize(
    "arm, events, values",
    [
        ("lora", FEW, {}),
        pytest.param("unet", [("train", "step", 5)], OPTIONS, marks=pytest.mark.slow),
        pytest.param("lora", EVENTS, {}, marks=pytest.mark.slow),
        pytest.param("lora", EVENTS, OPTIONS, marks=pytest.mark.slow),
        pytest.param("frozen", EVENTS, {}, marks=pytest.mark.slow),
        pytest.param("full", EVENTS[2:], {}, marks=pytest.mark.slow),
        pytest.param("unet", EVENTS[2:], {}, marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_it_ends_with_the_same_bytes(project, change, arm, events, values):
    change(values)
    resolve()
    whole(arm)
    expected = outputs(arm)
    clean(arm)
    for step, event, number in events:
        if step == "train" and not (Path("data/encoded") / arm).exists():
            assert stage(f"encode@{arm}").returncode == 0
        killed = stage(f"{step}@{arm}", event, number)
        assert killed.returncode == -signal.SIGKILL, (event, killed.stderr)
        if event in ("before_move", "step", "inside_write", "after_rename"):
            assert not (Path("models") / arm).exists()
        remove(Path("models") / arm)
        again = stage(f"{step}@{arm}")
        assert again.returncode == 0, again.stderr
        went_on = {"shard": "going on after", "step": "going on in epoch", "after_rename": "going on in epoch"}
        went_on["after_move"] = f"{step}@{arm}: taken from the run that finished at "
        if event in went_on:
            assert went_on[event] in again.stdout, (event, again.stdout)
        if step == "train":
            assert outputs(arm) == expected, event
            remove(checkpoints.FOLDER / f"train@{arm}")
            remove(Path("models") / arm)


@pytest.mark.slow
def test_folds_killed_ten_times_at_random_end_with_the_same_bytes(project, change):
    """Models and predictions; each time something else of the five folds is done already."""
    folded(change, 5, "lora")
    for step in ("train", "evaluate"):
        assert stage(f"{step}@lora").returncode == 0
    made = [Path("models/lora"), Path("reports/evaluation/lora")]
    expected = hash_folder(*made)
    for one in (*made, checkpoints.FOLDER):
        remove(one)
    random = np.random.default_rng(0)
    for _ in range(10):
        killed = stage("train@lora", "step", int(random.integers(1, 10)))  # of 20 steps
        assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr
        assert killed.returncode == 0 or not Path("models/lora").exists()
    for step in ("train", "evaluate"):
        assert stage(f"{step}@lora").returncode == 0
    assert hash_folder(*made) == expected


# `python -m stages.train lora`, which begins when two processes have imported everything: on a busy machine one would
# else have trained all folds before the other one begins.
TOGETHER = """
import os, pathlib, time
import nightshift.arms.lora, nightshift.training.arm, stages.train
ready = pathlib.Path(os.environ["DVC_ROOT"], "ready")
ready.mkdir(exist_ok=True)
(ready / str(os.getpid())).touch()
while len(list(ready.iterdir())) < 2:
    time.sleep(0.01)
stages.train.main("lora")
"""


def test_two_workers_share_the_folds_of_an_arm(project, change):
    """Each fold is trained by one of them, and both end with all models."""
    folded(change, 5, "lora")
    resolve()
    command = [sys.executable, "-c", TOGETHER]
    shutil.copytree(Path.cwd(), "../second")
    places = {"cwd": Path.cwd()}, {"cwd": Path("../second").resolve()}
    environments = (environment() | {"DVC_ROOT": str(Path.cwd())} for _ in places)
    both = [
        subprocess.Popen(command, **place, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for place, env in zip(places, environments, strict=True)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    trained = [line for out, _ in said for line in out.splitlines() if ": epoch 2/2" in line]
    assert sorted(line.split(",")[1] for line in trained) == [f" fold {fold}" for fold in range(5)]
    assert all(": epoch 2/2" in out for out, _ in said)
    assert hash_folder(Path("models/lora")) == hash_folder(Path("../second/models/lora"))


def test_other_settings_do_not_go_on_with_it(project, change):
    assert stage("encode@frozen").returncode == 0
    assert stage("train@frozen", "step", 3).returncode == -signal.SIGKILL
    change({"train.learning_rate": 0.001})
    other = stage("train@frozen")
    assert other.returncode == 0 and "going on" not in other.stdout
    change({"train.learning_rate": 0.003})
    assert "going on in epoch" in stage("train@frozen").stdout


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM, None])
def test_a_signal_or_a_file_writes_a_checkpoint_and_ends_in_one_line(project, number):
    assert stage("encode@frozen").returncode == 0
    Path("hardware.yaml").write_text("device: cpu\nthreads: 1\n")
    done = stage("train@frozen", "gradient", 2, by=number)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: stopped in epoch 1; the same command goes on from there"
    assert not list(Path(".nightshift").glob("stop/*"))
    assert "going on in epoch 1, after 2 batches" in stage("train@frozen").stdout


def test_a_full_disk_is_one_line_and_leaves_the_last_result(project):
    whole("frozen")
    before = outputs("frozen")
    remove(checkpoints.FOLDER)
    done = stage("train@frozen", "full")
    assert done.returncode == 1
    assert done.stderr.strip() == "error: models/x: no space left; free some and run the same command again"
    assert outputs("frozen") == before
    assert not list(Path("models").glob(".*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt" or os.getuid() != 0, reason="mounting a small disk takes root")
def test_a_disk_that_is_really_full_is_one_line_and_leaves_the_last_result(project):
    """models/ on a disk of its own with room for what is there and half of it again."""
    whole("frozen")
    before, kept = outputs("frozen"), Path("kept")
    Path("models").rename(kept)
    Path("models").mkdir()
    size = sum(path.stat().st_size for path in kept.rglob("*.*"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size * 3 // 2}", "tmpfs", "models"], check=True)
    try:
        shutil.copytree(kept, "models", dirs_exist_ok=True)
        done = stage("train@frozen")
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("error: ") and "no space left" in done.stderr
        assert outputs("frozen") == before and not list(Path("models").glob(".*"))
        assert list((checkpoints.FOLDER / "train@frozen").rglob("*.safetensors"))
    finally:
        subprocess.run(["umount", "models"], check=True)


def test_a_disk_too_small_for_the_tokens_is_refused_before_it_starts(project, monkeypatch):
    monkeypatch.setattr("nightshift.feature_cache.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    resolve()
    settings = resolved.read("arms/frozen/encode", feature_cache.EncodeSettings)
    with pytest.raises(UserError, match=r"the tokens of 9 cases take .* are free; free some"):
        feature_cache.encode_arm("frozen", settings, Prefix(blocks=3))
    assert not Path("data/encoded").exists()


def test_a_place_that_cannot_be_written_is_one_line_before_training(project):
    assert stage("encode@frozen").returncode == 0
    remove(Path("models"))
    Path("models").write_text("a file")
    done = stage("train@frozen")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert Path("models").read_text() == "a file"


def test_out_of_memory_names_what_to_lower(project, change, monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(state, "add_gradients", short)
    for arm in ("frozen", "lora"):
        assert stage(f"encode@{arm}").returncode == 0
        with pytest.raises(UserError, match=rf"2 case\(s\) at a time; less: -S \+\+arms.{arm}.micro_batch=1;"):
            train_arm(params.read().arm(arm))
    change({"train.micro_batch": 1})
    with pytest.raises(UserError, match=r"-S \+\+arms.lora.activation_checkpointing=true"):
        train_arm(params.read().arm("lora"))
    with pytest.raises(UserError, match=r"lower encoder.resolution"):
        train_arm(params.read().arm("frozen"))


def test_the_log_of_a_run_reads_well(project):
    whole("frozen")
    lines = stage("train@frozen").stdout.splitlines()
    assert lines[-1] == "frozen arm, 1 model(s): models/frozen"
    cost = read_json("reports/cost/frozen/train.json")
    assert cost["parameters_trained"] > 0 and cost["seconds_per_epoch"] > 0
    assert cost["cases_per_second"] == pytest.approx(5 / cost["seconds_per_epoch"], rel=0.05)
    encoded = read_json("reports/cost/frozen/encode.json")
    assert (encoded["cases"], encoded["cases_before"]) == (9, 0) and encoded["cases_per_second"] > 0


@pytest.mark.slow
def test_the_time_of_a_killed_run_counts(project):
    assert stage("encode@frozen").returncode == 0
    assert stage("train@frozen", "slow_gradient", 7).returncode == -signal.SIGKILL
    assert stage("train@frozen").returncode == 0
    cost = read_json("reports/cost/frozen/train.json")
    assert cost["seconds"] >= 3 * cost["seconds_per_epoch"] > 6 * SLOW  # 6 of 9 steps were slow, and checkpointed


def test_a_real_training_is_seen_and_its_death_too(project, change):
    change({"train.epochs": 200})
    assert stage("encode@lora").returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.train", "lora"],
        env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (seen := watching.view().trainings) or not seen[0].curve:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    assert (seen[0].state, seen[0].name, seen[0].running.device) == ("running", "lora, fold 0, seed 0", "cpu")
    process.kill()
    process.wait()
    assert watching.view().trainings[0].state == "dead"
