"""The guard of the queue: what it puts back and what not, and a real DVC queue whose worker or trainer is killed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from nightshift.commands import cluster, dvc_adapter, dvc_private, guard, queue, queue_actions, queue_runs
from nightshift.commands.dvc_private import Task
from nightshift.commands.main import parser_of
from nightshift.commands.notes import Note, note_path, read_note
from nightshift.config.yaml_io import values_of
from nightshift.console.errors import UserError

PIPELINE = """
stages:
  train:
    cmd: python train.py
    params: [kind, number]
    deps: [train.py]
    outs: [made.txt]
"""
TRAIN = """
import os, pathlib, signal, time
import yaml
kind = yaml.safe_load(open("params.yaml"))["kind"]
tries = pathlib.Path(os.environ["DVC_ROOT"], f"tries-{kind}")
count = int(tries.read_text()) if tries.exists() else 0
tries.write_text(str(count + 1))
print(f"lora, seed 0: epoch {count + 1}/2, training loss 0.5", flush=True)
if kind == "killed" and count == 0:
    os.kill(os.getpid(), signal.SIGKILL)
if kind == "fails":
    raise SystemExit("error: a reason of its own")
if kind == "sleeps":
    time.sleep(0 if count else 60)
pathlib.Path("made.txt").write_text("made")
"""


def git(*arguments: str) -> None:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    subprocess.run(["git", *who, *arguments], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A git and DVC repository with one stage, which is the current folder."""
    monkeypatch.chdir(tmp_path)
    git("init", "-q", "-b", "main")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    texts = {"dvc.yaml": PIPELINE, "train.py": TRAIN, "params.yaml": "kind: plain\nnumber: 0\n"}
    texts[".dvc/config"] = "[core]\n    analytics = false\n"
    texts[".gitignore"] = "made.txt\ntries-*\n.nightshift\nnotified\n"
    for name, text in texts.items():
        Path(name).write_text(text, encoding="utf-8")
    for key, value in (("user.name", "test"), ("user.email", "test@example.invalid")):
        git("config", key, value)
    git("add", "-A")
    git("commit", "-q", "-m", "x")
    monkeypatch.setattr(guard, "POLL", 1.0)
    monkeypatch.setattr(guard, "WORKER_STARTS", 15.0)
    return tmp_path


def states() -> dict[str, str]:
    return {run.name: run.state for run in queue_runs.runs()}


