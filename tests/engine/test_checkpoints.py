"""Losing work is impossible: a run that is killed anywhere goes on, and ends with the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from nightshift.engine import checkpoints
from nightshift import feature_cache as encoding
from nightshift.core import io as files
from nightshift.training.trainer import state as loop
from nightshift.model.segmentation import lora
from nightshift.training.trainer import trainer as training
from nightshift.console.errors import UserError
from nightshift.core.io import read_json
from nightshift.core.hashing import hash_folder

# One stage in a process of its own, that kills itself (SIGKILL) at the N-th of some kind of event.
SLOW = 0.5  # seconds
KILLED = (
    f"""
SLOW = {SLOW}
"""
    + """
import os, signal, sys, time
from pathlib import Path
event, number, stage = sys.argv[1], int(sys.argv[2]), sys.argv[3]
import torch
from nightshift.engine import checkpoints
from nightshift import feature_cache as encoding
from nightshift.core import io as files
from nightshift.training.trainer import state as loop
from nightshift.training.trainer import trainer as training
from importlib import import_module
seen = 0
def dies(after):
    def wrap(function):
        def wrapped(*arguments, **options):
            global seen
            seen += 1
            if seen == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options)
            if seen == number and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result
        return wrapped
    return wrap
if event == "shard":
    encoding.save_file = dies(True)(encoding.save_file)
elif event == "step":
    training.Run.step = dies(True)(training.Run.step)
elif event == "gradient":
    loop.add_gradients = dies(True)(loop.add_gradients)
elif event == "slow_gradient":
    real_gradients = dies(True)(loop.add_gradients)
    def slow(*arguments):
        time.sleep(SLOW)
        return real_gradients(*arguments)
    loop.add_gradients = slow
