"""Several processes train as one does: gloo, real processes, spawned by the stage or started by torchrun."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers.engine import environment, folded, stage
from safetensors.torch import load_file

from nightshift.core.hashing import hash_folder
from nightshift.core.io import read_json, remove
from nightshift.data.shards import Shards
from nightshift.engine import checkpoints

HARDWARE = "device: cpu\nthreads: 1\nprocesses: {}\n"


def trained(processes: int, arm: str = "lora") -> dict[str, torch.Tensor]:
    """The parameters that were trained, of the best epoch."""
    Path("hardware.yaml").write_text(HARDWARE.format(processes))
    remove(checkpoints.FOLDER)
    for name in (f"encode@{arm}", f"train@{arm}"):
        done = stage(name)
        assert done.returncode == 0, done.stderr
    files = Path(f"models/{arm}/fold-0/seed-0").glob("*.safetensors")
    return {name: value for file in files for name, value in load_file(file).items()}


def kept() -> dict[str, bytes]:
    """The arrays of the prefix by name, whatever their files."""
    shards = Shards(Path("data/encoded/lora"))
    return {name: shards[name].tobytes() for name in shards.index}


def test_two_processes_train_as_one_does(project, change):
    # 5 cases in batches of 2: 21 steps, the last of an epoch uneven. At width 8 the norms have groups of one channel: a
    # bias before them has no gradient but rounding, which Adam makes as large as any.
    change({"train.epochs": 7, "arms.lora.dropout": 0.0, "arms.lora.init": "eva", "head.width": 32})
    one = trained(1)
    card = read_json("models/lora/fold-0/seed-0/card.json")
    tokens = kept()
    two = trained(2)
    assert kept() == tokens and len(tokens) == 9
    difference = sum((one[name] - two[name]).norm() ** 2 for name in one) ** 0.5
    assert difference / sum(value.norm() ** 2 for value in one.values()) ** 0.5 <= 1e-5
    assert read_json("models/lora/fold-0/seed-0/card.json")["epoch"] == card["epoch"]
    assert read_json("reports/cost/lora/train.json")["processes"] == 2
    assert len(list(Path("models/lora/fold-0/seed-0").iterdir())) == 4


SLOWED = """
import os, time
from datetime import timedelta
if "RANK" in os.environ:  # as the launcher sets it: not in the process that starts the two
    from torch.distributed import distributed_c10d
    from nightshift import feature_cache
    encode = feature_cache._features
    distributed_c10d._get_default_timeout = lambda backend: timedelta(seconds=2)
    feature_cache.LIMIT = feature_cache.BATCH = 1  # a case per shard
    def slow(*arguments):
        time.sleep(3 if os.environ["RANK"] == "1" else 1)
        print("encoded by", os.environ["RANK"], flush=True)
        return encode(*arguments)
    feature_cache._features = slow
"""


@pytest.mark.slow
def test_a_process_that_encodes_three_times_slower_takes_fewer_cases_and_is_waited_for(project, change, tmp_path):
    """Longer than torch's own time-out, which is 2 seconds here: without ours the other process would give up."""
    (tmp_path / "sitecustomize.py").write_text(SLOWED)
    Path("hardware.yaml").write_text(HARDWARE.format(1))
    assert stage("encode@lora").returncode == 0
    alone = kept()
    remove(checkpoints.FOLDER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    path = os.pathsep.join((str(tmp_path), environment()["PYTHONPATH"]))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "stages.encode", "lora"],
            env=environment() | place | {"RANK": rank, "LOCAL_RANK": rank, "PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in "01"
    ]  # fmt: skip
    printed = [process.communicate() for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], printed
    by_each = [out.count("encoded by") for out, _ in printed]
    assert sum(by_each) == 9 and 1 <= by_each[1] <= 4
    assert kept() == alone


@pytest.mark.slow
def test_in_float16_a_process_without_a_case_waits_for_the_others_and_a_line_says_so(project, change):
    change({"train.epochs": 2, "train.batch_size": 1, "encoder.precision": "fp16"})
    Path("hardware.yaml").write_text(HARDWARE.format(2))
    assert stage("encode@lora").returncode == 0
    done = stage("train@lora")
    assert done.returncode == 0, done.stderr
    assert "1 of 2 processes have no case of a batch; raise train.batch_size" in done.stdout


