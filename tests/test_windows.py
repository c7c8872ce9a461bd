"""What Windows does otherwise, as far as Linux can show it: files, names, consoles, shells and signals.

That GPUs wait, checkpoints, the stop file and drives of a manifest have tests beside theirs; .ci/github-actions.yml
runs all of them on Windows itself.
"""

import ast
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT

from nightshift.core import io
from nightshift.engine import checkpoints
from nightshift.jobs import launch

POSIX_ALONE = {"cluster_run.py"}  # what submitit runs; `--on` is refused on Windows
FILES = (path for folder in ("nightshift", "stages") for path in (ROOT / folder).rglob("*.py"))
SOURCES = sorted(path for path in FILES if path.name not in POSIX_ALONE)
ONLY_POSIX = {"fork", "getuid", "geteuid", "getpgid", "killpg", "setsid", "SIGKILL", "SIGHUP", "SIGUSR1", "mkfifo"}
GUARDED = {"fcntl", "pwd", "grp", "resource", "termios", "pty"}  # modules that Windows lacks
RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
SHELL = set("|&;<>()$`\\\"'*?[]#~%^!")


@pytest.fixture
def windows(monkeypatch):
    """The system says that it is Windows, and does not delete what is read-only."""
    unlink = os.unlink

    def refuses(path, *, dir_fd=None):
        if not os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode & stat.S_IWUSR:
            raise PermissionError(13, "Access is denied", str(path))
        unlink(path, dir_fd=dir_fd)

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(os, "unlink", refuses)
    monkeypatch.setattr(
        Path, "unlink", lambda path, missing_ok=False: None if missing_ok and not path.exists() else refuses(path)
    )


def protected(folder: Path) -> Path:
    """A folder with a read-only file, as DVC leaves its links."""
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "b").write_bytes(b"1")
    (folder / "a" / "b").chmod(0o444)
    return folder


def test_read_only_files_are_removed(tmp_path, windows):
    io.remove(protected(tmp_path / "old"))
    assert not (tmp_path / "old").exists()
    protected(tmp_path / "new")
    with io.replacing(tmp_path / "new") as temporary:
        temporary.mkdir()
    assert list((tmp_path / "new").iterdir()) == []


def test_a_finished_run_leaves_no_checkpoint(checkout, windows):
    """Its shards are links to what DVC has, which are read-only."""
    states = protected(checkpoints.folder_of("encode@lora", "one"))
    output = protected(Path("data/encoded/lora"))
    checkpoints.finished("encode@lora", "one", output)
    checkpoints.tidy("encode@lora", [output])
    assert not states.exists() and (output / "a" / "b").exists()


def test_signals_are_not_passed_on(monkeypatch, windows):
    """`os.kill` ends a process at once there; the console has told all of them of Ctrl-C."""
    handlers = {}
    context = SimpleNamespace(processes=[SimpleNamespace(is_alive=lambda: True, pid=1)], join=lambda: True)
    monkeypatch.setattr(launch, "spawn", lambda *arguments, join: context)
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(os, "kill", lambda *arguments: pytest.fail("killed"))
    launch._spawn("stages.train", ["lora"], [0, 1], joined=True)
    handlers[signal.SIGINT](signal.SIGINT, None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(os, "kill", lambda pid, number: handlers.update(sent=(pid, number)))
    handlers[signal.SIGINT](signal.SIGINT, None)
    assert handlers["sent"] == (1, signal.SIGINT)


def test_what_a_code_page_does_not_have_is_printed_all_the_same():
    code = "from nightshift.console import errors; errors.run(lambda: print('case', chr(0x5fc3), chr(0xe9)))"
    environment = os.environ | {"PYTHONIOENCODING": "cp1252", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert done.stdout.rstrip() == b"case \\u5fc3 \xe9"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_needs_what_windows_lacks(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr in ONLY_POSIX:
            found.append(node.attr)
        if isinstance(node, (ast.Import, ast.ImportFrom)) and node.col_offset == 0:
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found += [name for name in names if name in GUARDED]
    assert found == []


def test_the_commands_of_the_pipeline_need_no_shell():
    for file in ("dvc.yaml", "stages/dvc.yaml"):
        for stage in yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))["stages"].values():
            command = stage.get("do", stage)["cmd"].replace("${item}", "lora").replace("${key}", "lora")
            assert command.startswith("python -m ") and not SHELL & set(command)


def test_names_of_files_are_names_there():
    """No reserved one, no two that differ in case alone; short enough below a long folder."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    paths = listed.rstrip("\0").split("\0")
    assert len({path.casefold() for path in paths}) == len(paths) > 300
    for path in map(PureWindowsPath, paths):
        assert len(str(path)) < 120
        for part in path.parts:
            assert not set(part) & set('<>:"|?*') and not part.endswith((".", " "))
            assert part.partition(".")[0].casefold() not in RESERVED
