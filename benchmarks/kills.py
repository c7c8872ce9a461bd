"""Losing work, tried in earnest: `dvc repro` of a miniature, its whole process group killed 50 times at random moments.

    python -m benchmarks.kills

Afterwards it is left to finish, and must have made the same models and the same evaluation as an undisturbed run.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.chain import clone, edit

from nightshift.console.progress import bar
from nightshift.core.hashing import hash_folder

KILLS, SECONDS, EPOCHS = 50, (2.0, 14.0), 600
COMMAND = [sys.executable, "-m", "dvc", "repro"]
OUTPUTS = ("models", "reports/evaluation", "reports/curves")


def main() -> None:
    draw = random.Random(0)  # noqa: S311, no secret
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    quiet = {"env": os.environ | {"PATH": path}, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with tempfile.TemporaryDirectory() as temporary:
        whole, killed = (clone(Path(temporary) / name) for name in ("undisturbed", "killed"))
        for folder in (whole, killed):
            edit(folder, "params.yaml", {"train.epochs": EPOCHS})
        subprocess.run(COMMAND, cwd=whole, check=True, **quiet)
        early = 0
        for _ in bar("kills", "kill")(range(KILLS)):
            run = subprocess.Popen(COMMAND, cwd=killed, start_new_session=True, **quiet)
            try:
                run.wait(draw.uniform(*SECONDS))
                early += 1
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
        subprocess.run(COMMAND, cwd=killed, check=True, **quiet)
        same = all(hash_folder(whole / name) == hash_folder(killed / name) for name in OUTPUTS)
        litter = [*killed.glob("models/.*.tmp"), *killed.glob("data/encoded/.*.tmp")]
    print(f"{KILLS - early} kills, {early} runs ended before theirs")
    print(f"same models, curves and evaluation: {same}; temporary files left: {len(litter)}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
