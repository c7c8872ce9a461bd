"""Arms in DVC's queue: what is said before a run starts, what counts as changed, and whole runs for real (slow)."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import psutil
import pytest
import yaml
from helpers import chain

from nightshift.commands import collect as collecting
from nightshift.commands import dvc_adapter, dvc_private, guard, queue, queue_actions, queue_runs
from nightshift.commands.dvc_private import Stage, Task
from nightshift.commands.notes import Note, all_notes, note_path
from nightshift.config import params
from nightshift.console.errors import UserError
from nightshift.core.hashing import hash_folder
from nightshift.jobs import preconditions

MODULES = ("nightshift/model/head.py", "nightshift/arms/frozen.py", "nightshift/arms/lora.py", "nightshift/data/new.py")


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def asked(*words: str) -> None:
    """`nightshift queue WORDS` in this process."""
    parser = argparse.ArgumentParser()
    queue.add_arguments(parser)
    queue.main(parser.parse_args(words))


@pytest.fixture
def committed(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A commit with modules and settings, as a finished run of the frozen arm leaves it; nothing in DVC's cache."""
    for path in MODULES[:3]:
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text(f"# {path}\n")
    (checkout / "dvc.lock").write_text(yaml.safe_dump({"stages": {}}))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        git(checkout, *command)

    def stages(targets):
        arms = [target.partition("@")[2] for target in targets]
        return [
            Stage(f"train@{arm}", ("nightshift/model", f"nightshift/arms/{arm}.py", "data/prepared")) for arm in arms
        ]

    monkeypatch.setattr(dvc_private, "stages_of", stages)
    monkeypatch.setattr(guard, "start", lambda: None)
    monkeypatch.setattr(dvc_private, "tasks", list)
    monkeypatch.setattr(dvc_adapter, "cache_folder", lambda: checkout / "cache")
    return git(checkout, "rev-parse", "HEAD").strip()


def differences(revision: str, *arms: str) -> dict[str, tuple]:
    return {one.key: (one.there, one.here) for one in collecting.differing(revision, arms)}


def test_only_what_an_arm_depends_on_counts_as_changed(checkout, committed, change):
    assert differences(committed, "frozen") == {} and collecting.changed_code(committed, ["frozen"]) == []
    Path("nightshift/arms/lora.py").write_text("# mended\n")
    change({"arms.lora.rank": 99, "compare.level": 0.01, "probe.ddp": False})
    assert differences(committed, "frozen") == {} and collecting.changed_code(committed, ["frozen"]) == []
    assert differences(committed, "lora") == {"arms.lora.rank": (8, 99)}
    assert collecting.changed_code(committed, ["frozen", "lora"]) == ["nightshift/arms/lora.py"]
    Path("nightshift/model/head.py").write_text("# changed\n")
    Path("nightshift/model/new.py").write_text("# new\n")
    assert collecting.changed_code(committed, ["frozen"]) == ["nightshift/model/head.py", "nightshift/model/new.py"]


def test_settings_are_named_as_they_are_set(checkout, committed, change):
    change({"arms.frozen.epochs": 7, "train.learning_rate": 1e-5, "prepare.seed": 3, "encoder.weights": "hub"})
    change({"patients": 7}, "conf/data/synthetic.yaml")
    change({"mlp_ratio": 3.0}, "conf/encoder/tiny.yaml")
    assert differences(committed, "frozen") == {
        "conf/data/synthetic.yaml:patients": (150, 7),
        "encoder.weights": ("random", "hub"),
        "prepare.seed": (0, 3),
        "conf/encoder/tiny.yaml:mlp_ratio": (4.0, 3.0),
        "train.learning_rate": (0.003, 1e-5),
        "arms.frozen.epochs": (12, 7),
    }


def test_another_preset_is_one_setting_and_not_each_of_its_keys(checkout, committed, change):
    change({"use.encoder": "mini"})
    assert set(differences(committed, "frozen")) == {"use.encoder"}
    change({"use.external": "angiograms"})
    assert set(differences(committed, "frozen")) == {"use.encoder", "use.external"}


