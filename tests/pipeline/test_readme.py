"""Every command of the README, run as it stands there, in a miniature clone (`make` ones: by .ci/run and the tests)."""

import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from test_chain import ROOT, clone, run

from nightshift.backbone import encoder
from nightshift.config.params import Encoder

INSTALL = ("git clone", "make ", "python -m venv", "source ", "python -m pip install")
OWN_TESTS = ("Param sets and sweeps", "Sharing")  # test_sweeps.py and test_sharing.py run these sections


def section(title: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(rf"^## {title}\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)[1]


def blocks(text: str) -> list[list[str]]:
    """The lines of each block of commands."""
    return [block.splitlines() for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL)]


def commands() -> list[str]:
    """All but those of OWN_TESTS."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for title in OWN_TESTS:
        text = text.replace(section(title), "")
    return [line for block in blocks(text) for line in block]


def typed(folder: Path, line: str) -> str:
    """Run a command of the README as it stands there, git with a name to commit under; what it says."""
    words = shlex.split(line.removeprefix("python -m "))
    if words[0] == "git":
        command = ["git", "-c", "user.name=test", "-c", "user.email=test@example.invalid", *words[1:]]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    else:
        done = run(folder, *words)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_every_command_of_the_readme_runs(tmp_path):
    from PIL import Image, ImageDraw

    for kind, ink in (("images", 60), ("masks", 255)):
        (tmp_path / "shared/angiograms" / kind).mkdir(parents=True)
        for i in range(8):
            picture = Image.new("L", (100, 100), 160 if kind == "images" else 0)
            ImageDraw.Draw(picture).line([(10, 10 + 5 * i), (80, 70)], fill=ink, width=4)
            picture.save(tmp_path / "shared/angiograms" / kind / f"{i}.png")
    folder = clone(tmp_path / "nightshift")
    for name in ("frozen", "lora", "truth"):
        shutil.copytree(tmp_path / "shared/angiograms/masks", folder / "masks" / name)
    weights = tmp_path / "sam3.pt"
    neck = encoder.build(Encoder(**yaml.safe_load((folder / "conf/encoder/tiny.yaml").read_text(encoding="utf-8"))))
    torch.save({f"detector.backbone.vision_backbone.{k}": v for k, v in neck.state_dict().items()}, weights)
    lines = [line for line in commands() if not line.startswith(INSTALL)]
    small = {
        "use.encoder=sam3": "use.encoder=tiny",
        "weights=hub": f"weights={weights}",
        "resolution=1008": "resolution=84",
    }
    for full, stand_in in small.items():  # no hub here, and no hours
        lines = [line.replace(full, stand_in) for line in lines]
    assert len(lines) >= 7
    for line in lines:
        while line.endswith("night collect") and re.search("queued|running", typed(folder, "stages.night status")):
            time.sleep(2)  # the morning
        typed(folder, line)


def test_the_patch_and_the_explanation_work_on_the_full_trunk():
    """The README's Python, on the trunk that sam3 itself builds for its image model, at full size without weights."""
    from nightshift.backbone import rope

    from sam3.model_builder import _create_vit_backbone  # isort: skip

    with torch.device("meta"), encoder._LinspaceOnCpu():
        trunk = _create_vit_backbone().eval()
    model = torch.nn.Module()
    model.backbone = torch.nn.Module()
    model.backbone.vision_backbone = torch.nn.Module()
    model.backbone.vision_backbone.trunk = trunk
    model.forward = trunk.forward
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    explained, patch = blocks[:2]  # the third one, with weights and adapters: tests/test_predict.py
    names = {"model": model, "images": torch.empty(1, 3, 1022, 1022, device="meta")}
    with pytest.raises(rope.RopeError, match=r"block 7: .*5184 rows.*5329 tokens.*set_grid"):
        exec(explained, names)  # noqa: S102, the README's own code
    exec(patch, names)  # noqa: S102
    exec(explained, names)  # noqa: S102
    assert trunk.blocks[7].attn.rope_cos.shape == (73 * 73, 32)


def test_the_make_targets_of_the_readme_exist():
    targets = re.findall(r"^([a-z-]+): ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    named = [line.split()[1] for line in commands() if line.startswith("make ")]
    assert named and set(named) <= set(targets)