def workers() -> list[psutil.Process]:
    """Of this user's DVC queue here, and what they started."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        place = Path(process.info["cwd"] or "/")
        if "queue-worker" in (process.info["cmdline"] or []) and Path.cwd() in (place, *place.parents):
            found += [*process.children(recursive=True), process]
    return found


def test_local_jobs_end_as_experiments_here_one_of_them_after_its_time_limit(repository, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(repository / ".nightshift/clones"))
    Path(".nightshift/clones").mkdir(parents=True)
    Path("params.yaml").write_text("kind: plain\nnumber: 1\n")  # an edit that is not committed
    for kind in ("sleeps", "plain"):
        revision = dvc_private.snapshot(kind, ["train"], [f"kind={kind}"])
        note = Note(on="local", targets=["train"], revision=revision)
        note.write(note_path(kind))
        cluster.submit({kind: note})
    end = time.monotonic() + 120
    while not Path("tries-sleeps").exists():
        assert time.monotonic() < end
        time.sleep(0.2)
    assert states()["sleeps"] == "running"
    (job,) = psutil.Process(int(read_note("sleeps").job.partition(":")[0])).children()
    os.kill(job.pid, signal.SIGUSR2)  # as before the limit
    while "running" in states().values():
        assert time.monotonic() < end, states()
        time.sleep(0.5)
    assert states() == {"sleeps": "done", "plain": "done"}, Path(".nightshift/jobs/sleeps/log.txt").read_text()
    assert Path("tries-sleeps").read_text() == "2" and Path("tries-plain").read_text() == "1"
    for kind in ("sleeps", "plain"):
        revision = dvc_adapter.experiment(kind)
        assert dvc_adapter.file_at(revision, "params.yaml") == f"kind: {kind}\nnumber: 1\n"
        (made,) = dvc_adapter.locked(dvc_adapter.file_at(revision, "dvc.lock"))["train"]["outs"]
        assert dvc_adapter.cached(dvc_adapter.cache_folder(), made["md5"]).read_text() == "made"
    queue_actions.remove(queue_runs.find("sleeps"))
    assert list(states()) == ["plain"] and dvc_adapter.experiment("sleeps")
    assert not Path(".nightshift/jobs/sleeps").exists()
    assert list(Path(".nightshift/clones").iterdir()) == []
    assert dvc_adapter.git("status", "--porcelain").split() == ["M", "params.yaml"]


@pytest.mark.slow
def test_the_runs_of_a_worker_that_was_killed_are_ended(repository, capsys):
    for number in (1, 2, 3):
        dvc_adapter.queue_experiment(f"run-{number}", ["train"], ["kind=sleeps", f"number={number}"])
        Note().write(note_path(f"run-{number}"))
    dvc_adapter.dvc("queue", "start")
    end = time.monotonic() + 120
    while not Path("tries-sleeps").exists():
        assert time.monotonic() < end
        time.sleep(0.2)
    killed = workers()
    assert killed
    for process in killed:
        process.kill()
    psutil.wait_procs(killed, timeout=10)
    time.sleep(15)
    assert sorted(states().values()) == ["killed", "queued", "queued"]  # without a guard they stay
    guard.guard()
    assert states() == {"run-1": "done", "run-2": "done", "run-3": "done"}
    assert capsys.readouterr().out.count(" was killed and is put back") == 1


@pytest.mark.slow
def test_a_killed_trainer_goes_on_once_and_a_failed_one_not(repository, capsys):
    command = f"{sys.executable} -c \"import sys; open('notified', 'a').write(' '.join(sys.argv[1:3]) + chr(10))\""
    for kind in ("killed", "fails"):
        dvc_adapter.queue_experiment(kind, ["train"], [f"kind={kind}"])
        Note(arms=["lora"], restarts=1, notify=command).write(note_path(kind))
    dvc_adapter.dvc("queue", "start")
    guard.guard()
    assert states() == {"killed": "done", "fails": "failed"}
    assert Path("tries-killed").read_text() == "2" and Path("tries-fails").read_text() == "1"
    assert read_note("killed").restarted == 1 and read_note("fails").restarted == 0
    assert sorted(Path("notified").read_text().splitlines()) == ["fails failed", "killed done"]
    with pytest.raises(UserError, match=r"1 of 2 run\(s\) not done: fails"):
        guard.wait(None)


def run_of(folder: Path, state: str, log: str, name: str = "run-1") -> Task:
    (folder / f"{name}.txt").write_text(log)
    return Task(name, "0" * 40, datetime(2026, 11, 28), state, folder / f"{name}.txt", None)


FAILED = "ERROR: failed to reproduce 'train@lora': failed to run: python -m stages.train lora, exited with "


@pytest.mark.parametrize(
    ("state", "log", "outside"),
    [
        ("killed", "", True),
        ("failed", FAILED + "-9", True),
        ("failed", FAILED + "137", True),
        ("failed", FAILED + "-15", True),
        ("failed", "error: stopped in epoch 3; the same command goes on from there\n" + FAILED + "1", True),
        ("failed", "error: arms.lora.rank: too large\n" + FAILED + "1", False),
        ("failed", FAILED + "-11", False),  # a crash of its own
        ("stopped", FAILED + "-9", False),
        ("done", "", False),
    ],
)
def test_what_ended_a_run(checkout, tmp_path, state, log, outside):
    run = run_of(tmp_path, state, log)
    assert queue_runs.killed_from_outside(run) == outside and not queue_runs.goes_on(run)  # DVC's own, without a note
    Note().write(note_path("run-1"))
    assert queue_runs.goes_on(run) == outside != queue_runs.is_over(run)
    Note(restarts=2, restarted=2).write(note_path("run-1"))
    assert not queue_runs.goes_on(run) and queue_runs.is_over(run)  # put back often enough


def test_as_many_local_runs_are_started_as_workers_were_asked_for(checkout, tmp_path, monkeypatch):
    submitted = []
    monkeypatch.setattr(cluster, "submit", lambda runs: submitted.extend(runs))
    runs = [run_of(tmp_path, "queued", "", f"run-{number}") for number in range(4)]
    noted = {run.name: Note(on="local", workers=2) for run in runs}
    guard._start_local(runs, noted)
    assert submitted == ["run-0", "run-1"]
    guard._start_local([replace(runs[0], state="running"), *runs[2:]], noted)
    assert submitted == ["run-0", "run-1", "run-2"]
    guard._start_local([replace(run, state="running") for run in runs], noted)
    assert len(submitted) == 3


def test_one_guard_is_enough(checkout, monkeypatch):
    from filelock import FileLock

    monkeypatch.setattr(guard, "POLL", 0.01)
    monkeypatch.setattr(queue_runs, "runs", lambda: pytest.fail("a second guard looked at the queue"))
    monkeypatch.setattr(guard, "LAST_LOOK", 0.01)
    guard.LOCK.parent.mkdir(parents=True)
    with FileLock(guard.LOCK):
        guard.guard()


def test_a_command_that_cannot_be_run_is_said_and_no_more(checkout, tmp_path, capsys):
    Note(notify="there-is-no-such-command 'a b'").write(note_path("run-1"))
    guard._tell(run_of(tmp_path, "done", "made"))
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("run-1 is done: made")
    assert second.endswith("--notify: FileNotFoundError of there-is-no-such-command")
    guard._tell(run_of(tmp_path, "done", "made"))
    assert capsys.readouterr().out == ""  # once


def test_a_run_that_was_removed_is_not_waited_for(checkout, tmp_path, monkeypatch, capsys):
    rounds = iter([["run-0", "run-1"], ["run-1"], ["run-0", "run-1"], ["run-1"], ["run-1"]])
    monkeypatch.setattr(
        queue_runs,
        "runs",
        lambda: [run_of(tmp_path, "queued" if one == "run-0" else "done", "", one) for one in next(rounds)],
    )
    monkeypatch.setattr(guard, "start", lambda: None)
    monkeypatch.setattr(guard, "POLL", 0.0)
    with pytest.raises(UserError, match=r"1 of 1 run\(s\) not done: run-0"):
        guard.wait(None)


def test_what_cannot_be_put_back_is_not_tried_for_ever(checkout, tmp_path, monkeypatch, capsys):
    for name in ("run-0", "run-1"):
        Note(restarts=2).write(note_path(name))
    monkeypatch.setattr(queue_runs, "runs", lambda: [run_of(tmp_path, "killed", "", f"run-{n}") for n in range(2)])
    back = []

    def put_back(run):
        if run.name == "run-0":
            raise UserError("no such partition")
        back.append(run.name)

    monkeypatch.setattr(queue_runs, "put_back", put_back)
    guard._look()
    guard._look()
    assert back == ["run-1", "run-1"] and read_note("run-0").restarted == 2
    assert "run-0 was killed, and cannot be put back: no such partition" in capsys.readouterr().out
    assert [run.name for run in guard._look()] == ["run-1"]


def test_waiting_has_an_exit_status(checkout, tmp_path, monkeypatch, capsys):
    """The states as the queue goes through them; the guard is not started."""
    rounds = iter([["running", "queued"], ["running", "done"], ["done", "done"]])
    found = lambda: [run_of(tmp_path, state, "", f"run-{n}") for n, state in enumerate(next(rounds))]  # noqa: E731
    monkeypatch.setattr(queue_runs, "runs", found)
    monkeypatch.setattr(guard, "start", lambda: None)
    monkeypatch.setattr(guard, "POLL", 0.0)
    queue.main(parser_of("queue").parse_args(["wait"]))
    out = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in out[:2]] == ["run-1 is done", "run-0 is done"]
    assert out[2].startswith("2 run(s) done")
    rounds = iter([["failed"], ["failed"]])
    Note().write(note_path("run-0"))
    with pytest.raises(UserError, match=r"1 of 1 run\(s\) not done: run-0"):
        queue.main(parser_of("queue").parse_args(["wait"]))


def test_the_values_of_a_sweep():
    assert values_of("arms.lora.rank=2,4") == ["arms.lora.rank=2", "arms.lora.rank=4"]
    assert values_of("+arms.lora.blocks=[0],[0,1]") == ["+arms.lora.blocks=[0]", "+arms.lora.blocks=[0,1]"]
    with pytest.raises(UserError, match="several of them"):
        values_of("arms.lora.rank=2")
    with pytest.raises(UserError, match=r"--sweep arms\.lora\.rank: expected"):
        values_of("arms.lora.rank")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "--workers"),
        (["--share", "2"], "goes with --on slurm"),
        (["--on", "slurm"], "there is no sbatch"),
        (["--sweep", "arms.lora.rnk=1,2"], "did you mean 'rank'"),
    ],
)
def test_what_is_wrong_is_said_before_a_run_is_noted(checkout, monkeypatch, words, message):
    monkeypatch.setattr(dvc_adapter, "untracked", lambda paths: [])
    monkeypatch.setattr(cluster.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=message):
        queue.main(parser_of("queue").parse_args(["start", *words]))
    assert not Path(".nightshift/queue").exists()


def test_on_windows_there_is_no_cluster(checkout, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match="--on local: submitit needs Linux or macOS"):
        cluster.check("local")


def test_what_slurm_says_of_a_job_is_its_state(checkout, monkeypatch):
    said = "7 PENDING\n8_1 RUNNING\n9 CANCELLED\n"
    done = subprocess.CompletedProcess([], 0, stdout=said, stderr="")
    monkeypatch.setattr(cluster.subprocess, "run", lambda *words, **options: done)
    for name, job in (("waits", "7"), ("runs", "8_1"), ("cancelled", "9"), ("gone", "10"), ("ended", "11")):
        Note(on="slurm", job=job).write(note_path(name))
    folder = Path(".nightshift/jobs/ended")
    folder.mkdir(parents=True)
    (folder / "ended.json").write_text('{"status": 0}')
    found = {task.name: task.state for task in cluster.tasks()}
    assert found == {"waits": "queued", "runs": "running", "cancelled": "killed", "gone": "killed", "ended": "done"}
    done.returncode, done.stderr = 1, "slurm_load_jobs error: Unable to contact slurm controller\n"
    with pytest.raises(UserError, match="SLURM does not answer: slurm_load_jobs error: Unable to contact"):
        cluster.tasks()


def test_a_local_process_that_has_another_ones_number_is_not_taken_for_it(checkout):
    began = psutil.Process().create_time()
    for seconds, state in ((began, "running"), (began - 60, "killed")):
        Note(on="local", job=f"{os.getpid()}:{seconds}").write(note_path("run-1"))
        assert [task.state for task in cluster.tasks()] == [state]
    cluster.cancel("run-1", read_note("run-1"))  # nothing of ours to end


def test_dvc_still_has_what_a_snapshot_and_a_second_try_use(repository):
    """The commit is the workspace with its edits and the change, based on HEAD; nothing is queued or changed here."""
    Path("params.yaml").write_text("kind: plain\nnumber: 1\n")
    revision = dvc_private.snapshot("run-1", ["train"], ["kind=killed"])
    assert Path("params.yaml").read_text() == "kind: plain\nnumber: 1\n"
    assert dvc_adapter.file_at(revision, "params.yaml") == "kind: killed\nnumber: 1\n"
    assert dvc_adapter.git("rev-parse", f"{revision}^1") == dvc_adapter.git("rev-parse", "HEAD")
    assert dvc_adapter.git("rev-parse", "refs/nightshift/run-1").strip() == revision
    assert dvc_private.tasks() == [] and "refs/exps" not in dvc_adapter.git("for-each-ref")
    with pytest.raises(UserError, match="run-1: DVC's queue has no failed run of that name"):
        dvc_private.queue_again("run-1")
