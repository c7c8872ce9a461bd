"""Shared by the tests: a checkout of one's own with a very small encoder, and cases made of numbers."""

import csv
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from nightshift.data import dataset as cases
from nightshift.backbone import encoder
from nightshift.model.segmentation import lora
from nightshift.config import params as settings
from nightshift.training.trainer import trainer as training
from nightshift.backbone import pretrained as weights
from nightshift.model.segmentation import Arm, ArmCases
from nightshift.engine.device import seed_everything
from nightshift.feature_cache import encode
from nightshift.console.errors import UserError
from nightshift.core.io import write_json
from nightshift.ingest.manifest import COLUMNS
from nightshift.ingest.record import RawCase
from nightshift.config.params import Folder, Manifest, Simulated
from nightshift.data.shards import Shards
from nightshift.ingest.sources import raw_cases

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
MANIFEST = Manifest(kind="manifest", path="set/manifest.csv", split="given")
FOLDER = Folder(kind="folder", images="images", masks="masks", split="made")
MINI = {
    "img_size": 56,
    "pretrain_img_size": 28,
    "patch_size": 14,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "drop_path_rate": 0.1,
    "window_size": 2,
    "global_blocks": [1, 2],
    "d_model": 16,
    "seed": 0,
}
SMALL = {
    "use.encoder": "mini",
    "head.width": 8,
    "train.epochs": 2,
    "train.batch_size": 2,
    "lora.rank": 2,
    "lora.blocks": {"last": 2},
}


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
def small(checkout: Path, change: Callable[..., None]) -> Callable[..., settings.Settings]:
    """small({"view.mode": "none"}): settings for the very small encoder, with these keys set, on one CPU thread."""
    (checkout / "hardware.yaml").write_text("device: cpu\nthreads: 1\n")

    def read(values: dict[str, Any] | None = None) -> settings.Settings:
        change(SMALL | (values or {}))
        return settings.read()

    return read


def write_manifest(rows: list[dict[str, Any]], columns: Sequence[str] = COLUMNS) -> None:
    with Path("set/manifest.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def manifest(checkout: Path) -> list[dict[str, Any]]:
    """Two cases of 6 x 9 and 8 x 7 pixels in set/, a cine of three frames each; the rows of the manifest."""
    found = []
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
        found.append(dict(zip(COLUMNS, values, strict=True)))
    write_manifest(found)
    return found


@pytest.fixture
def pictures(checkout: Path) -> None:
    """images/ and masks/ with a.png and b.png, masks of 0 and 255."""
    for folder in ("images", "masks"):
        Path(folder).mkdir()
    for name, size in (("a", (20, 30)), ("b", (25, 15))):
        frame = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
        Image.fromarray(frame).save(f"images/{name}.png")
        Image.fromarray(np.uint8(255 * (np.indices(size)[1] < 5))).save(f"masks/{name}.png")


def fails(match: str, source: Folder | Manifest | Simulated = MANIFEST) -> None:
    """Listing or reading the source raises a UserError of one line with these words."""
    with pytest.raises(UserError) as caught:
        [case.read() for case in raw_cases(source)]
    assert match in str(caught.value)
    assert "\n" not in str(caught.value)


def raw_case(number: int, patient: str = "", split: str = "", **values: Any) -> RawCase:
    """A frame of 60 x (40 + number) pixels with a bright bar, which the mask marks; angles from the number."""
    random = np.random.default_rng(number)
    frame = random.integers(0, 100, (60, 40 + number), dtype=np.uint8)
    mask = np.zeros_like(frame)
    mask[:, 5 + number : 12 + number] = 1
    angles = values.get("angles", (float(7 * number), -10.0))
    return RawCase(f"case-{number}", patient, angles, split, (), lambda: (frame + 100 * mask, mask))


def written(folder: Path, raw: list[RawCase]) -> cases.Cases:
    cases.write_cases(folder, raw, iter)
    return cases.Cases(folder)


@pytest.fixture
def prepared(checkout: Path) -> dict[str, cases.Cases]:
    """data/prepared: five train, two val and two test cases of different sizes."""
    write_json(weights.RECORD, {"path": "random"})
    numbers = {"train": range(5), "val": (5, 6), "test": (7, 8)}
    folder = checkout / "data/prepared"
    return {name: written(folder / name, [raw_case(i, f"p{i}") for i in some]) for name, some in numbers.items()}


def new_arm(settings, start=1, adapt=False, seed=0) -> Arm:
    seed_everything(seed)
    arm = Arm(encoder.build(settings.preset), start, settings)
    if adapt:
        lora.add_adapters(arm.neck.trunk, settings.lora)
    return arm


def tokens_of(settings, cases, end, folder) -> Shards:
    encode(encoder.build(settings.preset), cases, len(cases) if end else 0, end, "trunk", settings, folder)
    return Shards(folder, "pt")


def trained_arm(
    settings, prepared, adapt=False, seed=0, tokens=None, kind=ArmCases
) -> tuple[Arm, training.Trained, ArmCases]:
    arm = new_arm(settings, adapt=adapt, seed=seed)
    own = settings.train_for("lora" if adapt else "frozen")
    parts = [kind(prepared["train"], tokens, settings), ArmCases(prepared["val"], None, settings)]
    return (
        arm,
        training.train(arm, *parts, own, seed, CPU, Path(tempfile.mkdtemp(dir=".")), "lora" if adapt else "frozen"),
        parts[0],
    )


def batch(count=2, side=56) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
