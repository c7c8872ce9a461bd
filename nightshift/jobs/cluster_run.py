"""A queued run as a job of a cluster: what submitit calls on the node, `--on local` included.

A job makes a fresh clone of the queued state on the node's own disk, runs the pipeline there, and pushes the experiment
to the project's repository. What each stage made is at once in the project's DVC cache, which all nodes see, and so are
checkpoints (DVC_ROOT): a job goes on from both on any node.
"""

import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import psutil

from nightshift.core.io import write_json

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

LOG, ENDED = "log.txt", "ended.json"  # of a run, in its folder
SIGNALS = [getattr(signal, name) for name in ("SIGUSR2", "SIGTERM") if hasattr(signal, name)]
POLL = 0.1  # seconds


@dataclass
class ClusterRun:
    """The callable that submitit pickles; it is called anew on every node where the job begins.

    Attributes:
        name: of the run.
        project: the main checkout, absolute: the same on all nodes.
        ref: of the commit that DVC made of the workspace when the run was queued; its first parent is what it is based
            on.
        targets: of `dvc repro`.
        helper: 0 for the job that makes the result; the others, from 1, take trainings off it (folds and seeds that no
            other process does, see training/arm.py) and end.
        folder: of the run's log, and of ENDED, which is only written where the run came to an end of its own.
        cache: the main checkout's DVC cache.
        clones: folder for clones on the node; None is the system's temporary one.
        environment: variables of the commands, beside those of the job; None removes one.
        grace: seconds that they have to write a checkpoint.
    """

    name: str
    project: Path
    ref: str
    targets: Sequence[str]
    folder: Path
    cache: Path
    helper: int = 0
    clones: Path | None = None
    environment: Mapping[str, str | None] = field(default_factory=dict)
    grace: float = 60
    asked_to_end: bool = False
    process: "subprocess.Popen[bytes] | None" = None

    def __call__(self) -> None:
        """Run it, and write ENDED with the status of the command that failed, or 0."""
        signal.signal(signal.SIGTERM, self._terminate)  # scancel, or a kill: after submitit has set its own handlers
        self.folder.mkdir(parents=True, exist_ok=True)
        clone = self._clone_folder()
        try:
            with (self.folder / (f"helper-{self.helper}.txt" if self.helper else LOG)).open("ab") as log:
                log.write(f"{self.name} on {platform.node()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
                log.flush()
                status = self._commands(clone, log)
        finally:
            shutil.rmtree(clone, ignore_errors=True)
        if not (self.asked_to_end or self.helper):
            write_json(self.folder / ENDED, {"status": status})

    def checkpoint(self, *arguments: Any, **options: Any) -> "DelayedSubmission":
        """End the command after a checkpoint; submitit calls it before a time limit, and queues the job again."""
        from submitit.helpers import DelayedSubmission

        self._interrupt()
        self.process, self.asked_to_end = None, False  # a process cannot be pickled
        return DelayedSubmission(self, *arguments, **options)

    def _terminate(self, *_: object) -> None:
        self.asked_to_end = True  # `_run` sees it: a command may just be starting

    def _interrupt(self) -> None:
        """Send Ctrl-C to the command and all that it started, once; kill them where they take longer than `grace`.

        DVC waits for its stage then, which it does not after SIGTERM; a second one would end a trainer at once.
        """
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGINT)
        end = time.monotonic() + self.grace
        while self.process.poll() is None:
            time.sleep(POLL)
            if time.monotonic() > end:
                os.killpg(self.process.pid, signal.SIGKILL)

    def _commands(self, clone: Path, log: IO[bytes]) -> int:
        """Clone, repro, save, push; the status of the first that fails, or 0."""
        for command in (["git", "clone", "-q", "--no-checkout", str(self.project), str(clone)], *self._in_clone()):
            status = self._run(command, clone if clone.exists() else self.folder, log)
            if status or self.asked_to_end:
                return status
        return 0

    def _in_clone(self) -> list[list[str]]:
        dvc = [sys.executable, "-m", "dvc"]
        commands = [
            ["git", "fetch", "-q", "origin", self.ref],
            ["git", "checkout", "-q", "--detach", "FETCH_HEAD^1"],
            ["git", "read-tree", "--reset", "-u", "FETCH_HEAD"],
            ["git", "rm", "-q", "--cached", "--ignore-unmatch", ".dvc/tmp/repro.dat"],  # DVC's own note of arguments
            [*dvc, "cache", "dir", "-q", "--local", str(self.cache)],
            [*dvc, "repro", *self.targets],
        ]
        save = [
            [*dvc, "exp", "save", "-q", "-f", "-n", self.name, *self.targets],
            [*dvc, "exp", "push", "-q", "-f", "--no-cache", "origin", self.name],
        ]
        return commands if self.helper else commands + save

    def _run(self, command: Sequence[str], folder: Path, log: IO[bytes]) -> int:
        """The status of a command; it is interrupted when the job is asked to end."""
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
        ours = {"PATH": path, "DVC_ROOT": str(self.project), "DVC_EXP_NAME": self.name}
        variables = os.environ | dict(self.environment) | ours
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # none may come while it is started, and not be told of it
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={name: value for name, value in variables.items() if value is not None},
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_ignore_signals,
        )
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        while self.process.poll() is None:  # wait() would not let the signals' handlers see that it has ended
            if self.asked_to_end:
                self._interrupt()
            time.sleep(POLL)
        return self.process.returncode

    def _clone_folder(self) -> Path:
        """A new folder on the node; those of attempts that were killed on this node are removed."""
        place = hashlib.sha256(f"{platform.node()} {self.project}".encode()).hexdigest()[:8]
        clones = self.clones or Path(tempfile.gettempdir())
        for old in clones.glob(f"nightshift-*-{place}-*"):
            if not psutil.pid_exists(int(old.name.rpartition("-")[2])):
                shutil.rmtree(old, ignore_errors=True)
        return clones / f"nightshift-{self.name}-{place}-{os.getpid()}"


def _ignore_signals() -> None:
    """In a command, before it starts: SLURM sends its signals to every process, and DVC would die of them at once.

    Ctrl-C is what ends it, also where a job was started by a script in the background, which ignores it.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
