"""Runs on a cluster: real SLURM where it is installed, and the same path through submitit's local processes."""

import csv
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import yaml
from helpers import chain, slurm

from nightshift.commands import notes
from nightshift.config import resolved
from nightshift.training.arm import train_arm
from stages import inputs

RANKS = ("2", "3", "4", "5")
EPOCHS = 2400  # of LoRA: more than a job of SLURM has time for, less than two have


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def said(folder: Path, *command: str) -> str:
    done = chain.run(folder, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def clone(folder: Path, epochs: int) -> Path:
    """A miniature project whose frozen arm is trained, as is LoRA with rank 1."""
    folder = chain.clone(folder)
    chain.edit(folder, "params.yaml", {"arms.lora.rank": 1, "arms.lora.epochs": epochs})
    (folder / "hardware.yaml").write_text("threads: 1\nslurm: {minutes: 2, grace: 60, cpus: 1}\n", encoding="utf-8")
    said(folder, "dvc", "repro")
    git(folder, "-c", "user.name=t", "-c", "user.email=t@example.invalid", "commit", "-q", "-a", "-m", "rank 1")
    return folder


def models(folder: Path, names: list[str]) -> dict[str, str]:
    """Hash of LoRA's models by rank, from the experiments' locks."""
    found = {}
    for name in names:
        revision = git(folder, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}").strip()
        lock = yaml.safe_load(git(folder, "show", f"{revision}:dvc.lock"))["stages"]["train@lora"]
        rank = yaml.safe_load(git(folder, "show", f"{revision}:params.yaml"))["arms"]["lora"]["rank"]
        found[str(rank)] = next(out["md5"] for out in lock["outs"] if out["path"] == "models/lora")
    return found


def notes_of(folder: Path) -> list[str]:
    """Names of the runs that were queued there."""
    return sorted(path.stem for path in (folder / notes.NOTES).glob("*.json"))


def until(what, seconds: float = 300):
    """What `what()` returns as soon as that is true."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return value


def trains(folder: Path, name: str) -> bool:
    log = folder / notes.JOBS / name / "log.txt"
    return log.is_file() and "lora, seed 0: epoch 3/" in log.read_text(encoding="utf-8").rpartition(f"{name} on ")[2]


def process_of(name: str) -> psutil.Process:
    """Of a local run."""
    return psutil.Process(int(notes.read_note(name).job.partition(":")[0]))


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [*process.children(recursive=True), process]


def stop(run: str, place: str) -> None:
    """End a run as a user or a crash does: the job of SLURM, or a local one's processes."""
    if place == "slurm":
        slurm.said("scancel", notes.read_note(run).job)
    for process in tree(process_of(run)) if place == "local" else []:
        with suppress(psutil.NoSuchProcess):  # it ended with its parent
            process.kill()


def requeue(run: str, place: str) -> None:
    """Have a run queued again; a local one gets the signal that submitit sends before a time limit."""
    if place == "slurm":
        slurm.said("scontrol", "requeue", notes.read_note(run).job)
    else:
        (task,) = process_of(run).children()
        os.kill(task.pid, signal.SIGUSR2)


def swept(folder: Path, clones: Path, place: str, *more: str) -> tuple[list[str], dict[str, str]]:
    """Run a sweep of four ranks in which one run is killed and one queued again; the runs, and the log of each.

    Both went on from their checkpoints, the frozen arm was not trained, and the leaderboard of `folder` ranks all four.
    """
    clones.mkdir()
    said(folder, "nightshift", "queue", "start", "--sweep", f"arms.lora.rank={','.join(RANKS)}", "--on", place, *more)
    first, second, *_ = runs = notes_of(folder)
    try:
        until(lambda: trains(folder, first))
        stop(first, place)
        until(lambda: trains(folder, second))
        requeue(second, place)
        assert "4 run(s) done" in said(folder, "nightshift", "queue", "wait")
    except BaseException:
        for name in runs:
            chain.run(folder, "nightshift", "queue", "stop", name)
        raise
    logs = {name: (folder / notes.JOBS / name / "log.txt").read_text(encoding="utf-8") for name in runs}
    assert notes.read_note(first).restarted == 1
    for name in (first, second):
        assert "going on in epoch" in logs[name], logs[name]
    assert not any("Running stage 'train@frozen'" in log for log in logs.values())
    assert not list(clones.iterdir())
    assert "ranked" in said(folder, "nightshift", "leaderboard")
    with (folder / "reports/leaderboard/leaderboard.csv").open(encoding="utf-8", newline="") as handle:
        ranks = {row["arms.lora.rank"]: row["rank"] for row in csv.DictReader(handle)}
    assert ranks.keys() >= set(RANKS) and all(ranks[rank] for rank in RANKS)
    return runs, logs


@pytest.mark.skipif(sys.platform == "win32", reason="submitit needs Linux or macOS")
def test_a_sweep_of_four_on_this_machine_ends_as_without_though_runs_are_killed(first, tmp_path, monkeypatch):
    """Bit for bit as in one workspace."""
    folder, other = tmp_path / "nightshift", tmp_path / "other"
    for copy in (folder, other):
        shutil.copytree(first, copy, symlinks=True)
        chain.edit(copy, "params.yaml", {"arms.lora.epochs": 120})  # not committed; four seconds
        (copy / "hardware.yaml").write_text("threads: 1\n", encoding="utf-8")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "clones"))
    monkeypatch.chdir(folder)
    runs, _ = swept(folder, tmp_path / "clones", "local", "--workers", "2")
    for rank, listed in models(folder, runs).items():
        monkeypatch.chdir(other)
        chain.edit(other, "params.yaml", {"arms.lora.rank": int(rank)})
        inputs.main()
        train_arm(resolved.read_arm("lora"))
        content = json.loads((folder / ".dvc/cache/files/md5" / listed[:2] / listed[2:]).read_text(encoding="utf-8"))
        assert {one["relpath"]: one["md5"] for one in content} == {
            path.relative_to("models/lora").as_posix(): hashlib.md5(
                path.read_bytes(), usedforsecurity=False
            ).hexdigest()
            for path in Path("models/lora").rglob("*")
            if path.is_file()
        }