def test_another_size_of_the_encoder_is_named_once(checkout, committed, change):
    change({"img_size": 112}, "conf/encoder/tiny.yaml")
    assert set(differences(committed, "frozen")) == {"conf/encoder/tiny.yaml:img_size"}
    change({"encoder.resolution": 98})
    assert set(differences(committed, "frozen")) == {"conf/encoder/tiny.yaml:img_size", "encoder.resolution"}


def test_variants_are_named_without_what_only_they_use(checkout, committed, change):
    change({"augment.variants": 2})
    assert set(differences(committed, "frozen")) == {"augment.variants", "monai"}
    change({"augment.rotation": 20})
    assert set(differences(committed, "frozen")) == {"augment.variants", "augment.rotation", "monai"}


def test_a_version_is_that_of_the_run_where_the_cache_has_it(checkout, committed):
    here = collecting.contents_of(params.read(), ["frozen"])["arms/frozen/train"]
    there = here | {"versions": here["versions"] | {"torch": "1.0"}}
    (checkout / "cache/ab").mkdir(parents=True)
    (checkout / "cache/ab/cd").write_text(json.dumps(there))
    deps = [{"path": "reports/settings/arms/frozen/train.json", "md5": "abcd"}]
    (checkout / "dvc.lock").write_text(yaml.safe_dump({"stages": {"train@frozen": {"deps": deps}}}))
    git(checkout, "commit", "-q", "-a", "-m", "y")
    assert differences("HEAD", "frozen") == {"torch": ("1.0", here["versions"]["torch"])}
    assert differences("HEAD", "lora") == {}


@pytest.fixture
def collected(committed, monkeypatch):
    """What `dvc` is asked to do, where the finished run `run-1` is at HEAD."""
    words = []
    monkeypatch.setattr(dvc_adapter, "experiment", lambda name: "HEAD")
    monkeypatch.setattr(dvc_adapter, "dvc", lambda *given, **environment: words.append((given, environment)) or "")
    monkeypatch.setattr(dvc_adapter, "tried", lambda *given: words.append((given, {})))
    return words


def noted(*changes: str, arms: tuple[str, ...] = ("frozen",)) -> None:
    Note(arms=list(arms), changes=[queue_actions.change_of(text) for text in changes]).write(note_path("run-1"))


def as_the_run_had_it(checkout: Path, change, values: dict) -> None:
    """HEAD is a snapshot with other settings, and the workspace has those of before."""
    before = Path("params.yaml").read_bytes()
    change(values)
    git(checkout, "commit", "-q", "-a", "-m", "the run's")
    Path("params.yaml").write_bytes(before)


def test_what_the_run_was_given_is_set_in_the_workspace_and_comments_stay(checkout, collected, change):
    noted("+arms.frozen.epochs=7", "arms.lora.rank=3")
    as_the_run_had_it(checkout, change, {"arms.frozen.epochs": 7, "arms.lora.rank": 3})
    comments = Path("params.yaml").read_text(encoding="utf-8").count("#")
    collecting.collect("run-1")
    text = Path("params.yaml").read_text(encoding="utf-8")
    arms = yaml.safe_load(text)["arms"]
    assert arms["frozen"]["epochs"] == 7 and text.count("#") == comments
    assert arms["lora"]["rank"] == 8  # the frozen arm does not follow from it
    assert collected[0] == (("repro", "compare"), {preconditions.NO_TRAINING: "1"})
    assert collected[1][0] == ("exp", "save", "-f", "-n", "run-1-collected", "compare")


def test_an_arm_that_was_only_named_on_the_command_line_is_added(checkout, collected, change):
    noted("+arms.wide={kind: lora, rank: 32}", arms=("wide",))
    as_the_run_had_it(checkout, change, {"arms.wide": {"kind": "lora", "rank": 32}})
    collecting.collect("run-1")
    assert params.read().arm("wide").arm.rank == 32


def test_a_setting_edited_since_is_named_and_nothing_is_run(checkout, collected, change):
    noted("+arms.frozen.epochs=7")
    as_the_run_had_it(checkout, change, {"arms.frozen.epochs": 7})
    change({"train.batch_size": 3, "arms.frozen.epochs": 5})
    with pytest.raises(UserError) as caught:
        collecting.collect("run-1")
    assert "train.batch_size 3 instead of 8" in str(caught.value)
    assert "arms.frozen.epochs 5 instead of 7" in str(caught.value)
    Path("nightshift/model/head.py").write_text("# changed\n")
    with pytest.raises(UserError, match=r"other code \(nightshift/model/head.py changed since\) and settings"):
        collecting.collect("run-1")
    assert not collected


