"""`nightshift watch`: what runs, what has died, when it ends; in the terminal and as a page. Read from files alone."""

import os
import platform
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from nightshift.commands import queue_runs, watch, watch_page, watching
from nightshift.commands.dvc_private import Task
from nightshift.commands.main import dispatch
from nightshift.commands.watching import Queued, View
from nightshift.console.errors import UserError
from nightshift.core.io import read_csv, write_csv
from nightshift.engine import checkpoints
from nightshift.jobs.running import CURVE, CURVES, NAME, Running

ROW = {"fold": 0, "seed": 0, "train_loss": 0.5, "val_loss": 0.6}


def training(name: str, epochs: int = 0, finished: bool = False, **values) -> Path:
    """The folder of a training of this process that has done `epochs` of 10, one a second."""
    note = {"arm": name, "fold": 0, "seed": 0, "learning_rate": 0.003, "epochs": 10, "before": 0, "run": ""}
    note |= {"device": "cpu", "host": platform.node(), "process": os.getpid()}
    note |= {"started": psutil.Process().create_time()} | values
    folder = checkpoints.folder_of(f"train@{name}", "0123456789abcdef")
    Running(**note).write(folder / NAME)
    if epochs:
        rows = [{**ROW, "epoch": i + 1, "val_dice": 0.4 + 0.1 * (i % 3)} for i in range(epochs)]
        write_csv(folder / CURVE, CURVES, rows)
        now = time.time()
        os.utime(folder / NAME, (now - epochs, now - epochs))
        os.utime(folder / CURVE, (now, now))
    if finished:
        (folder / checkpoints.FINISHED).write_text("{}")
    return folder


def test_how_each_training_is(checkout):
    training("alive", epochs=4)
    training("new")
    training("done", epochs=10, finished=True)
    training("killed", epochs=2, process=2**22 + 1)
    training("reused", epochs=2, started=1.0)  # another process has its number now
    training("far", epochs=2, host="another machine")
    old = training("old", epochs=3, finished=True)
    os.utime(old / CURVE, (1, 1))
    os.utime(old / NAME, (1, 1))
    found = {one.running.arm: one for one in watching.view().trainings}
    states = {name: one.state for name, one in found.items()}
    assert states == {
        **{"alive": "running", "new": "running", "done": "finished"},
        **{"killed": "dead", "reused": "dead", "far": "elsewhere"},
    }
    assert [*states.values()] == sorted(states.values(), key=watching.ORDER.index)
    assert found["alive"].left == pytest.approx(6, abs=1) and found["far"].left == pytest.approx(8, abs=1)
    assert found["new"].left is found["killed"].left is found["done"].left is None
    assert found["alive"].best == 0.6 and found["new"].best is None


def test_a_run_that_goes_on_is_timed_by_its_own_epochs(checkout):
    training("again", epochs=8, before=6)  # two of them in eight seconds
    (one,) = watching.view().trainings
    assert one.left == pytest.approx(8, abs=1)


def test_the_terminal_and_the_page_say_the_same(checkout, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    training("lora", epochs=4, run="run-1")
    training("frozen", epochs=2, process=2**22 + 1)
    monkeypatch.setattr(watching, "_shown", lambda runs: [Queued("run-1", "killed", "lora", "<b>epoch 4</b>")])
    dispatch(["watch", "--once", "--html"])
    out, text = capsys.readouterr().out, watch.PAGE.read_text()
    for words in ("lora, fold 0, seed 0", "running", "dead", "killed", "run-1", "0.600", "0.400"):
        assert words in out and words in text
    assert "4/10" in out and "epoch 4 of 10" in text and "6 s" in out and "6 s left" in text
    assert out.strip().endswith("reports/watch.html")
    assert "<b>epoch" not in text and "&lt;b&gt;epoch 4&lt;/b&gt;" in text  # a log is no HTML
    assert 'http-equiv="refresh" content="5"' in text and "http://" not in text and "https://" not in text


def test_of_the_queue_what_is_over_is_not_shown_but_for_what_failed_today(checkout, monkeypatch):
    today, log = datetime.now(), Path("log")
    log.write_text("frozen, seed 0: epoch 2/9, training loss 1\nerror: out of memory\n")
    runs = [
        Task(state, "0" * 40, today, state, log, None) for state in ("queued", "running", "killed", "failed", "done")
    ]
    runs.append(Task("old", "0" * 40, today - timedelta(days=2), "failed", log, None))
    monkeypatch.setattr(queue_runs, "runs", lambda: runs)
    shown = {one.name: one.line for one in watching.view().queue}
    assert [*shown] == ["queued", "running", "killed", "failed"] and shown["failed"] == "out of memory"


def test_a_training_on_another_machine_is_dead_when_its_job_is(checkout, monkeypatch):
    for name in ("runs", "ended"):
        training(name, epochs=2, host="a node", run=name)
    states = {"runs": "running", "ended": "killed"}
    runs = [Task(name, "0" * 40, datetime.now(), state, None, None) for name, state in states.items()]
    monkeypatch.setattr(queue_runs, "runs", lambda: runs)
    assert {one.running.arm: one.state for one in watching.view().trainings} == {"runs": "elsewhere", "ended": "dead"}


def test_nothing_to_see_is_said(checkout, capsys):
    dispatch(["watch", "--once"])
    out = capsys.readouterr().out
    assert "no training in the last day" in out and "no run waits, runs or has failed in the queue" in out
    assert "No training in the last day" in watch_page.page(View(0.0, [], []), 5)
    with pytest.raises(UserError, match="--every 0: expected seconds"):
        dispatch(["watch", "--every", "0"])


def test_it_looks_again_until_ctrl_c(checkout):
    training("lora", epochs=4)
    command = [sys.executable, "-m", "nightshift.commands.main", "watch", "--html", "--every", "0.2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # where make was started in the background
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, preexec_fn=listening) as process:
        deadline = time.monotonic() + 60
        while not (watch.PAGE.is_file() and "epoch 4 of 10" in watch.PAGE.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        training("lora", epochs=5)
        while "epoch 5 of 10" not in watch.PAGE.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 1


def test_a_curve_is_whole_at_any_moment(checkout):
    """Read a thousand times while it is written."""
    path, over = Path("curve.csv"), threading.Event()
    rows = [{**ROW, "epoch": i + 1, "val_dice": 0.5} for i in range(200)]
    write_csv(path, CURVES, rows[:1])

    def write():
        while not over.is_set():
            for count in range(1, 200, 7):
                write_csv(path, CURVES, rows[:count])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(1000):
            found = read_csv(path)
            assert [int(row["epoch"]) for row in found] == list(range(1, len(found) + 1)) and len(found) % 7 == 1
            assert None not in found[-1].values()
    finally:
        over.set()
        writer.join()