@pytest.mark.slow
@pytest.mark.skipif(not slurm.THERE, reason="no slurmctld, slurmd and sbatch; apt install slurm-wlm")
def test_a_sweep_of_four_by_slurm_ends_as_without_though_runs_are_killed(tmp_path, monkeypatch):
    """Bit for bit as in one workspace; one more run reaches its time limit."""
    folder = clone(tmp_path / "nightshift", epochs=EPOCHS)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "clones"))
    monkeypatch.chdir(folder)
    with slurm.running(tmp_path / "slurm"):
        runs, logs = swept(folder, tmp_path / "clones", "slurm")
    assert any("stopping after this step" in logs[name] for name in runs[2:]), logs  # after two minutes
    other = clone(tmp_path / "other", epochs=EPOCHS)
    for rank in RANKS:
        said(other, "dvc", "exp", "run", "-n", f"rank-{rank}", "-S", f"arms.lora.rank={rank}")
    assert models(folder, runs) == models(other, [f"rank-{rank}" for rank in RANKS])


@pytest.mark.slow
def test_two_jobs_share_the_folds_of_a_run(tmp_path):
    """Each fold is trained by one of them, and the result is the first one's."""
    folder = chain.clone(tmp_path / "nightshift")
    (folder / "hardware.yaml").write_text("threads: 1\n", encoding="utf-8")
    chain.edit(folder, "conf/data/synthetic.yaml", {"split": "made"})
    changes = [word for change in ("prepare.folds=5", "arms.lora.epochs=30") for word in ("-S", f"++{change}")]
    said(folder, "nightshift", "queue", "start", "lora", *changes, "--on", "local", "--share", "2")
    assert "1 run(s) done" in said(folder, "nightshift", "queue", "wait")
    (name,) = notes_of(folder)
    place = folder / notes.JOBS / name
    logs = [(place / file).read_text(encoding="utf-8") for file in ("log.txt", "helper-1.txt")]
    done = [[line.split(",")[1] for line in log.splitlines() if "epoch 30/30" in line] for log in logs]
    assert sorted(done[0] + done[1]) == [f" fold {fold}" for fold in range(5)] and all(done)
    assert models(folder, [name])["2"]