def test_a_run_that_dvc_alone_queued_is_of_the_reference(committed):
    assert collecting.arms_of("run-2", committed) == ["frozen"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-S", "train.epoch=3"], "did you mean 'epochs'"),
        (["-S", "use.encoder=nope"], "no preset 'nope'"),
        (["-S", "+arms.frozen.epochs=many"], "arms.frozen.epochs"),
        (["frosen"], "no arm 'frosen'; did you mean 'frozen'"),
        (["-S", "encoder.rope=as_shipped", "-S", "encoder.resolution=70"], "the probe refuses the frozen arm"),
        (["-S", "use.data=angiograms", "-S", "view.mode=none"], "no such folder"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_queued(checkout, committed, monkeypatch, arguments, message):
    monkeypatch.setattr(queue_runs, "runs", list)
    with pytest.raises(UserError, match=message):
        asked("start", *arguments)


def test_a_file_that_git_does_not_know_is_named_where_the_run_uses_it(checkout, committed, monkeypatch):
    started = []
    monkeypatch.setattr(queue_actions, "forecast_of", lambda names, settings: started.append(names) or "")
    monkeypatch.setattr(dvc_adapter, "queue_experiment", lambda *given: started.append(given))
    monkeypatch.setattr(dvc_adapter, "dvc", lambda *given: "")
    (checkout / "stages").mkdir()
    (checkout / "stages/dvc.lock").write_text("")
    shutil.copy("conf/data/synthetic.yaml", "conf/data/mine.yaml")
    Path("nightshift/arms/unet.py").write_text("")
    asked("start")  # neither the preset nor the kind is in use
    assert started[0] == ["frozen"] and started[1][1:] == (["evaluate@frozen"], [])
    with pytest.raises(UserError, match=r"`git add conf/data/mine\.yaml` first"):
        asked("start", "-S", "use.data=mine")
    Path("nightshift/model/new.py").write_text("")
    with pytest.raises(UserError, match=r"`git add nightshift/model/new\.py` first"):
        asked("start", "lora")


def test_a_queued_run_has_no_result_of_the_workspace(checkout, committed, monkeypatch):
    seen = []
    queue_actions.METRICS.parent.mkdir(parents=True)
    queue_actions.METRICS.write_text("{}")
    monkeypatch.setattr(queue_actions, "forecast_of", lambda names, settings: "")
    monkeypatch.setattr(dvc_adapter, "queue_experiment", lambda *given: seen.append(queue_actions.METRICS.exists()))
    monkeypatch.setattr(dvc_adapter, "dvc", lambda *given: "")
    asked("start", "lora", "frozen", "-S", "arms.lora.rank=3")
    assert seen == [False] and queue_actions.METRICS.read_text() == "{}"
    (note,) = all_notes().values()
    assert (note.arms, note.targets, note.on) == (["lora", "frozen"], ["evaluate@lora", "evaluate@frozen"], "")
    assert note.changes == [queue_actions.change_of("arms.lora.rank=3")]


LOG = """\
Running stage 'train@lora':
> python -m stages.train lora
10%\r20%\r30%
lora, seed 0: epoch 4/8, training loss 0.5, validation loss 0.6, Dice 0.5

lora, seed 1: epoch 2/8, training loss 0.4, validation loss 0.5, Dice 0.6
stopping after this step; a checkpoint is written first
error: stopped in epoch 3; the same command goes on from there
Updating lock file 'dvc.lock'

To track the changes with git, run:

\tgit add dvc.lock
Use `dvc push` to send your updates to remote storage.
ERROR: failed to reproduce 'train@lora': failed to run: python -m stages.train lora, exited with 1
"""
EPOCH_LINE = "lora, seed 1: epoch 2/8, training loss 0.4, validation loss 0.5, Dice 0.6"


def run_of(folder: Path, state: str, text: str | None = LOG, name: str = "run-1") -> Task:
    log = folder / f"{name}.out" if text is not None else None
    if log:
        log.write_text(text or "")
    return Task(name, "0" * 40, datetime(2026, 11, 24), state, log, None)


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("done", EPOCH_LINE),
        ("stopped", EPOCH_LINE),
        ("killed", EPOCH_LINE),
        ("failed", "stopped in epoch 3; the same command goes on from there"),
    ],
)
def test_the_last_line_says_most_about_a_run(tmp_path, state, line):
    assert queue_runs.last_line(run_of(tmp_path, state)) == line


