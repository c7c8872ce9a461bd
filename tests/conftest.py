"""Fixtures: a checkout of one's own with a very small encoder, and cases made of numbers."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.data import write_manifest
from helpers.project import ROOT, change_settings, copy_settings, prepare_cases, small_settings, write_hardware
from PIL import Image
from xdist.scheduler import LoadFileScheduling

from nightshift.config import hardware
from nightshift.config.params import ArmSettings
from nightshift.data.dataset import Cases
from nightshift.ingest.manifest import COLUMNS

__all__ = ["ROOT"]


class ByFile(LoadFileScheduling):
    """The tests of a file share a process, and all of tests/pipeline, which share a clone with a finished run."""

    def _split_scope(self, nodeid: str) -> str:
        folder = "tests/pipeline/"
        return folder if nodeid.startswith(folder) else str(super()._split_scope(nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def hardware_is_read_anew() -> Iterator[None]:
    """hardware.yaml is read once per process, and all tests are one process."""
    hardware.hardware.cache_clear()
    yield
    hardware.hardware.cache_clear()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped params.yaml and conf/ in a folder of its own, which is the current one; plus conf/encoder/mini."""
    copy_settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


@pytest.fixture
def change(checkout: Path) -> Callable[..., None]:
    """change({"train.epochs": 3}) sets keys of params.yaml, or of another YAML file."""
    return change_settings


@pytest.fixture
def small(checkout: Path) -> Callable[..., ArmSettings]:
    """small({"view.mode": "none"}, "lora"): an arm's settings, very small, with these keys set, on one CPU thread."""
    write_hardware()
    return small_settings


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
    return prepare_cases()
