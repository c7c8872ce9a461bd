"""Checkpoints and the folders of runs: locked, kept until DVC has the result, whole or passed over."""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.engine import environment

from nightshift.core import io
from nightshift.engine import checkpoints


def test_the_last_state_is_the_last_however_many_digits_its_step_has(tmp_path):
    """Epoch 100 after epoch 99: names of unequal length do not sort as numbers do."""
    for epoch in (98, 99, 100, 101):
        checkpoints.save(tmp_path, epoch * 10**6, {"x": torch.ones(1)}, {"epoch": epoch})
    assert checkpoints.latest(tmp_path)[1] == {"epoch": 101}
    assert len(list(tmp_path.iterdir())) == checkpoints.KEPT


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
    with checkpoints.run_folder("train@lora", "abc"):
        code = "from nightshift.engine import checkpoints\nwith checkpoints.run_folder('train@lora', 'abc'): pass"
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert "another process is at this very run of train@lora" in done.stderr
    with checkpoints.run_folder("train@lora", "abc"):
        pass


def test_a_second_worker_waits_and_goes_on_from_what_the_first_leaves(checkout):
    """What it waits for is not tidied away under it; where it is gone already, the folder is made again."""
    code = (
        "from nightshift.engine import checkpoints\n"
        "with checkpoints.run_folder('train@lora', 'abc', wait=True) as folder: print(sorted(folder.glob('s*')))"
    )
    waiting = {"env": environment(), "stdout": subprocess.PIPE, "text": True}
    io.write_text("models/lora/x", "1")
    for removed in (False, True):
        with checkpoints.run_folder("train@lora", "abc") as folder:
            second = subprocess.Popen([sys.executable, "-c", code], **waiting)
            assert second.stdout.readline().endswith("abc); this one waits for it\n")
            io.write_text(folder / "state", "1")
            checkpoints.finished("train@lora", "abc", Path("models/lora"))
            checkpoints.tidy("train@lora", [Path("models/lora")])
            assert (folder / "state").exists()
            if removed:
                shutil.rmtree(folder, ignore_errors=True)
        told, _ = second.communicate(timeout=60)
        assert second.returncode == 0 and ("state" in told) is not removed


def test_a_finished_run_says_that_its_result_is_taken(checkout, capsys):
    io.write_text("models/lora/x", "1")
    with checkpoints.run_folder("train@lora", "abc"):
        checkpoints.finished("train@lora", "abc", Path("models/lora"))
    assert capsys.readouterr().out == ""
    today = time.strftime("%Y-%m-%d")
    with checkpoints.run_folder("train@lora", "abc") as folder:
        told = capsys.readouterr().out
    assert told.startswith(f"train@lora: taken from the run that finished at {today}") and told.count("\n") == 1
    assert told.endswith(f"; to compute it anew, delete {folder}\n")


TRACKED = ("core/io.py", "data/dataset.py", "data/__init__.py", "arms/__init__.py", "training/step.py")
UNTRACKED = ("console/errors.py", "config/params.py", "jobs/gpu_lock.py", "commands/plan.py")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with these modules, all loaded, and `reporting/render.py`, which is not: its folder."""
    folder = tmp_path / "somewhere/copied"
    monkeypatch.setattr(checkpoints, "__file__", str(folder / "engine/checkpoints.py"))
    for file in (*TRACKED, *UNTRACKED, "reporting/render.py"):
        io.write_text(folder / file, f"# {Path(file).stem}\n")
        if file != "reporting/render.py":
            module = ModuleType(f"copied.{file.removesuffix('.py').replace('/', '.')}")
            module.__file__ = str(folder / file)
            monkeypatch.setitem(sys.modules, module.__name__, module)
    return folder


@pytest.mark.parametrize("file", [*TRACKED, *UNTRACKED, "reporting/render.py"])
def test_only_tracked_code_that_is_used_makes_another_run(package, file):
    before = checkpoints.fingerprint(data="a", rate=0.1)
    assert checkpoints.fingerprint(rate=0.1, data="a") == before != checkpoints.fingerprint(data="a", rate=0.2)
    io.write_text(package / file, "# edited\n")
    assert (checkpoints.fingerprint(data="a", rate=0.1) == before) is (file not in TRACKED)


def test_two_modules_of_one_name_are_two(package):
    """Exchanged contents are another run; names of files alone would not tell."""
    identities = set()
    for one, other in (("A = 1\n", "A = 2\n"), ("A = 2\n", "A = 1\n"), ("A = 1\n", "A = 1\n")):
        io.write_text(package / "data/__init__.py", one)
        io.write_text(package / "arms/__init__.py", other)
        identities.add(checkpoints.fingerprint())
    assert len(identities) == 3


def test_a_copy_of_the_checkout_is_the_same_run(package, tmp_path, monkeypatch):
    """A queued run works in a copy."""
    before = checkpoints.fingerprint()
    copy = tmp_path / "elsewhere/copied"
    shutil.copytree(package, copy)
    monkeypatch.setattr(checkpoints, "__file__", str(copy / "engine/checkpoints.py"))
    for name, module in sys.modules.items():
        if name.startswith("copied."):
            monkeypatch.setattr(module, "__file__", str(copy / Path(module.__file__).relative_to(package)))
    assert checkpoints.fingerprint() == before


def test_our_own_modules_are_found():
    package = Path(checkpoints.__file__).parents[1]
    names = {path.relative_to(package).as_posix() for path in checkpoints._loaded_modules(package)}
    assert {"engine/checkpoints.py", "core/io.py"} <= names
    assert not {path.split("/")[0] for path in names} & set(checkpoints.UNTRACKED)


def test_a_run_is_kept_until_the_next_stage_starts(checkout):
    made = Path("models/lora")
    io.write_text(made / "x", "1")
    for identity in ("a", "b"):
        with checkpoints.run_folder("train@lora", identity):
            pass
    checkpoints.finished("train@lora", "a", made)
    io.write_text(made / "x", "2")
    checkpoints.tidy("train@lora", [made])
    assert (checkpoints.FOLDER / "train@lora/a").exists()
    io.write_text(made / "x", "1")
    checkpoints.tidy("train@lora", [made])
    assert not (checkpoints.FOLDER / "train@lora/a").exists() and (checkpoints.FOLDER / "train@lora/b").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what is mapped")
def test_a_checkpoint_that_was_read_is_not_mapped_and_one_that_is_in_use_stays(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 1, {"x": torch.rand(5000)}, {})
    tensors, _ = checkpoints.latest(tmp_path)
    assert str(tmp_path) not in Path("/proc/self/maps").read_text(encoding="utf-8")

    def refused(path, **_):
        raise PermissionError(13, "in use", str(path))

    with monkeypatch.context() as windows:
        windows.setattr(Path, "unlink", refused)
        for step in (2, 3, 4):
            checkpoints.save(tmp_path, step, tensors, {})
    checkpoints.save(tmp_path, 5, tensors, {})
    assert len(list(tmp_path.glob("*.safetensors"))) == checkpoints.KEPT
