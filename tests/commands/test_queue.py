"""The night run: what is said before it starts, what counts as changed, and whole evenings for real (slow)."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import test_chain as chain
import yaml

from nightshift.jobs import preconditions as gate
from nightshift.commands import collect as morning
from nightshift.commands import queue as night
from nightshift.console.errors import UserError
from nightshift.core.hashing import hash_folder
from stages import night as stage


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def repository(folder: Path) -> str:
    """A commit with modules, settings and a lock that has their hashes, as a finished night leaves it."""
    (folder / "nightshift").mkdir(exist_ok=True)
    for name in ("segmenter", "lora"):
        (folder / f"nightshift/{name}.py").write_text(f"# {name}\n")
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    deps = [{"path": "nightshift/model/head.py", "md5": night._md5(folder / "nightshift/model/head.py")}]
    own = {
        "deps": deps,
        "params": {"params.yaml": {key: settings[key] for key in ("use.encoder", "train", "frozen") if "." not in key}},
    }
    own["params"]["params.yaml"]["use.encoder"] = settings["use"]["encoder"]
    lock = {"schema": "2.0", "stages": dict.fromkeys(night.STAGES, own)}
    lock["stages"] |= {"probe": {"deps": [{"path": "nightshift/arms/lora.py", "md5": "0"}]}}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        git(folder, *command)
    return "HEAD"


def test_only_what_the_frozen_arm_depends_on_counts_as_changed(checkout, change):
    revision = repository(checkout)
    assert night.changed(revision) == ([], {})
    Path("nightshift/arms/lora.py").write_text("# mended\n")
    change({"lora.rank": 99})
    assert night.changed(revision) == ([], {})
    Path("nightshift/model/head.py").write_text("# changed\n")
    change({"frozen.epochs": 7, "use.encoder": "mini", "train.learning_rate": 1e-5})
    assert night.changed(revision) == (
        ["nightshift/model/head.py"],
        {"use.encoder": ("tiny", "mini"), "train.learning_rate": (0.003, 1e-5), "frozen.epochs": (None, 7)},
    )


@pytest.fixture
def collected(checkout, monkeypatch):
    """A finished night; what `dvc` is asked to do is noted."""
    revision, asked = repository(checkout), []
    monkeypatch.setattr(night, "result", lambda name: revision)
    monkeypatch.setattr(night, "dvc", lambda *words, **environment: asked.append((words, environment)) or "")
    return asked


def test_what_the_night_was_told_is_set_in_the_workspace_and_comments_stay(collected, change):
    morning.remember("night-1", ["frozen.epochs=7"])
    lock = Path("dvc.lock").read_text().replace("epochs: null", "epochs: 7")
    Path("dvc.lock").write_text(lock)
    git(Path.cwd(), "commit", "-q", "-a", "-m", "the night's")
    comments = Path("params.yaml").read_text(encoding="utf-8").count("#")
    morning.collect("night-1")
    text = Path("params.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text)["frozen"]["epochs"] == 7 and text.count("#") == comments
    assert collected[-1] == (("repro", "compare"), {gate.NO_TRAINING: "1"})


def test_a_setting_edited_since_is_named_and_nothing_is_run(collected, change):
    morning.remember("night-1", [])
    change({"train.batch_size": 3})
    with pytest.raises(UserError, match=r"other settings \(now train.batch_size 3 instead of 8\); nothing was trained"):
        morning.collect("night-1")
    Path("nightshift/model/head.py").write_text("# changed\n")
    with pytest.raises(UserError, match=r"other code \(nightshift/model/head.py changed since\) and settings"):
        morning.collect("night-1")
    assert not [words for words, _ in collected if "compare" in words]


def test_no_arm_is_trained_where_only_the_cache_was_asked_for(checkout, monkeypatch):
    monkeypatch.setenv(gate.NO_TRAINING, "1")
    with pytest.raises(
        UserError, match=r"the lora arm is not trained with the present settings.*`dvc repro train_lora`"
    ):
        gate.require_ok("lora")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-S", "train.epoch=3"], "did you mean 'epochs'"),
        (["-S", "use.encoder=nope"], "no preset 'nope'"),
        (["-S", "frozen.epochs=many"], "frozen.epochs"),
        (["-S", "encoder.rope=as_shipped", "-S", "encoder.resolution=70"], "the probe refuses the frozen arm"),
        (["-S", "use.data=angiograms", "-S", "view.mode=none"], "no such folder"),
    ],
)
def test_what_is_wrong_is_said_in_the_evening(checkout, arguments, message):
    repository(checkout)
    with pytest.raises(UserError, match=message):
        stage.main(["start", *arguments])


def test_a_file_that_git_does_not_know_is_named(checkout):
    repository(checkout)
    (checkout / "stages").mkdir()
    (checkout / "stages/dvc.lock").write_text("")
    assert night.untracked() == []
    shutil.copy("conf/data/synthetic.yaml", "conf/data/mine.yaml")
    with pytest.raises(UserError, match=r"`git add conf/data/mine\.yaml` first"):
        stage.main(["start", "-S", "use.data=mine"])


def test_last_lines_are_those_that_say_something(tmp_path):
    log = tmp_path / "night.out"
    log.write_text("one\n\n10%\r20%\r30%\nlast\n\n")
    one = night.Night("night-1", "0", None, "running", log, None)
    assert night.last_lines(one, 2) == ["30%", "last"]
    assert night.last_lines(night.Night("night-1", "0", None, "queued", None, None), 2) == []


# Whole evenings, with the miniature configuration. `night` and DVC run as processes of their own.


def said(folder: Path, *command: str, fails: bool = False) -> str:
    done = chain.run(folder, *command)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def start(folder: Path, *settings: str) -> str:
    """Start a night; its name."""
    changes = [word for one in settings for word in ("-S", one)]
    return said(folder, "stages.night", "start", *changes).splitlines()[-3].split(":")[0]


def wait(folder: Path, name: str, what: str, seconds: float = 900) -> None:
    """Until the night's line of `status` has `what` in it."""
    end, line = time.monotonic() + seconds, ""
    while what not in line:
        assert time.monotonic() < end, f"{what!r} not in {line!r}"
        time.sleep(1)
        lines = said(folder, "stages.night", "status").splitlines()
        line = next(one for one in lines if one.startswith(name))


