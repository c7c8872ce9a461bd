"""Fixtures: a checkout of one's own with a very small encoder, and cases made of numbers."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.data import source_case, write_manifest
from helpers.models import MINI, SMALL
from PIL import Image

from nightshift.backbone.pretrained import record_of
from nightshift.config import hardware, params
from nightshift.config.kinds import KINDS
from nightshift.config.params import ArmSettings
from nightshift.core.io import write_json
from nightshift.data.dataset import Cases, open_part
from nightshift.data.locations import EXTERNAL, PREPARED, SPLITS
from nightshift.ingest.manifest import COLUMNS
from nightshift.ingest.prepared import write_cases, write_folds

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def hardware_is_read_anew() -> Iterator[None]:
    """hardware.yaml is read once per process, and all tests are one process."""
    hardware.hardware.cache_clear()
    yield
    hardware.hardware.cache_clear()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped params.yaml and conf/ in a folder of its own, which is the current one; plus conf/encoder/mini."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "conf/encoder/mini.yaml").write_text(yaml.safe_dump(MINI))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@pytest.fixture
def change(checkout: Path) -> Callable[..., None]:
    """change({"train.epochs": 3}) sets keys of params.yaml, or of another YAML file."""

    def changed(values: dict[str, Any], file: str = "params.yaml") -> None:
        content = yaml.safe_load((checkout / file).read_text(encoding="utf-8"))
        for key, value in values.items():
            *sections, last = key.split(".")
            section = content
            for name in sections:
                section = section[name]
            section[last] = value
        (checkout / file).write_text(yaml.safe_dump(content), encoding="utf-8")

    return changed


@pytest.fixture
def small(checkout: Path, change: Callable[..., None]) -> Callable[..., ArmSettings]:
    """small({"view.mode": "none"}, "lora"): an arm's settings, very small, with these keys set, on one CPU thread."""
    (checkout / "hardware.yaml").write_text("device: cpu\nthreads: 1\n")

    def read(values: dict[str, Any] | None = None, arm: str = "frozen") -> ArmSettings:
        change(SMALL | (values or {}))
        return params.read().arm(arm)

    return read


@pytest.fixture
def manifest(checkout: Path) -> list[dict[str, Any]]:
    """Two cases of 6 x 9 and 8 x 7 pixels in set/, a cine of three frames each; the rows of the manifest."""
    rows = []
    for n, size in enumerate([(6, 9), (8, 7)]):
        folder = Path("set") / f"p{n}"
        folder.mkdir(parents=True)
        np.save(folder / "cine.npy", np.stack([np.full(size, 10 * n + frame, np.uint8) for frame in range(3)]))
        mask = np.zeros(size, np.uint8)
        mask[1:3] = 255
        np.save(folder / "mask.npy", mask)
        angles = {"view_angles": {"primary_angle": -30.5 + n, "secondary_angle": 180}}
        (folder / "contours.json").write_text(json.dumps(angles))
        values = (f"p{n}", f"c{n}", f"p{n}/cine.npy", n + 1, f"p{n}/mask.npy", f"p{n}/contours.json", "train")
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    write_manifest(rows)
    return rows


@pytest.fixture
def pictures(checkout: Path) -> None:
    """images/ and masks/ with a.png and b.png, masks of 0 and 255."""
    for folder in ("images", "masks"):
        Path(folder).mkdir()
    for name, size in (("a", (20, 30)), ("b", (25, 15))):
        frame = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(frame).save(f"images/{name}.png")
        Image.fromarray(np.uint8(255 * (np.indices(size)[1] < 5))).save(f"masks/{name}.png")


@pytest.fixture
def prepared(checkout: Path) -> dict[str, Cases]:
    """data/prepared: five train, two val and two test cases of different sizes."""
    for name, kind in KINDS.items():  # for arms named as their kind
        write_json(record_of(name), {"path": "random" if kind.has_encoder else "none"})
    cases = [source_case(i, f"p{i}") for i in range(9)]
    write_cases(PREPARED, cases, iter)
    write_folds(PREPARED, [{"train": cases[:5], "val": cases[5:7], "test": cases[7:]}])
    write_cases(EXTERNAL, [], iter)
    return {part: open_part(0, part) for part in SPLITS}