elif event == "inside_write":
    real = checkpoints.save_file
    def half(tensors, path, metadata):
        real(tensors, path, metadata=metadata)
        os.truncate(path, path.stat().st_size // 2)
    checkpoints.save_file = dies(True)(half) if number == 1 else dies(True)(real)
elif event == "after_rename":
    checkpoints._states = dies(False)(checkpoints._states)
elif event == "before_move":
    checkpoints.finished = dies(False)(checkpoints.finished)
elif event == "after_move":
    import nightshift.cost
    nightshift.jobs.resources.write_json = dies(False)(nightshift.jobs.resources.write_json)
from nightshift.console.errors import run
run(import_module(f"stages.{stage}").main)
"""
)


@pytest.fixture
def project(small, prepared):
    """Miniature settings with prepared cases and a probe that lets both arms pass; a checkpoint after every batch."""
    small({"train.epochs": 3, "lora.dropout": 0.3})
    Path("hardware.yaml").write_text("device: cpu\nthreads: 1\ncheckpoint_minutes: 0\n")
    for arm in ("frozen", "lora"):
        files.write_json(f"reports/probe/{arm}.json", {"ok": True, "cause": "", "cure": ""})
    return Path.cwd()


def stage(name: str, event: str = "none", number: int = 0) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", KILLED, event, str(number), name], env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


def whole(arm: str) -> None:
    for name in (f"encode_{arm}", f"train_{arm}"):
        done = stage(name)
        assert done.returncode == 0, done.stderr


def outputs(arm: str) -> tuple[str, str]:
    return hash_folder(Path("data/encoded") / arm), hash_folder(Path("models") / arm)


def clean(arm: str) -> None:
    """What DVC does before it runs a stage: its outputs go; and here the checkpoints of an undisturbed run."""
    for folder in (Path("data/encoded") / arm, Path("models") / arm, checkpoints.FOLDER):
        files._remove(folder)


FEW = [("encode", "shard", 2), ("train", "step", 5), ("train", "inside_write", 1), ("train", "after_move", 1)]
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
    "arm, events",
    [
        ("lora", FEW),
        pytest.param("lora", EVENTS, marks=pytest.mark.slow),
        pytest.param("frozen", EVENTS, marks=pytest.mark.slow),
    ],
)
def test_killed_anywhere_it_ends_with_the_same_bytes(project, arm, events):
    whole(arm)
    expected = outputs(arm)
    clean(arm)
    for step, event, number in events:
        if step == "train" and not (Path("data/encoded") / arm).exists():
            assert stage(f"encode_{arm}").returncode == 0
        killed = stage(f"{step}_{arm}", event, number)
        assert killed.returncode == -signal.SIGKILL, (event, killed.stderr)
        if event in ("before_move", "step", "inside_write", "after_rename"):
            assert not (Path("models") / arm).exists()
        files._remove(Path("models") / arm)
        again = stage(f"{step}_{arm}")
        assert again.returncode == 0, again.stderr
        went_on = {"shard": "going on after", "step": "going on in epoch", "after_rename": "going on in epoch"}
        if event in went_on and (event, number) != ("step", 1):
            assert went_on[event] in again.stdout, (event, again.stdout)
        if step == "train":
            assert outputs(arm) == expected, event
            files._remove(checkpoints.FOLDER / f"train_{arm}")
            files._remove(Path("models") / arm)


def test_the_last_state_is_the_last_however_many_digits_its_step_has(tmp_path):
    """Epoch 100 after epoch 99: names of unequal length do not sort as numbers do."""
    for epoch in (98, 99, 100, 101):
        checkpoints.save(tmp_path, epoch * 10**6, {"x": torch.ones(1)}, {"epoch": epoch})
    assert checkpoints.latest(tmp_path)[1] == {"epoch": 101}
    assert len(list(tmp_path.iterdir())) == checkpoints.KEPT


def test_other_settings_do_not_go_on_with_it(project, change):
    assert stage("encode_frozen").returncode == 0
    assert stage("train_frozen", "step", 3).returncode == -signal.SIGKILL
    change({"train.learning_rate": 0.001})
    other = stage("train_frozen")
    assert other.returncode == 0 and "going on" not in other.stdout
    change({"train.learning_rate": 0.003})
    assert "going on in epoch" in stage("train_frozen").stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_writes_a_checkpoint_and_ends_in_one_line(project, number):
    assert stage("encode_frozen").returncode == 0
    Path("hardware.yaml").write_text("device: cpu\nthreads: 1\n")
    code = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", f"os.kill(os.getpid(), {int(number)})")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, "gradient", "2", "train_frozen"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: stopped in epoch 1; the same command goes on from there"
    assert "going on in epoch 1, after 2 batches" in stage("train_frozen").stdout


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, {"x": torch.full((50,), float(step))}, {"step": step})
    states = sorted(tmp_path.glob("*.safetensors"))
    assert len(states) == 2
    content = bytearray(states[1].read_bytes())
    content[-3] ^= 1  # one bit
    states[1].write_bytes(content)
    tensors, values = checkpoints.latest(tmp_path)
    assert values == {"step": 2} and torch.equal(tensors["x"], torch.full((50,), 2.0))
    states[0].write_bytes(b"")
    assert checkpoints.latest(tmp_path) is None


def test_two_processes_never_share_a_run(checkout):
    with checkpoints.run_folder("train_lora", "abc"):
        code = "from nightshift import checkpoints\nwith checkpoints.run_folder('train_lora', 'abc'): pass"
        done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)},
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert "another process is at this very run of train_lora" in done.stderr
    with checkpoints.run_folder("train_lora", "abc"):
        pass


def test_a_second_worker_waits_and_goes_on_from_what_the_first_leaves(checkout):
    """What it waits for is not tidied away under it; where it is gone already, the folder is made again."""
    code = (
        "from nightshift import checkpoints, files\n"
        "with checkpoints.run_folder('train_lora', 'abc', wait=True) as folder: print(sorted(folder.glob('s*')))"
    )
    waiting = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "stdout": subprocess.PIPE, "text": True}
    files.write_text("models/lora/x", "1")
    for removed in (False, True):
        with checkpoints.run_folder("train_lora", "abc") as folder:
            second = subprocess.Popen([sys.executable, "-c", code], **waiting)
            assert second.stdout.readline().endswith("abc); this one waits for it\n")
            files.write_text(folder / "state", "1")
            checkpoints.finished("train_lora", "abc", Path("models/lora"))
            checkpoints.tidy("train_lora", Path("models/lora"))
            assert (folder / "state").exists()
            if removed:
                shutil.rmtree(folder, ignore_errors=True)
        told, _ = second.communicate(timeout=60)
        assert second.returncode == 0 and ("state" in told) is not removed


def test_a_run_is_kept_until_the_next_stage_starts(checkout):
    made = Path("models/lora")
    files.write_text(made / "x", "1")
    for identity in ("a", "b"):
        with checkpoints.run_folder("train_lora", identity):
            pass
    checkpoints.finished("train_lora", "a", made)
    files.write_text(made / "x", "2")
    checkpoints.tidy("train_lora", made)
    assert (checkpoints.FOLDER / "train_lora/a").exists()
    files.write_text(made / "x", "1")
    checkpoints.tidy("train_lora", made)
    assert not (checkpoints.FOLDER / "train_lora/a").exists() and (checkpoints.FOLDER / "train_lora/b").exists()


def test_a_full_disk_is_one_line_and_leaves_the_last_result(project):
    whole("frozen")
    before = outputs("frozen")
    code = KILLED.replace('if event == "shard"', 'if event == "full":\n'
        '    def full(*a, **k): raise OSError(28, "No space left on device", "models/x")\n'
        '    training.save_file = full\nelif event == "shard"')  # fmt: skip
    command = [sys.executable, "-c", code, "full", "1", "train_frozen"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
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
        done = stage("train_frozen")
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("error: ") and "no space left" in done.stderr
        assert outputs("frozen") == before and not list(Path("models").glob(".*"))
        assert list((checkpoints.FOLDER / "train_frozen").rglob("*.safetensors"))
    finally:
        subprocess.run(["umount", "models"], check=True)


def test_a_disk_too_small_for_the_tokens_is_refused_before_it_starts(project, monkeypatch):
    monkeypatch.setattr("nightshift.feature_cache.shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match=r"the tokens of 7 cases take .* are free; free some"):
        encoding.encode_arm("frozen", training_settings(), end=3)
    assert not Path("data/encoded").exists()


def test_a_place_that_cannot_be_written_is_one_line_before_training(project):
    assert stage("encode_frozen").returncode == 0
    files._remove(Path("models"))
    Path("models").write_text("a file")
    done = stage("train_frozen")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert Path("models").read_text() == "a file"


def test_out_of_memory_names_what_to_lower(project, change, monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "add_gradients", short)
    for arm in ("frozen", "lora"):
        assert stage(f"encode_{arm}").returncode == 0
        with pytest.raises(UserError, match=rf"2 case\(s\) at a time: set {arm}.micro_batch=1;"):
            train(arm)
    change({"train.micro_batch": 1})
    with pytest.raises(UserError, match=r"set lora.activation_checkpointing=true"):
        train("lora")
    with pytest.raises(UserError, match=r"lower encoder.resolution"):
        train("frozen")


def training_settings():
    from nightshift.config import params as settings

    return settings.read()


def train(arm: str) -> None:
    chosen = training_settings()
    adapt = (lambda trunk: lora.add_adapters(trunk, chosen.lora)) if arm == "lora" else (lambda trunk: None)
    start = 3 if arm == "frozen" else lora.prefix_end(chosen.lora, 3)
    training.train_arm(arm, chosen, start=start, adapt=adapt, save=lambda adapted, folder: None)


def test_the_log_of_a_run_reads_well(project):
    whole("frozen")
    lines = stage("train_frozen").stdout.splitlines()
    assert lines[-1] == "frozen arm, 1 model(s): models/frozen"
    cost = read_json("reports/cost/train_frozen.json")
    assert cost["parameters_trained"] > 0 and cost["seconds_per_epoch"] > 0
    assert cost["cases_per_second"] == pytest.approx(5 / cost["seconds_per_epoch"], rel=0.05)
    encoded = read_json("reports/cost/encode_frozen.json")
    assert (encoded["cases"], encoded["cases_before"]) == (7, 0) and encoded["cases_per_second"] > 0


def test_the_time_of_a_killed_run_counts(project):
    assert stage("encode_frozen").returncode == 0
    assert stage("train_frozen", "slow_gradient", 7).returncode == -signal.SIGKILL
    assert stage("train_frozen").returncode == 0
    cost = read_json("reports/cost/train_frozen.json")
    assert cost["seconds"] > 3 * cost["seconds_per_epoch"] > 6 * SLOW  # 6 of 9 steps were slow, and checkpointed
