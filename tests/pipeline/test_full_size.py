"""Full-size SAM 3 on this machine: 446 M parameters in the trunk, real files, real frames. All slow."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers.chain import ROOT, clone, edit, ran
from safetensors.torch import save_file

from nightshift.backbone import encoder
from nightshift.backbone.full_size import FULL_SIZE
from nightshift.commands import planning
from nightshift.config.params import read

pytestmark = pytest.mark.slow
LOAD = """
import json, sys, time
from pathlib import Path
from nightshift.backbone import encoder, state_dict
from nightshift.backbone.full_size import FULL_SIZE
def resident(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
neck = encoder.build(FULL_SIZE, "meta")
before, start = resident("VmRSS"), time.perf_counter()
report = state_dict.load(neck, Path(sys.argv[1]))
print(json.dumps({"seconds": time.perf_counter() - start, "memory": resident("VmHWM") - before, "said": str(report)}))
"""
STEP = """
import resource, sys, psutil, torch
from nightshift.commands import planning
from nightshift.config.params import read
from nightshift.engine import device
from nightshift.training.step import add_gradients, optimiser_of
settings = read(sys.argv[2:]).arm(sys.argv[1])
device.seed_everything(0)
process, cpu = psutil.Process().memory_info().rss, torch.device("cpu")
model, train = planning.new_model(settings, "cpu"), settings.train
if model.activation_checkpointing:
    device.give_memory_back()
optimiser = optimiser_of(model, train)
for _ in range(2):
    optimiser.zero_grad()
    add_gradients(model, planning.noise_batch(settings, model.start, train.batch_size, cpu), train, cpu)
    optimiser.step()
print(process, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_the_whole_file_loads_quickly_and_once(tmp_path, suffix):
    """848 M parameters, as many as SAM 3 has: trunk and neck in its own layout, the rest in one tensor."""
    neck = encoder.build(FULL_SIZE)
    state = {f"detector.backbone.vision_backbone.{name}": value for name, value in neck.state_dict().items()}
    ours = sum(value.numel() for value in state.values())
    state["detector.transformer.rest"] = torch.ones(848_000_000 - ours)
    path = tmp_path / f"sam3.{suffix}"
    if suffix == "pt":
        torch.save({"model": state}, path)
    else:
        save_file(state, path)
    del neck, state
    seen = json.loads(python(LOAD, str(path)))
    size = path.stat().st_size
    print(f"{suffix}: {size / 1e9:.2f} GB in {seen['seconds']:.1f} s, {seen['memory'] / size:.2f} x its size")
    assert size > 3.3e9
    assert seen["seconds"] < 30
    assert seen["memory"] < 1.3 * size
    assert " 33 others ignored" in seen["said"]  # 32 blocks' position tables, and the rest


@pytest.mark.parametrize(
    "name, changes",
    [
        ("lora", ["encoder.resolution=504", "train.batch_size=1"]),
        ("lora", ["encoder.resolution=504", "train.batch_size=2", "arms.lora.blocks={last: 8}"]),
        ("lora", ["encoder.resolution=1008", "train.batch_size=1", "arms.lora.activation_checkpointing=true"]),
        ("frozen", ["encoder.resolution=1008", "train.batch_size=2"]),
    ],
)
def test_the_plan_predicts_the_memory_of_a_step(name, changes):
    changes = ["use.encoder=sam3", *changes]
    process, real = map(int, python(STEP, name, *changes).split())
    tensors = planning.tensor_bytes(read(changes).arm(name))
    predicted = planning.needed(tensors, torch.device("cpu"), process)
    print(f"{name} {changes}: predicted {predicted / 1e9:.2f} GB, real {real / 1e9:.2f} GB")
    assert predicted == pytest.approx(real, rel=0.2)


@pytest.mark.parametrize("side", [504, 1008])
def test_four_cases_go_through_the_whole_chain(tmp_path, side):
    """Two for training (two steps of each arm), one to choose by, one to test."""
    pictures = ROOT.parent / "shared/angiograms"
    folder = clone(tmp_path / "clone")
    edit(folder, "params.yaml", {
        "use.encoder": "sam3", "use.data": "four", "encoder.resolution": side, "view.mode": "none", "head.width": 32,
        "train.epochs": 1, "train.batch_size": 1, "arms.lora.activation_checkpointing": True,
        "prepare.val": 0.25, "prepare.test": 0.25,
    })  # fmt: skip
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for path in sorted((pictures / kind).iterdir())[:4]:
            (tmp_path / kind / path.name).write_bytes(path.read_bytes())
    preset = {"kind": "folder", "images": str(tmp_path / "images"), "masks": str(tmp_path / "masks"), "split": "made"}
    (folder / "conf/data/four.yaml").write_text(yaml.safe_dump(preset), encoding="utf-8")
    assert "compare" in ran(folder)
    paths = (folder / "reports/cost").glob("*/*.json")
    costs = {f"{path.stem}@{path.parent.name}": json.loads(path.read_text()) for path in paths}
    for stage, cost in sorted(costs.items()):
        print(f"{side} px {stage}: {cost['seconds']:.0f} s, {cost['peak_memory_bytes'] / 1e9:.1f} GB")
        assert cost["peak_memory_bytes"] < 20e9
    assert len(costs) == 6
    html = Path(folder / "reports/comparison/report.html").read_text(encoding="utf-8")
    assert "random weights" in html
