"""The pipeline by really running it: a clone of this workspace with miniature settings, and commands in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
ARMS = ("frozen", "lora")
ALWAYS = {"stages/dvc.yaml:inputs"}
# Small in every direction, and real: sam3's classes, simulated cines, both arms.
MINIATURE = {
    "conf/encoder/tiny.yaml": {"img_size": 84, "pretrain_img_size": 42, "embed_dim": 32, "depth": 2, "num_heads": 2}
    | {"window_size": 3, "global_blocks": [1], "d_model": 16},
    "conf/data/synthetic.yaml": {"patients": 8, "views": 2, "size": 96, "frames": 2, "val": 0.25, "test": 0.25},
    "params.yaml": {"train.epochs": 2, "head.width": 8, "arms.lora.rank": 2}
    | {"probe.resolutions": [1008, 1024], "probe.ddp": False},
}


def edit(folder: Path, file: str, values: dict) -> None:
    """Set dotted keys of a YAML file."""
    path = folder / file
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in values.items():
        *sections, last = key.split(".")
        place = content
        for section in sections:
            place = place[section]
        place[last] = value
    path.write_text(yaml.safe_dump(content), encoding="utf-8")


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    """`python -m COMMAND` in the clone, with this interpreter first on the path for DVC's own commands."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {k: v for k, v in os.environ.items() if k != "DVC_ROOT"} | {"PATH": path}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def repro(folder: Path, *arguments: str) -> set[str]:
    """`dvc repro`; the names of the stages that ran a command or were taken from the run cache."""
    done = run(folder, "dvc", "repro", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith(("Running stage", "Stage "))]
    return {line.split("'")[1] for line in lines if "didn't change" not in line}


def ran(folder: Path, *arguments: str) -> set[str]:
    """The names of the stages whose command really ran."""
    done = run(folder, "dvc", "repro", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return {line.split("'")[1] for line in done.stdout.splitlines() if line.startswith("Running stage")}


def files(folder: Path) -> dict[str, bytes]:
    """What two clones must agree on."""
    paths = [*(folder / "reports/evaluation").rglob("*"), *(folder / "reports/probe").rglob("*")]
    paths.append(folder / "reports/comparison/metrics.json")
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths if p.is_file() and p.name != ".gitignore"}


def clone(folder: Path) -> Path:
    """A git clone's worth of this workspace as it stands, with miniature settings and a commit of its own."""
    folder.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file() and Path(name).name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    for file, values in MINIATURE.items():
        edit(folder, file, values)
    who = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "miniature"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder
