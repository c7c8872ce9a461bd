"""Whether a training on the GPU that is killed again and again ends in the same bytes as one that is left alone.

The stages themselves run in copies of this workspace with miniature settings, without DVC: two runs undisturbed and one
that is killed by SIGKILL, at once. LoRA has dropout, so that the GPU's random state counts, too.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.chain import MINIATURE, ROOT, edit

from benchmarks.gpu_rows import Bench, Measurement
from benchmarks.timing import Row, noted, row
from nightshift.core.hashing import sha256

SOURCES = ("nightshift", "stages", "conf", "params.yaml")
BEFORE = ("inputs", "synthesize", "prepare")
ARMS = ("lora", "frozen")
EPOCHS, KILLS = 60, 3
RUNS = ("undisturbed", "again", "killed")


def measurements(bench: Bench) -> Iterator[Measurement]:
    """One measurement of its own processes."""
    yield "resume", lambda: resume_rows("cpu" if bench.small else "cuda", 4 if bench.small else EPOCHS)


def resume_rows(device: str, epochs: int) -> Iterator[Row]:
    """1 where the models are the same bytes, of two undisturbed runs and of an undisturbed and a killed one."""
    with tempfile.TemporaryDirectory() as temporary:
        base = workspace(Path(temporary) / "base", device, epochs)
        for stage in BEFORE:
            wait(start(base, stage))
        for stage in ("probe_arm", "encode"):
            for run in [start(base, stage, arm) for arm in ARMS]:
                wait(run)
        copies = {name: base.with_name(name) for name in RUNS}
        for copy in copies.values():
            shutil.copytree(base, copy)
        with ThreadPoolExecutor() as threads:
            for found in threads.map(lambda arm: compared(copies, arm), ARMS):
                yield from found


def compared(copies: dict[str, Path], arm: str) -> list[Row]:
    """Train an arm in each copy, at once, and compare the models."""
    whole = [start(copies[name], "train", arm) for name in RUNS[:2]]
    kills = killed(copies["killed"], arm)
    for run in whole:
        wait(run)
    models = [trained(copies[name], arm) for name in RUNS]
    found = [
        row(f"resume_{arm}/two_undisturbed.same_bits", float(models[0] == models[1]), ""),
        row(f"resume_{arm}/killed_and_undisturbed.same_bits", float(models[0] == models[2]), ""),
        row(f"resume_{arm}/killed_and_undisturbed.kills", kills, ""),
    ]
    for name, model in zip(RUNS[1:], models[1:], strict=True):
        if other := [file for file in models[0] if models[0][file] != model.get(file)]:
            found.append(noted(f"resume_{arm}/{name}.differ", ", ".join(other)))
    return found


def workspace(folder: Path, device: str, epochs: int) -> Path:
    """The code and the settings of this workspace in a folder of their own, in miniature."""
    folder.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, folder / name)
    for file, values in MINIATURE.items():
        edit(folder, file, values)
    edit(
        folder,
        "params.yaml",
        {"train.epochs": epochs, "train.batch_size": 2, "encoder.precision": "bf16", "arms.lora.dropout": 0.1},
    )
    (folder / "hardware.yaml").write_text(f"device: {device}\ncheckpoint_minutes: 0\n")
    return folder


def start(folder: Path, stage: str, *arguments: str) -> subprocess.Popen[str]:
    """A stage in a process of its own. Each has locks of its own, or the runs would wait for each other."""
    name = "-".join([stage, *arguments])
    temporary, log = folder / f"tmp-{name}", folder / f"{name}.log"
    temporary.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "DVC_ROOT"} | {"TMPDIR": str(temporary)}
    command = [sys.executable, "-m", f"stages.{stage}", *arguments]
    with log.open("a", encoding="utf-8") as output:
        run = subprocess.Popen(command, cwd=folder, env=environment, text=True, stdout=output, stderr=output)
    run.args = [*command, str(log)]
    return run


def wait(run: subprocess.Popen[str]) -> None:
    """Until it has ended. Raises RuntimeError with the last line of what it said, where it did not end well."""
    if run.wait():
        said = Path(str(run.args[-1])).read_text(encoding="utf-8").strip().splitlines()
        raise RuntimeError(f"{' '.join(run.args[2:-1])}: {said[-1] if said else run.returncode}")


def killed(folder: Path, arm: str) -> int:
    """Train, killed KILLS times after a few checkpoints each, then left to end; how often it was killed."""
    draw, kills = random.Random(0), 0  # noqa: S311, no secret
    for _ in range(KILLS):
        run, before = start(folder, "train", arm), states(folder, arm)
        while run.poll() is None and states(folder, arm) <= before + draw.randint(2, 9):
            time.sleep(0.002)
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
            kills += 1
        run.wait()
    wait(start(folder, "train", arm))
    return kills


def states(folder: Path, arm: str) -> int:
    """The number of the newest checkpoint, counted in steps; 0 where there is none."""
    names = (folder / ".nightshift/checkpoints" / f"train@{arm}").rglob("*-*.safetensors")
    steps = [divmod(int(path.name.split("-")[0]), 10**6) for path in names]
    return max((100 * epoch + batch for epoch, batch in steps), default=0)


def trained(folder: Path, arm: str) -> dict[str, str]:
    """Hashes by name: of the models and of the curves."""
    files = [*(folder / "models" / arm).rglob("*"), folder / "reports/curves" / f"{arm}.csv"]
    return {path.relative_to(folder).as_posix(): sha256(path) for path in sorted(files) if path.is_file()}