def test_the_last_line_of_a_run_that_is_going_is_what_it_says_now(tmp_path):
    assert queue_runs.last_line(run_of(tmp_path, "running", LOG[: LOG.index("lora, seed")])) == "30%"
    assert queue_runs.last_line(run_of(tmp_path, "running", "")) == "nothing printed yet"
    assert queue_runs.last_line(run_of(tmp_path, "queued", None)) == "nothing printed yet"
    failed = run_of(tmp_path, "failed", "Running stage 'x':\nERROR: failed to reproduce 'x'\n")
    assert queue_runs.last_line(failed) == "failed to reproduce 'x'"


def test_a_run_that_was_stopped_is_not_said_to_have_failed(checkout, tmp_path, monkeypatch, capsys):
    found = [
        run_of(tmp_path, "failed"),
        run_of(tmp_path, "failed", name="run-2"),
        run_of(tmp_path, "done", name="run-3"),
    ]
    monkeypatch.setattr(dvc_private, "tasks", lambda: found)
    Note(arms=["lora"], stopped=True).write(note_path("run-1"))
    assert [run.state for run in queue_runs.runs()] == ["stopped", "failed", "done"]
    asked("status")
    first, second, third, last = capsys.readouterr().out.splitlines()
    assert first.split()[3:6] == ["stopped", "lora", "lora,"] and first.endswith(EPOCH_LINE)
    assert "failed" in second and third.endswith(EPOCH_LINE) and last == "3 run(s) in the queue"
    with pytest.raises(UserError, match="run-1 is stopped, there is nothing to stop"):
        asked("stop", "run-1")
    with pytest.raises(UserError, match="run-1 was stopped, see above"):
        asked("collect", "run-1")
    with pytest.raises(UserError, match="no run 'run-9' in the queue; there are run-1, run-2, run-3"):
        asked("logs", "run-9")


WAITS = """
import os, pathlib, subprocess, sys, time
if len(sys.argv) == 1:
    sys.exit(subprocess.run([sys.executable, __file__, "trainer"]).returncode)
while not (asked := pathlib.Path(".nightshift/stop") / str(os.getpid())).exists():
    time.sleep(0.02)
pathlib.Path("ended").write_text("by the file")
"""


def test_on_windows_a_trainer_is_asked_by_a_file(checkout, tmp_path, monkeypatch):
    Path("waits.py").write_text(WAITS)
    parent = subprocess.Popen([sys.executable, "waits.py"])
    while not psutil.Process(parent.pid).children():
        time.sleep(0.02)
    monkeypatch.setattr(queue_runs, "_is_in_the_works", lambda name: False)
    monkeypatch.setattr(sys, "platform", "win32")
    queue_runs.stop(replace(run_of(tmp_path, "running"), pid=parent.pid))
    assert parent.wait() == 0 and Path("ended").read_text() == "by the file"


def test_the_forecast_knows_how_much_an_unfinished_run_has_trained(checkout, committed, tmp_path, monkeypatch, change):
    change({"train.seeds": [0, 1]})
    git(checkout, "commit", "-q", "-a", "-m", "two seeds")
    head, settings = git(checkout, "rev-parse", "HEAD").strip(), params.read()
    stopped = Task("run-1", head, datetime(2026, 11, 24), "stopped", run_of(tmp_path, "stopped").log, None)
    monkeypatch.setattr(queue_runs, "runs", lambda: [stopped])
    assert queue_actions.trained_before("lora", settings) == (0.625, "run-1")  # all of seed 0, 2 of 8 epochs of seed 1
    assert queue_actions.trained_before("frozen", settings) == (0.0, "")
    assert queue_actions.trained_before("lora", params.read(["train.batch_size=4"])) == (0.0, "")
    Path("nightshift/arms/frozen.py").write_text("# of another arm\n")
    assert queue_actions.trained_before("lora", settings) == (0.625, "run-1")
    Path("nightshift/model/head.py").write_text("# changed\n")
    assert queue_actions.trained_before("lora", settings) == (0.0, "")