def state_of(folder: Path) -> list[str]:
    return [line.split()[-1] for line in said(folder, "dvc", "queue", "status").splitlines() if "night-" in line]


@pytest.mark.slow
def test_an_evening(tmp_path):
    """The night goes on while LoRA is edited, run, killed and committed; in the morning both are in one report."""
    folder = chain.clone(tmp_path / "nightshift")
    name = start(folder, "frozen.epochs=2500")
    wait(folder, name, "epoch")

    module = folder / "nightshift/arms/lora.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n# mended\n", encoding="utf-8")
    chain.edit(folder, "params.yaml", {"lora.rank": 3})
    said(folder, "dvc", "repro", "train_lora")
    chain.edit(folder, "params.yaml", {"lora.rank": 4, "lora.epochs": 5000})
    killed = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro", "train_lora"],
        cwd=folder,
        env=os.environ | {"PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert any("epoch" in line for line in killed.stdout)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    chain.edit(folder, "params.yaml", {"lora.rank": 4, "lora.epochs": 3})
    said(folder, "dvc", "repro", "train_lora")
    git(folder, "commit", "-q", "-a", "-m", "LoRA mended")
    assert "Running" in state_of(folder)  # or this evening was too short to show anything

    wait(folder, name, "done")
    revision = git(folder, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{name}").strip()
    queued = yaml.safe_load(git(folder, "show", f"{revision}:params.yaml"))
    assert (queued["lora"]["rank"], queued["frozen"]["epochs"]) == (2, 2500)
    assert "# mended" not in git(folder, "show", f"{revision}:nightshift/arms/lora.py")

    assert "as the night had it" in said(folder, "stages.night", "collect")
    metrics = (folder / "reports/comparison/metrics.json").read_bytes()
    git(folder, "commit", "-q", "-a", "-m", "both")
    git(tmp_path, "clone", "-q", str(folder), "clean")
    (tmp_path / "clean/dvc.lock").unlink(missing_ok=True)
    said(tmp_path / "clean", "dvc", "repro")
    assert (tmp_path / "clean/reports/comparison/metrics.json").read_bytes() == metrics

    # A module of both arms is edited: it is named, nothing is trained, and the night's own result can be compared.
    shared = folder / "nightshift/model/head.py"
    shared.write_text(shared.read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    models = hash_folder(folder / "models")
    text = said(folder, "stages.night", "collect", fails=True)
    assert "nightshift/model/head.py changed since" in text and "--snapshot" in text
    said(folder, "stages.night", "collect", "--snapshot")
    report = (folder / f"reports/nights/{name}/report.html").read_text(encoding="utf-8")
    assert f"The frozen arm is a snapshot, {name}" in report and "nightshift/model/head.py has changed" in report
    assert hash_folder(folder / "models") == models
    snapshot = json.loads((folder / f"reports/nights/{name}/metrics.json").read_text())
    assert snapshot["dice"] == json.loads(metrics)["dice"]


@pytest.mark.slow
def test_a_night_that_was_killed_goes_on(tmp_path):
    folder, undisturbed = (chain.clone(tmp_path / name) for name in ("nightshift", "undisturbed"))
    first = start(folder, "frozen.epochs=800")
    wait(folder, first, "epoch 1")
    trainer = next(p for p in psutil.process_iter(["cmdline", "cwd"]) if _is_trainer(p, folder))
    tree = [p for p in trainer.parents() if any("dvc" in word for word in p.cmdline())]
    for process in [trainer, *tree]:
        process.kill()
    psutil.wait_procs([trainer, *tree], timeout=10)
    wait(folder, first, "killed")
    assert "was killed" in said(folder, "stages.night", "collect", fails=True)
    assert "Running" not in state_of(folder)

    second = start(folder, "frozen.epochs=800")
    wait(folder, second, "done")
    assert "going on in epoch" in said(folder, "stages.night", "logs", "-n", "5000")
    assert set(state_of(folder)) == {"Success", "Failed"}
    revision = git(folder, "for-each-ref", "--format=%(objectname)", f"refs/exps/*/*/{second}").strip()
    said(folder, "dvc", "get", ".", "models/frozen", "--rev", revision, "-o", "night")
    chain.edit(undisturbed, "params.yaml", {"frozen.epochs": 800})
    said(undisturbed, "dvc", "repro", "train_frozen")
    assert hash_folder(folder / "night") == hash_folder(undisturbed / "models/frozen")


def _is_trainer(process: psutil.Process, folder: Path) -> bool:
    words, place = process.info["cmdline"] or [], process.info["cwd"] or ""
    return "stages.train_frozen" in words and place.startswith(str(folder))


@pytest.mark.slow
def test_a_night_can_be_stopped_and_goes_on(tmp_path):
    folder = chain.clone(tmp_path / "nightshift")
    first = start(folder, "frozen.epochs=3000")
    wait(folder, first, "epoch 1")
    said(folder, "stages.night", "stop")
    assert state_of(folder) == ["Failed"]
    assert not [p for p in psutil.process_iter(["cmdline", "cwd"]) if _is_trainer(p, folder)]
    assert "a checkpoint is written first" in said(folder, "stages.night", "logs")
    said(folder, "stages.night", "stop", fails=True)
    second = start(folder, "frozen.epochs=3000")
    wait(folder, second, "epoch")
    assert "going on in epoch" in said(folder, "stages.night", "logs", "-n", "5000")
    said(folder, "stages.night", "stop")
