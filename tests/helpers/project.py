"""A small project in the current folder: settings, and prepared cases made of numbers."""

import shutil
from pathlib import Path
from typing import Any

import yaml
from helpers.data import source_case
from helpers.models import MINI, SMALL

from nightshift.backbone.pretrained import record_of
from nightshift.config import params
from nightshift.config.kinds import KINDS
from nightshift.config.params import ArmSettings
from nightshift.core.io import write_json
from nightshift.data.dataset import Cases, open_part
from nightshift.data.locations import EXTERNAL, PREPARED, SPLITS
from nightshift.ingest.prepared import write_cases, write_folds

ROOT = Path(__file__).parents[2]


def copy_settings(folder: Path) -> None:
    """Put the shipped params.yaml and conf/, and conf/encoder/mini.yaml, into `folder`."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "conf/encoder/mini.yaml").write_text(yaml.safe_dump(MINI))


def change_settings(values: dict[str, Any], file: str = "params.yaml") -> None:
    """Set dotted keys of params.yaml, or of another YAML file."""
    content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    for key, value in values.items():
        *sections, last = key.split(".")
        section = content
        for name in sections:
            section = section[name]
        section[last] = value
    Path(file).write_text(yaml.safe_dump(content), encoding="utf-8")


def write_hardware() -> None:
    """Leave a hardware.yaml of one CPU thread, where there is none."""
    if not Path("hardware.yaml").exists():
        Path("hardware.yaml").write_text("device: cpu\nthreads: 1\n")


def small_settings(values: dict[str, Any] | None = None, arm: str = "frozen") -> ArmSettings:
    """An arm's settings, very small, with these keys set, on one CPU thread."""
    write_hardware()
    change_settings(SMALL | (values or {}))
    return params.read().arm(arm)


def prepare_cases() -> dict[str, Cases]:
    """data/prepared: five train, two val and two test cases of different sizes."""
    for name, kind in KINDS.items():  # for arms named as their kind
        write_json(record_of(name), {"path": "random" if kind.has_encoder else "none"})
    cases = [source_case(i, f"p{i}") for i in range(9)]
    write_cases(PREPARED, cases, iter)
    write_folds(PREPARED, [{"train": cases[:5], "val": cases[5:7], "test": cases[7:]}])
    write_cases(EXTERNAL, [], iter)
    return {part: open_part(0, part) for part in SPLITS}
