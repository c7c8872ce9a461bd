"""What the commands ask of git and DVC, in a small repository: fails when an upgrade of DVC changes what is used."""

import inspect
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nightshift.commands import dvc_adapter, dvc_private
from nightshift.console.errors import UserError

PIPELINE = """
stages:
  evaluate:
    foreach: ${arms}
    do:
      cmd: python evaluate.py ${item.seconds}
      deps: [evaluate.py, nightshift]
      params: ["arms.${key}"]
      outs: ["reports/${key}.json"]
  compare:
    cmd: python -c "open('comparison/metrics.json', 'w').write('{}')"
    deps: [reports/slow.json, stages/compare.py]
    metrics: [{comparison/metrics.json: {cache: false}}]
"""
EVALUATE = """
import sys, time
print("working", flush=True)
time.sleep(float(sys.argv[1]))
open(f"reports/{'quick' if sys.argv[1] == '0' else 'slow'}.json", "w").write('{"dice": 1}')
"""


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC repository with two arms, nothing of which has run."""
    folder = tmp_path_factory.mktemp("adapter") / "repository"
    (folder / "nightshift").mkdir(parents=True)
    (folder / "stages").mkdir()
    (folder / "reports").mkdir()
    (folder / "reports/.gitignore").write_text("/quick.json\n/slow.json\n")
    (folder / "nightshift/module.py").write_text("1\n")
    (folder / "stages/compare.py").write_text("1\n")
    (folder / "evaluate.py").write_text(EVALUATE)
    (folder / "params.yaml").write_text("arms:\n  quick: {seconds: 0}\n  slow: {seconds: 600}\n")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / ".gitignore").write_text("__pycache__/\n")
    git(folder, "init", "-q", "-b", "main")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=folder, check=True)
    (folder / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (folder / "comparison").mkdir()
    (folder / "comparison/metrics.json").write_text('{"dice": 0.5}')
    for key, value in (("user.name", "test"), ("user.email", "test@example.invalid")):
        git(folder, "config", key, value)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x")
    return folder


@pytest.fixture
def repository(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    shutil.copytree(shared, tmp_path / "repository")
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path / "repository"


def test_dvc_still_has_what_is_used_of_its_private_interface(repository):
    from dvc.repo import Repo
    from dvc_task.proc.process import ProcessInfo

    assert {"pid", "stdout", "returncode"} <= set(inspect.signature(ProcessInfo).parameters)
    with Repo() as repo:
        queue = repo.experiments.celery_queue
        assert queue.status() == [] and queue.worker_status() == {} and queue.proc.get("0" * 40) is None
        assert list(inspect.signature(repo.stage.collect).parameters)[:2] == ["target", "with_deps"]


def test_a_queued_experiment_is_listed_with_what_it_is_based_on(repository):
    assert dvc_private.tasks() == []
    with dvc_adapter.put_aside(Path("comparison/metrics.json")):
        dvc_adapter.queue_experiment("one", ["evaluate@quick"], ["+arms.quick.note=1"])
    assert json.loads(Path("comparison/metrics.json").read_text()) == {"dice": 0.5}
    (task,) = dvc_private.tasks()
    assert (task.name, task.state, task.log, task.pid) == ("one", "queued", None, None)
    assert "note: 1" in (dvc_adapter.file_at(task.revision, "params.yaml") or "")
    assert dvc_adapter.file_at(task.revision, "comparison/metrics.json") is None
    git(repository, "commit", "-q", "--allow-empty", "-m", "y")  # the experiment is based on no tip any more
    states = json.loads(dvc_adapter.show_experiments(history=False))
    assert [state["name"] for state in states[1:]] == ["main", None]
    (group,) = states[2]["experiments"]
    assert (group["name"], group["executor"]["state"]) == ("one", "queued")
    assert len(json.loads(dvc_adapter.show_experiments(history=True))) == 3


def test_a_finished_experiment_is_found_by_its_name_after_another_run(repository):
    with pytest.raises(UserError, match="one: no result of that name"):
        dvc_adapter.experiment("one")
    dvc_adapter.dvc("exp", "run", "-q", "-n", "one", "evaluate@quick")
    revision = dvc_adapter.experiment("one")
    dvc_adapter.dvc("exp", "save", "-f", "-n", "kept", "evaluate@quick")  # others may lack their outputs
    git(repository, "commit", "-q", "--allow-empty", "-a", "-m", "y")
    dvc_adapter.dvc("exp", "run", "-q", "-n", "two", "-S", "+arms.quick.note=1", "evaluate@quick")
    assert dvc_adapter.experiment("one") == revision != dvc_adapter.experiment("kept")
    stage = dvc_adapter.locked(dvc_adapter.file_at(revision, "dvc.lock"))["evaluate@quick"]
    assert dvc_adapter.cached_json(dvc_adapter.cache_folder(), stage["outs"][0]["md5"]) == {"dice": 1}
    assert dvc_adapter.cached_json(dvc_adapter.cache_folder(), "0" * 32) is None
    dvc_adapter.fetch(revision, ["reports/quick.json", "params.yaml"], repository / "fetched")
    assert json.loads((repository / "fetched/reports/quick.json").read_text()) == {"dice": 1}
    assert dvc_adapter.locked(None) == dvc_adapter.locked("") == dvc_adapter.locked("a: [b]") == {}


def test_stages_of_a_target_and_their_dependencies(repository):
    (stage,) = dvc_private.stages_of(["evaluate@slow"])
    assert stage == dvc_private.Stage("evaluate@slow", ("evaluate.py", "nightshift"))
    assert {stage.name for stage in dvc_private.stages_of(["compare"])} == {"compare", "evaluate@slow"}
    with pytest.raises(UserError, match=r"DVC: .*evaluate@unet"):
        dvc_private.stages_of(["evaluate@unet"])


def test_changed_files_are_edited_removed_and_new_ones(repository):
    assert dvc_adapter.changed_files("HEAD", ["nightshift", "stages"]) == []
    Path("nightshift/module.py").write_text("2\n")
    Path("nightshift/new.py").write_text("2\n")
    Path("stages/compare.py").unlink()
    Path("evaluate.py").write_text("2\n")
    changed = ["nightshift/module.py", "nightshift/new.py", "stages/compare.py"]
    assert dvc_adapter.changed_files("HEAD", ["nightshift", "stages"]) == changed
    git(repository, "commit", "-q", "-a", "-m", "y")
    assert dvc_adapter.changed_files("HEAD~1", ["nightshift"], "HEAD") == ["nightshift/module.py"]
    assert dvc_adapter.untracked(["nightshift"]) == ["nightshift/new.py"]


def test_a_failure_is_the_line_that_says_why(repository):
    with pytest.raises(UserError, match="Stage 'nope' not found"):
        dvc_adapter.dvc("repro", "nope")
    assert dvc_adapter.tried("status") is None and "nope" in (dvc_adapter.tried("repro", "nope") or "")
    stderr = "WARNING: x\nERROR: failed to reproduce\nTraceback\nerror: no such preset\nlast\n"
    assert dvc_adapter._reason(stderr) == "no such preset"
    assert dvc_adapter._reason("ERROR: failed\nlast\n") == "failed" and dvc_adapter._reason("") == "no reason given"


@pytest.mark.slow
def test_a_run_in_the_queue_from_its_start_until_it_is_killed(repository):
    """DVC says "Running" of one that was killed; its log and its process are known while it runs."""
    import psutil

    dvc_adapter.queue_experiment("slow", ["evaluate@slow"], [])
    dvc_adapter.dvc("queue", "start")
    end = time.monotonic() + 60
    while (task := dvc_private.tasks()[0]).state != "running" or not (task.log and "working" in task.log.read_text()):
        assert time.monotonic() < end, task
        time.sleep(0.5)
    assert task.pid is not None
    process = psutil.Process(task.pid)
    tree = [
        *process.children(recursive=True),
        process,
        *(p for p in process.parents() if "dvc" in " ".join(p.cmdline())),
    ]
    for one in tree:
        one.kill()
    psutil.wait_procs(tree, timeout=10)
    (task,) = dvc_private.tasks()
    assert (task.state, task.pid) == ("killed", None)
    assert dvc_adapter.tried("queue", "kill", "-f", "slow") is None
    assert dvc_private.tasks()[0].state == "failed"