# Whole runs, with the miniature configuration. `nightshift queue` and DVC run as processes of their own.


def said(folder: Path, *command: str, fails: bool = False) -> str:
    done = chain.run(folder, *command)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def start(folder: Path, *words: str) -> str:
    """Start a run; its name."""
    return said(folder, "nightshift", "queue", "start", *words).splitlines()[-3].split(":")[0]


def wait(folder: Path, name: str, what: str, seconds: float = 900) -> str:
    """Until the run's line of `status` has `what` in it; the line."""
    end, line = time.monotonic() + seconds, ""
    while what not in line:
        assert time.monotonic() < end, f"{what!r} not in {line!r}"
        time.sleep(1)
        lines = said(folder, "nightshift", "queue", "status").splitlines()
        line = next(one for one in lines if one.startswith(name))
    return line


def state_of(folder: Path) -> list[str]:
    return [line.split()[-1] for line in said(folder, "dvc", "queue", "status").splitlines() if "run-" in line]


def shown(folder: Path) -> dict[str, bool]:
    """Experiments of HEAD by name, and whether `dvc exp show` has a result for each."""
    states = json.loads(chain.run(folder, "dvc", "exp", "show", "--json").stdout)
    runs = {run["name"]: run["revs"][0]["data"]["metrics"] for run in states[1]["experiments"] or []}
    return {name: "data" in metrics.get("reports/comparison/metrics.json", {}) for name, metrics in runs.items()}


