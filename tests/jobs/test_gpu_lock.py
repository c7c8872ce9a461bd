"""No two runs on one device: real processes, with slots in place of GPUs; torch is mocked where it has to be a GPU."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT
from helpers.engine import resolve

from nightshift.console.errors import UserError
from nightshift.core.io import read_json
from nightshift.jobs import launch, resources
from nightshift.jobs.gpu_lock import allowed_devices, locked

HOLD = """
import sys
from nightshift.console import errors
from nightshift.jobs import gpu_lock
gpu_lock.POLL = 0.05
def main():
    with gpu_lock.locked(sys.argv[1], int(sys.argv[2])) as held:
        print("has", held, flush=True)
        sys.stdin.readline()
errors.run(main)
"""
TWICE = """
import sys, pathlib
from nightshift.jobs import gpu_lock
gpu_lock.POLL = 0.01
inside = pathlib.Path(sys.argv[1])
for _ in range(10):
    with gpu_lock.locked("train@lora", int(sys.argv[2])) as held:
        files = [inside / str(number) for number in held]
        for file in files:
            file.touch(exist_ok=False)
        for file in files:
            file.unlink()
"""


@pytest.fixture(autouse=True)
def own_machine(checkout, monkeypatch):
    """Locks of its own, for other tests may run on this machine; DVC does not run here."""
    (checkout / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(checkout / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)


def hardware(text: str, folder: Path = Path()) -> None:
    (folder / "hardware.yaml").write_text("device: cpu\nthreads: 1\n" + text)


@contextmanager
def started(*arguments: str, code: str = HOLD, **options):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, *arguments], **pipes, **options) as process:
        yield process
        process.kill()


def test_each_gets_its_own_and_the_third_waits_until_one_is_killed(checkout, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")  # another checkout on the same machine
    for folder in (checkout, elsewhere):
        hardware("devices: [0, 1]\n", folder)
    with started("train@frozen", "1") as first, started("train@lora", "1") as second:
        has = sorted([first.stdout.readline(), second.stdout.readline()])
        assert has == ["has [0]\n", "has [1]\n"]
        with started("evaluate@lora", "1", cwd=elsewhere) as third:
            line = third.stdout.readline()
            assert line.startswith("evaluate@lora waits: slot ")
            for stage, process in (("train@frozen", first), ("train@lora", second)):
                told = f"in use by {stage} of {checkout} (process {process.pid}, since "
                assert re.search(r"slot \d " + re.escape(told) + r"\d{4}-[-\d :]+\)", line), line
            second.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            assert third.stdout.readline() in has
            assert time.monotonic() - killed < 2  # 0.05 s where nothing else runs


def test_refused_in_the_same_words_also_of_a_queued_run(checkout, tmp_path_factory):
    hardware("devices: [3]\nbusy: refuse\n")
    copy = tmp_path_factory.mktemp("copy")  # as DVC makes one for a queued run
    environment = os.environ | {"DVC_ROOT": str(checkout), "DVC_EXP_NAME": "plump-tick"}
    with started("train@lora", "1", cwd=copy, env=environment) as holder:
        assert holder.stdout.readline() == "has [3]\n"
        with started("train@frozen", "1") as refused:
            out, error = refused.communicate(timeout=60)
    assert (refused.returncode, out, error.count("\n")) == (1, "", 1)
    assert f"slot 3 in use by train@lora of the queued run plump-tick of {checkout} (process {holder.pid}" in error


def test_runs_that_want_two_and_one_never_hang_nor_meet(checkout):
    hardware("devices: [0, 1]\n")
    inside = checkout / "inside"
    inside.mkdir()
    with (
        started(str(inside), "2", code=TWICE) as a,
        started(str(inside), "2", code=TWICE) as b,
        started(str(inside), "1", code=TWICE) as c,
    ):
        for process in (a, b, c):
            _, error = process.communicate(timeout=120)
            assert process.returncode == 0, error


def test_a_stage_waits_before_it_counts_its_seconds(project):
    hardware("devices: [0]\n")
    resolve()
    stage = (
        "from nightshift.console import errors; from stages import encode; errors.run(lambda: encode.main('frozen'))"
    )
    with started("train@lora", "1") as holder:
        assert holder.stdout.readline() == "has [0]\n"
        with started(code=stage) as waiting:
            assert "encode@frozen waits: slot 0 in use by train@lora" in waiting.stdout.readline()
            assert not Path("reports/cost").exists()
            holder.send_signal(signal.SIGKILL)
            killed = time.monotonic()
            out, error = waiting.communicate(timeout=120)
            assert waiting.returncode == 0, out + error
            assert read_json("reports/cost/frozen/encode.json")["seconds"] < time.monotonic() - killed


def test_without_cuda_nothing_is_locked_unless_asked_for(checkout):
    hardware("")
    with locked("train@lora", 2) as held:
        assert held == []
    assert not list((checkout / "temporary").iterdir())


def test_what_the_devices_may_be():
    assert allowed_devices("auto", None, 4) == []
    assert allowed_devices("auto", 2, 2) == [0, 1]
    assert allowed_devices([1, 0], 2, 1) == [1, 0]
    assert allowed_devices([5], None, 1) == [5]
    for arguments, told in (
        (([0, 2], 2, 1), "hardware.yaml: devices: there is no GPU 2, torch sees 0, 1"),
        (([0], 2, 2), r"2 processes, but hardware.yaml has devices: \[0\]; set processes: 1"),
        (([0], None, 2), r"2 processes, but hardware.yaml has devices: \[0\]; set processes: 1"),
        (("auto", 1, 2), "2 processes, but there are 1 GPUs; set processes: 1"),
    ):
        with pytest.raises(UserError, match=told):
            allowed_devices(*arguments)


@pytest.fixture
def gpus(checkout, monkeypatch):
    """Two GPUs as far as torch says so; a list of those that were made the current one."""
    (checkout / "hardware.yaml").write_text("busy: refuse\n")
    current = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid="ab"[number]))
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_a_gpu_is_itself_whatever_its_number(gpus, monkeypatch):
    with locked("train@lora") as first:
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid="ba"[number]))
        with locked("train@frozen") as second:  # CUDA_VISIBLE_DEVICES=1,0 there, so both call it 0
            assert first == second == gpus[:1] == gpus[1:] == [0]
            with pytest.raises(UserError, match=r"GPU 0 in use by train@frozen of .*; GPU 1 in use by train@lora of"):
                locked("evaluate@lora").__enter__()


def test_other_users_can_lock_the_same_devices(gpus, checkout):
    before = os.umask(0o077)
    try:
        with locked("train@lora", 2):
            folder = checkout / "temporary/nightshift-locks"
            assert folder.stat().st_mode & 0o7777 == 0o777
            assert {lock.stat().st_mode & 0o777 for lock in folder.glob("*.lock")} == {0o666}
            for note in folder.glob("*.json"):
                note.unlink()  # one that cannot be read, for that umask
            with pytest.raises(UserError, match="GPU 0 and GPU 1 in use by another user's run"):
                locked("evaluate@lora").__enter__()
    finally:
        os.umask(before)


def test_processes_get_the_locked_gpus(gpus, checkout, monkeypatch):
    (checkout / "hardware.yaml").write_text("processes: 2\ndevices: [1, 0]\nbusy: refuse\n")
    spawned = []
    monkeypatch.setattr(launch, "_spawn", lambda stage, arguments, devices, joined: spawned.append(devices))
    launch.run("stages.train", "lora")
    assert spawned == [[1, 0]] and not gpus


@pytest.mark.parametrize("local", [0, 1])
def test_of_a_launchers_processes_the_first_locks_for_all(gpus, checkout, monkeypatch, local):
    (checkout / "hardware.yaml").write_text("devices: [1, 0]\nbusy: refuse\n")
    for key, value in {"RANK": local, "LOCAL_RANK": local, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(key, str(value))

    def work(*_):
        assert os.environ["LOCAL_RANK"] == str(1 - local)
        if local:
            with locked("train@frozen", 2) as held:
                assert held == [1, 0]
        else:
            with pytest.raises(UserError, match="GPU 0 and GPU 1 in use by train@lora"):
                locked("train@frozen").__enter__()

    monkeypatch.setattr(launch, "_one_of_several", work)
    launch.run("stages.train", "lora")


def test_the_cost_names_the_gpu_that_was_used(gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: f"card {gpus[-1]}")
    with locked("train@lora"), locked("train@frozen"):
        assert resources.machine()["gpu"] == "card 1"


def test_on_windows_a_run_cannot_spill_into_the_memory_of_the_cpu(checkout, monkeypatch):
    """There the driver would take it where the GPU's is full; then a step takes ten times as long."""
    shares: list[float] = []
    monkeypatch.setattr("nightshift.jobs.gpu_lock.device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid="a"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda number: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (6 * 10**9, 8 * 10**9))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)
    with locked("train@lora"):
        assert shares == []
    monkeypatch.setattr(sys, "platform", "win32")
    with locked("train@lora"):
        assert shares == [0.75]
