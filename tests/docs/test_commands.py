"""Every command of README and docs, run as it stands there, in a miniature clone.

Left out are those that install (run by .ci/run) and two sections that tests/pipeline/ runs in clones of their own.
"""

import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import docs
from helpers.chain import ROOT, clone, ran
from helpers.docs import PAGES, Block, typed
from PIL import Image, ImageDraw

from nightshift.backbone import encoder
from nightshift.config.params import read_as
from nightshift.config.presets import Encoder

INSTALL = ("git clone ", "cd ", "make ", "python -m venv ", "source ", "python -m pip install ")
ELSEWHERE = {
    ("docs/arms.md", "Param sets and sweeps"): "tests/pipeline/test_sweeps.py",
    ("docs/report.md", "Learning curves"): "tests/commands/test_curve.py",
    ("docs/sharing.md", "A remote"): "tests/pipeline/test_sharing.py",
    ("docs/sharing.md", "One experiment"): "tests/pipeline/test_sharing.py",
}
# What needs the hub or hours, and what takes its place.
STAND_INS = {
    "use.encoder=sam3": "use.encoder=tiny",
    "encoder.weights=hub": "encoder.weights=../sam3.pt",
    "encoder.resolution=1008": "encoder.resolution=84",
    "encoder.resolution=308": "encoder.resolution=84",
    "train.epochs=25": "train.epochs=2",
    "patients=60": "patients=6",
    "plan --cards": "plan --cards -S arms.lora.rank=8 -S head.width=32",  # as shipped
}


def to_run(page: str) -> list[tuple[Block, str]]:
    """The commands of a page that are run here, each with its block."""
    return [
        (block, line)
        for block in docs.blocks(page, "console")
        if (page, block.heading) not in ELSEWHERE
        for line in block.lines
        if not line.startswith(INSTALL)
    ]


WITH_COMMANDS = [page for page in PAGES if to_run(page)]


def test_what_runs_elsewhere_is_there():
    for (page, heading), test in ELSEWHERE.items():
        assert docs.blocks(page, "console", heading)
        assert page in (ROOT / test).read_text(encoding="utf-8"), f"{test} does not read {page}"
    assert {"README.md", *(page for page in PAGES if page.startswith("docs/"))} - set(WITH_COMMANDS) == {
        "docs/sharing.md",
        "docs/windows.md",
    }


def test_what_has_a_stand_in_is_still_in_the_docs():
    lines = "\n".join(line for page in PAGES for _, line in to_run(page))
    assert [text for text in STAND_INS if text not in lines] == []


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with miniature settings in which `dvc repro` has run, and what the docs expect beside it."""
    above = tmp_path_factory.mktemp("docs")
    for place in ("shared/angiograms", "mydata"):
        for kind, ink in (("images", 60), ("masks", 255)):
            (above / place / kind).mkdir(parents=True)
            for i in range(8):
                grey = np.random.default_rng(i).integers(110, 220, (6, 6), dtype=np.uint8)  # no two frames look alike
                image = Image.fromarray(grey if kind == "images" else 0 * grey).resize(
                    (100, 100), Image.Resampling.BICUBIC
                )
                ImageDraw.Draw(image).line([(10, 10 + 5 * i), (80, 70)], fill=ink, width=4)
                image.save(above / place / kind / f"{i}.png")
    folder = clone(above / "nightshift")
    neck = encoder.build(read_as(Encoder, folder / "conf/encoder/tiny.yaml"))
    place = "detector.backbone.vision_backbone."
    torch.save({f"{place}{name}": value for name, value in neck.state_dict().items()}, above / "sam3.pt")
    assert ran(folder) >= {"train@frozen", "train@lora", "compare"}
    return above


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_every_command_of_a_page_runs(page, finished, tmp_path):
    """In order, in one clone. Settings and the synthetic data are as shipped at the start of each section that has
    commands, as each is read by itself: a run on other data leaves none of it, and `nightshift check` says so.
    """
    above = tmp_path / "above"
    shutil.copytree(finished, above, symlinks=True)
    folder, heading = above / "nightshift", ""
    for name in ("frozen", "lora", "nnunet", "reader_2", "truth"):
        shutil.copytree(above / "mydata/masks", folder / "masks" / name)
    runnable = dict.fromkeys(block for block, _ in to_run(page))
    for block in docs.blocks(page):
        if block.heading != heading:
            subprocess.run(["git", "checkout", "--quiet", "--", "params.yaml", "conf"], cwd=folder, check=True)
            heading = block.heading
            if block in runnable and not (folder / "data/raw/synthetic/manifest.csv").is_file():
                typed(folder, "dvc repro synthesize")
        if block.language == "yaml" and any(block.heading == other.heading for other in runnable):
            written_by_hand(folder, block)
        if block not in runnable:
            continue
        for line in block.lines:
            if not line.startswith(INSTALL):
                for full, stand_in in STAND_INS.items():
                    line = line.replace(full, stand_in)
                printed = typed_when_ready(folder, line)
                if "plan --cards" in line:
                    tables = [row for row in printed.splitlines() if row.startswith("|")]
                    assert tables and [row for row in tables if row not in docs.page_text(page)] == []


def written_by_hand(folder: Path, block: Block) -> None:
    """What the page tells to write: sections of params.yaml, or a preset of data."""
    content = yaml.safe_load(block.text)
    if "arms" in content:
        params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        params["arms"] |= {name: section for name, section in content["arms"].items() if name not in params["arms"]}
        (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    elif "kind" in content:
        (folder / "conf/data/mine.yaml").write_text(block.text, encoding="utf-8")


def typed_when_ready(folder: Path, line: str) -> str:
    """Run the command, `collect` when the queue is done, as the page says; its stdout."""
    end = time.monotonic() + 600
    while line.endswith("queue collect") and re.search(r" (queued|running) ", typed(folder, "nightshift queue status")):
        assert time.monotonic() < end
        time.sleep(2)
    return typed(folder, line)