@pytest.mark.slow
def test_another_arm_is_worked_on_while_one_is_in_the_queue(tmp_path):
    """A run goes on while LoRA is edited, run, killed and committed; then both arms are in one report."""
    folder = chain.clone(tmp_path / "nightshift")
    name = start(folder, "-S", "+arms.frozen.epochs=2500")
    wait(folder, name, "epoch")

    module = folder / "nightshift/arms/lora.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n# mended\n", encoding="utf-8")
    chain.edit(folder, "params.yaml", {"arms.lora.rank": 3})
    said(folder, "dvc", "repro", "train@lora")
    chain.edit(folder, "params.yaml", {"arms.lora.rank": 4, "arms.lora.epochs": 5000})
    killed = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "train@lora"],
        cwd=folder,
        env=os.environ | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert any("epoch" in line for line in killed.stdout)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    chain.edit(folder, "params.yaml", {"arms.lora.rank": 4, "arms.lora.epochs": 3})
    said(folder, "dvc", "repro", "train@lora")
    git(folder, "commit", "-q", "-a", "-m", "LoRA mended")
    assert "Running" in state_of(folder)  # or it was too short to show anything

    assert "epoch 2500/2500" in wait(folder, name, "done")
    revision = git(folder, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}").strip()
    queued = yaml.safe_load(git(folder, "show", f"{revision}:params.yaml"))["arms"]
    assert (queued["lora"]["rank"], queued["frozen"]["epochs"]) == (2, 2500)
    assert "# mended" not in git(folder, "show", f"{revision}:nightshift/arms/lora.py")

    text = said(folder, "nightshift", "queue", "collect")
    assert "arms.frozen.epochs None -> 2500, as the run had it" in text and f"experiment {name}-collected" in text
    metrics = (folder / "reports/comparison/metrics.json").read_bytes()
    said(folder, "dvc", "exp", "run", "-n", "next", "-S", "arms.lora.epochs=4")
    assert shown(folder) == {f"{name}-collected": True, "next": True}
    collected = git(folder, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}-collected").strip()
    assert git(folder, "show", f"{collected}:reports/comparison/metrics.json").encode() == metrics
    said(folder, "dvc", "exp", "apply", f"{name}-collected")
    assert f"{name}-collected, workspace" in board(folder)

    git(folder, "commit", "-q", "-a", "-m", "both")
    git(tmp_path, "clone", "-q", str(folder), "clean")
    (tmp_path / "clean/dvc.lock").unlink(missing_ok=True)
    said(tmp_path / "clean", "dvc", "repro")
    assert (tmp_path / "clean/reports/comparison/metrics.json").read_bytes() == metrics

    # A module of both arms is edited: it is named, nothing is trained, and the run's own result can be compared.
    head = folder / "nightshift/model/head.py"
    head.write_text(head.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    models = hash_folder(folder / "models")
    text = said(folder, "nightshift", "queue", "collect", fails=True)
    assert "nightshift/model/head.py changed since" in text and "--snapshot" in text
    said(folder, "nightshift", "queue", "collect", "--snapshot")
    report = (folder / f"reports/runs/{name}/report.html").read_text(encoding="utf-8")
    assert f"The frozen arm is a snapshot, {name}" in report and "nightshift/model/head.py has changed" in report
    assert hash_folder(folder / "models") == models
    snapshot = json.loads((folder / f"reports/runs/{name}/metrics.json").read_text())
    assert snapshot["arms"] == json.loads(metrics)["arms"]


def board(folder: Path) -> str:
    said(folder, "nightshift", "leaderboard")
    return (folder / "reports/leaderboard/leaderboard.csv").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on(tmp_path):
    folder, undisturbed = (chain.clone(tmp_path / name) for name in ("nightshift", "undisturbed"))
    first = start(folder, "--restarts", "0", "-S", "+arms.frozen.epochs=800")
    wait(folder, first, "epoch 1")
    trainer = next(p for p in psutil.process_iter(["cmdline", "cwd"]) if _is_trainer(p, folder))
    tree = [p for p in trainer.parents() if any("dvc" in word for word in p.cmdline())]
    for process in [trainer, *tree]:
        process.kill()
    psutil.wait_procs([trainer, *tree], timeout=10)
    assert "epoch" in wait(folder, first, "killed")
    assert "was killed" in said(folder, "nightshift", "queue", "collect", fails=True)
    assert "Running" not in state_of(folder)

    second = start(folder, "-S", "+arms.frozen.epochs=800")
    wait(folder, second, "epoch")
    assert "going on in epoch" in said(folder, "nightshift", "queue", "logs", "-n", "5000")
    next(p for p in psutil.process_iter(["cmdline", "cwd"]) if _is_trainer(p, folder)).kill()
    wait(folder, second, "done")  # by the guard
    assert "going on in epoch" in said(folder, "nightshift", "queue", "logs", "-n", "5000")
    assert f"{second} was killed and is put back" in (folder / guard.LOG).read_text(encoding="utf-8")
    assert set(state_of(folder)) == {"Success", "Failed"}
    assert shown(folder) == {first: False, second: False}  # neither reached the comparison
    revision = git(folder, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{second}").strip()
    said(folder, "dvc", "get", ".", "models/frozen", "--rev", revision, "-o", "queued")
    chain.edit(undisturbed, "params.yaml", {"arms.frozen.epochs": 800})
    said(undisturbed, "dvc", "repro", "train@frozen")
    assert hash_folder(folder / "queued") == hash_folder(undisturbed / "models/frozen")


def _is_trainer(process: psutil.Process, folder: Path) -> bool:
    words, place = process.info["cmdline"] or [], process.info["cwd"] or ""
    return "stages.train" in words and place.startswith(str(folder))


@pytest.mark.slow
def test_a_run_can_be_stopped_and_goes_on(tmp_path):
    folder = chain.clone(tmp_path / "nightshift")
    first = start(folder, "lora", "-S", "+arms.lora.epochs=3000")
    wait(folder, first, "epoch 1")
    said(folder, "nightshift", "queue", "stop")
    assert state_of(folder) == ["Failed"]
    assert not [p for p in psutil.process_iter(["cmdline", "cwd"]) if _is_trainer(p, folder)]
    assert "epoch" in wait(folder, first, "stopped")
    assert "a checkpoint is written first" in said(folder, "nightshift", "queue", "logs")
    said(folder, "nightshift", "queue", "stop", fails=True)
    text = said(folder, "nightshift", "queue", "start", "lora", "-S", "+arms.lora.epochs=3000")
    assert f"of its training, of {first}" in text
    second = text.splitlines()[-3].split(":")[0]
    wait(folder, second, "epoch")
    assert "going on in epoch" in said(folder, "nightshift", "queue", "logs", "-n", "5000")
    said(folder, "nightshift", "queue", "stop")