@pytest.mark.slow
def test_two_processes_take_a_fold_each_and_end_as_one_process_does(project, change):
    folded(change, 4, "frozen")
    Path("hardware.yaml").write_text(HARDWARE.format(1))
    assert stage("train@frozen").returncode == 0
    alone = hash_folder(Path("models/frozen"))
    Path("hardware.yaml").write_text(HARDWARE.format(2))
    remove(checkpoints.FOLDER / "train@frozen")
    done = subprocess.run(
        [sys.executable, "-m", "stages.train", "frozen"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if ": epoch 2/2" in line]
    assert sorted(line.split(",")[1] for line in lines) == [f" fold {fold}" for fold in range(4)]
    assert hash_folder(Path("models/frozen")) == alone


@pytest.mark.slow
def test_two_killed_processes_go_on_to_the_same_bytes(project, change):
    change({"train.epochs": 40})
    Path("hardware.yaml").write_text(HARDWARE.format(2) + "checkpoint_minutes: 0\n")
    assert stage("encode@lora").returncode == 0
    assert stage("train@lora").returncode == 0
    expected = hash_folder(Path("models/lora"))
    remove(checkpoints.FOLDER / "train@lora")
    remove(Path("models/lora"))
    command = [sys.executable, "-m", "stages.train", "lora"]
    parent = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL)
    while not list(checkpoints.FOLDER.glob("train@lora/*/*.safetensors")):
        time.sleep(0.05)
    processes = psutil.Process(parent.pid).children(recursive=True)
    assert len(processes) >= 2
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert not psutil.wait_procs(processes, timeout=20)[1], "processes outlived their parent"
    assert not Path("models/lora").exists()
    again = stage("train@lora")
    assert again.returncode == 0 and "going on in epoch" in again.stdout, again.stderr
    assert hash_folder(Path("models/lora")) == expected


@pytest.mark.slow
def test_ctrl_c_reaches_all_processes_twice_and_writes_a_checkpoint(project, change):
    """A terminal sends SIGINT to the whole group, and the parent passes its own on."""
    change({"train.epochs": 2000})
    Path("hardware.yaml").write_text(HARDWARE.format(2))
    assert stage("encode@frozen").returncode == 0
    command = [sys.executable, "-m", "stages.train", "frozen"]
    run = subprocess.Popen(command, env=environment(), start_new_session=True, text=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
    while not list(checkpoints.FOLDER.glob("train@frozen/*/*.safetensors")):
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    assert "error: stopped in epoch" in run.communicate(timeout=60)[1]
    assert run.returncode == 1
    states = sorted(checkpoints.FOLDER.glob("train@frozen/*/*.safetensors"))
    assert states and not Path("models/frozen").exists()


@pytest.mark.slow
def test_a_mistake_in_all_processes_is_reported_once(project, change):
    Path("hardware.yaml").write_text(HARDWARE.format(2))
    assert stage("encode@frozen").returncode == 0
    change({"train.learning_rate": 1e30, "train.epochs": 5})
    done = stage("train@frozen")
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1 and "is not finite" in done.stderr, done.stderr


@pytest.mark.slow
def test_two_launchers_of_torchrun_are_one_run(project, change):
    change({"train.epochs": 4, "arms.lora.dropout": 0.0})
    trained(1)
    assert stage("evaluate@lora").returncode == 0
    evaluation = read_json("reports/evaluation/lora/metrics.json")
    remove(checkpoints.FOLDER / "train@lora")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launchers = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node),
             "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port),
             "-m", "stages.train", "lora"],
            env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    for launcher in launchers:
        out, error = launcher.communicate(timeout=300)
        assert launcher.returncode == 0, out + error
    assert stage("evaluate@lora").returncode == 0
    assert read_json("reports/evaluation/lora/metrics.json") == pytest.approx(evaluation, abs=1e-3)
    assert read_json("reports/cost/lora/train.json")["processes"] == 2
