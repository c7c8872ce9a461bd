"""Runs of a learning curve: which belong together, which are missing, what is drawn; and for real (slow)."""

import argparse
import csv
import json
import re
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from helpers import chain, docs
from helpers.docs import typed
from helpers.learning_curve import law, planted

from nightshift.commands import curve, dvc_adapter, dvc_private, queue_actions, queue_runs
from nightshift.commands.curve_runs import Curve
from nightshift.commands.dvc_private import Stage, Task
from nightshift.commands.experiments import SOURCES
from nightshift.config import params
from nightshift.console.errors import UserError
from nightshift.model.card import Card

ARMS = {"frozen": law(0.7, 0.1, 1.0), "lora": law(0.8, 0.3, 0.5)}
TABLE = planted(ARMS, 8, np.random.default_rng(0), numbers=(4, 8, 16, 32))
MODULE = Path("nightshift/model/head.py")
CARD = {"fold": 0, "seed": 0, "epoch": 1, "learning_rate": 0.1, "tried": {}, "threshold": 0.5, "val_dice": 0.5}
CARD |= {"data_hash": "", "weights": {"path": "random"}, "cases": {}}
MODEL = {"path": "models/lora", "md5": "old"}


def git(*arguments: str) -> str:
    who = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()


class Checkout:
    """The current folder, a git repository in which experiments have run, or wait in the queue."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.queued: list[tuple] = []

    def committed(
        self, name: str, patients: int, values: dict | None = None, source: str = "", lock: dict | None = None
    ) -> str:
        """A commit with these settings and the results of ARMS; HEAD and the workspace stay as they are.

        `source`: one of SOURCES that is another one; `lock`: more stages of dvc.lock.
        """
        before = Path("params.yaml").read_bytes()
        content = yaml.safe_load(before)
        for key, value in ({"train.patients": patients} | (values or {})).items():
            section, _, last = key.partition(".")
            content[section][last] = value
        Path("params.yaml").write_text(yaml.safe_dump(content))
        stages = {"prepare": {"deps": [{"path": path, "md5": str(path == source)} for path in SOURCES]}}
        for arm in ARMS:
            md5 = f"{name}-{arm}"
            path = dvc_adapter.cached(Path("cache"), md5)
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = TABLE[(TABLE["arm"] == arm) & (TABLE["patients"] == patients)]
            rows.drop(columns=["arm", "patients"]).to_csv(path, index=False)
            stages[f"evaluate@{arm}"] = {"outs": [{"path": f"reports/evaluation/{arm}/cases.csv", "md5": md5}]}
        card = Card(**CARD, patients=patients, settings=params.read().arm("frozen"))
        card.write(dvc_adapter.cached(Path("cache"), f"{name}-card"))
        listed = [{"relpath": "fold-0/seed-0/card.json", "md5": f"{name}-card"}]
        dvc_adapter.cached(Path("cache"), f"{name}-models").write_text(json.dumps(listed))
        stages["train@frozen"] = {"outs": [{"path": "models/frozen", "md5": f"{name}-models"}]}
        Path("dvc.lock").write_text(yaml.safe_dump({"stages": stages | (lock or {})}))
        git("add", "params.yaml", "dvc.lock", "nightshift")
        revision = git("commit-tree", git("write-tree"), "-p", "HEAD", "-m", name)
        Path("params.yaml").write_bytes(before)
        Path("dvc.lock").unlink()
        git("reset", "-q")
        return revision

    def done(self, name: str, *given, **more) -> None:
        """A finished experiment."""
        base = f"{len(git('for-each-ref').splitlines()):040x}"
        git("update-ref", f"refs/exps/{base[:2]}/{base[2:]}/{name}", self.committed(name, *given, **more))

    def task(self, name: str, state: str, *given) -> None:
        """A run of the queue."""
        self.tasks.append(Task(name, self.committed(name, *given), datetime.now(), state, None, None))


@pytest.fixture
def repository(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    MODULE.parent.mkdir(parents=True)
    MODULE.write_text("# head\n")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        git(*command)
    made = Checkout()
    monkeypatch.setattr(dvc_private, "stages_of", lambda targets: [Stage("train", ("nightshift/model", "data"))])
    monkeypatch.setattr(dvc_adapter, "cache_folder", lambda: Path("cache"))
    monkeypatch.setattr(dvc_private, "tasks", lambda: made.tasks)
    monkeypatch.setattr(queue_actions, "put_in", lambda *given: made.queued.append(given))
    monkeypatch.setattr(dvc_adapter, "dvc", lambda *given: made.queued.append(given))
    return made


def asked(*words: str) -> None:
    """`nightshift curve WORDS` in this process."""
    parser = argparse.ArgumentParser()
    curve.add_arguments(parser)
    curve.main(parser.parse_args(words))


def states(*changes: str) -> dict[str, tuple[str, str]]:
    return {patients: (run.name, run.state) for patients, run in Curve(changes).runs().items()}


def test_runs_belong_together_that_differ_in_the_number_of_patients_and_the_name_alone(repository):
    repository.done("four", 4)
    repository.done("by-hand", 8, {"compare.level": 0.01})  # no arm follows from it
    repository.done("faster", 16, {"train.learning_rate": 0.01})
    repository.done("older", 32)
    repository.done("newer", 32)
    expected = {"4": ("four", "done"), "8": ("by-hand", "done"), "32": ("newer", "done")}
    assert states() == expected
    assert states("train.learning_rate=0.01") == {"16": ("faster", "done")}
    MODULE.write_text("# edited\n")
    assert states() == {}


def test_results_of_other_data_or_that_are_gone_do_not_belong(repository):
    for number, source in enumerate(SOURCES):
        repository.done(f"other-data-{number}", 4, source=source)
    repository.done("gone", 8)
    repository.done("there", 16)
    dvc_adapter.cached(Path("cache"), "gone-lora").unlink()
    assert states() == {"16": ("there", "done")}


def test_a_run_that_stopped_halfway_does_not_belong(repository):
    repository.done("mixed", 4, lock={"train": {"outs": [MODEL | {"md5": "new"}]}, "test": {"deps": [MODEL]}})
    repository.done("whole", 8, lock={"train": {"outs": [MODEL]}, "test": {"deps": [MODEL]}})
    assert states() == {"8": ("whole", "done")}


def test_only_what_is_missing_is_queued(repository, capsys, monkeypatch):
    forgotten = []
    monkeypatch.setattr(queue_runs, "forget", lambda run: forgotten.append(run.name))
    repository.done("four", 4)
    repository.task("waits", "queued", 8)
    repository.task("dead", "killed", 16)
    repository.task("broken", "failed", 32)
    repository.task("other", "running", 64, {"train.epochs": 99})
    asked("-S", "train.patients=4,8,16,32,all", "-S", "train.epochs=12")
    *runs, start = repository.queued
    assert [(name.split("-")[:2], targets, arms) for name, targets, arms, *_ in runs] == [
        (["curve", number], [], ["frozen", "lora"]) for number in ("16", "32", "all")
    ]
    assert runs[0][3] == ["train.epochs=12", "train.patients=16"]
    assert start == ("queue", "start") and forgotten == ["dead"]
    printed = capsys.readouterr().out
    assert printed.startswith("queued: train.patients 16, 32, all;")
    assert "still to come: 16, 32, all, 8; draw them when they are done: nightshift curve" in printed


def test_nothing_is_queued_or_started_where_all_is_there(repository):
    repository.done("four", 4)
    asked("-S", "train.patients=4")
    assert repository.queued == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), r"no run of these settings yet; nightshift curve -S train.patients=8,16,32,64,all makes some"),
        (("-S", "train.patients=8,,16"), "expected numbers, and all, with commas between them"),
        (("-S", "train.patients="), "expected numbers, and all, with commas between them"),
        (("-S", "train.patients=8,most"), "train.patients"),
        (("-S", "train.patients=8,-1"), "train.patients"),
        (("-S", "train.patients=8,99"), r"train.patients=99: there are \d+ to train on; take fewer, or all"),
        (("-S", "+arms.lora.patients=8"), "arms.lora.patients is set"),
        (("-S", "train.epochs=2,4", "-S", "train.patients=8"), "expected one value"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_queued(repository, words, message):
    with pytest.raises(UserError, match=message):
        asked(*words)
    assert repository.queued == []


def test_a_file_that_git_does_not_know_is_named(repository):
    Path("nightshift/model/new.py").write_text("")
    with pytest.raises(UserError, match=r"`git add nightshift/model/new\.py` first"):
        asked("-S", "train.patients=4")


def test_the_page_has_every_run_and_says_that_weights_are_random(repository, capsys, tmp_path):
    for number in (4, 8, 16, 32):
        repository.done(f"run-{number}", number)
    asked("-o", "page")
    page = Path("page/learning-curve.html").read_text(encoding="utf-8")
    assert all(f"run-{number}" in page for number in (4, 8, 16, 32))
    assert "This encoder has random weights." in page
    with Path("page/learning-curve.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["patients"] for row in rows] == ["4", "8", "16", "32", "64"]
    first = TABLE[(TABLE["arm"] == "lora") & (TABLE["patients"] == 4)]["dice"].mean()
    assert float(rows[0]["lora.dice"]) == pytest.approx(first, abs=1e-6)
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "4, 8, 16, 32 training patients: page/learning-curve.html" and "LoRA" in printed[0]


def when(folder: Path, ready: Callable[[str], bool]) -> str:
    """The status of the queue once it is `ready`."""
    end = time.monotonic() + 30 * 60
    while not ready(status := typed(folder, "nightshift queue status")):
        assert time.monotonic() < end, status
        time.sleep(5)  # asking takes a second of a core that the runs want
    return status


@pytest.mark.slow
def test_the_curve_of_the_docs_goes_on_after_a_kill(tmp_path, monkeypatch):
    """With 24 simulated patients, of which 6 are tested: minutes."""
    for key, value in {"patients": 24, "views": 1}.items():
        monkeypatch.setitem(chain.MINIATURE["conf/data/synthetic.yaml"], key, value)
    folder = chain.clone(tmp_path / "nightshift")
    (start, status), (draw,) = (block.lines for block in docs.blocks("docs/report.md", "console", "Learning curves"))
    start = start.replace("8,16,32,64,all", "2,4,8,all")
    assert typed(folder, start).startswith("queued: train.patients 2, 4, 8, all;")
    when(folder, lambda text: " done " in text and " running " in text)
    kill_all_in(folder)
    assert " killed " in typed(folder, status)
    again = typed(folder, start)
    assert again.startswith("queued: train.patients 4;") and "\n2 training patients: " in again
    last = when(folder, lambda text: not re.search(" (queued|running) ", text))
    assert last.count(" done ") == 4, last
    assert typed(folder, start) == typed(folder, draw)
    runs = re.findall(r"^curve-\S+", last, re.MULTILINE)
    logs = [chain.run(folder, "dvc", "queue", "logs", name).stdout for name in runs]
    assert len(runs) == 5
    assert sum("Running stage 'encode@frozen'" in log for log in logs) == 1  # whatever the number of patients
    with (folder / "reports/learning-curve/learning-curve.csv").open(encoding="utf-8", newline="") as handle:
        assert [row["patients"] for row in csv.DictReader(handle)] == ["2", "4", "8", "12", "24"]
    page = (folder / "reports/learning-curve/learning-curve.html").read_text(encoding="utf-8")
    assert "This encoder has random weights." in page and "LoRA" in page


def kill_all_in(folder: Path) -> None:
    """DVC's worker and all that it has started."""
    ours = [one for one in psutil.process_iter(["cmdline", "cwd"]) if (one.info["cwd"] or "").startswith(str(folder))]
    for process in ours:
        process.kill()
    psutil.wait_procs(ours, timeout=10)
