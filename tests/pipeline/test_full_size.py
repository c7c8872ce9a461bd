"""Full-size SAM 3 on this machine: 446 M parameters in the trunk, real files, real frames. All slow."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from helpers.chain import ROOT, clone, edit, ran
from helpers.data import source_case
from helpers.engine import environment
from helpers.models import pretend_trained
from safetensors.torch import save_file
from sam3 import model_builder
from transformers import Sam3VisionModel

from nightshift.backbone import encoder
from nightshift.backbone.full_size import FULL_SIZE
from nightshift.backbone.pretrained import record_of
from nightshift.backbone.state_dict import load
from nightshift.commands import planning
from nightshift.config.params import read, read_preset
from nightshift.config.presets import Encoder
from nightshift.console.errors import UserError
from nightshift.core.io import write_json
from nightshift.data.locations import PREPARED
from nightshift.ingest.prepared import write_cases, write_folds
from nightshift.model.card import read_card
from nightshift.model.kinds import kind_of

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
PLACE = "detector.backbone.vision_backbone."
LOAD = """
import json, sys, time
from pathlib import Path
from nightshift.backbone import encoder, state_dict
from nightshift.config.params import read_preset
from nightshift.config.presets import Encoder
def resident(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
neck = encoder.build(read_preset("encoder", sys.argv[2], Encoder), "meta")
before, start = resident("VmRSS"), time.perf_counter()
report = state_dict.load(neck, Path(sys.argv[1]))
print(json.dumps({"seconds": time.perf_counter() - start, "memory": resident("VmHWM") - before, "said": str(report)}))
"""
STAGE = """
import sys
from nightshift.commands.planning import process_bytes_of
from nightshift.config import params
from nightshift.feature_cache import EncodeSettings, encode_arm, encode_nothing
from nightshift.jobs.resources import peak_memory
from nightshift.model.kinds import prefix_of
from nightshift.training.arm import train_arm
stage, name, *changes = sys.argv[1:]
settings = params.read(changes).arm(name)
process, prefix = process_bytes_of([settings]), prefix_of(settings)
if stage == "encode" and prefix is None:
    encode_nothing(name)
elif stage == "encode":
    shared = settings.model_dump(include=set(EncodeSettings.model_fields))
    encode_arm(name, EncodeSettings(**shared), prefix)
else:
    train_arm(settings)
print(process, peak_memory())
"""
MERGE = """
import sys
from pathlib import Path
from nightshift.export.merged import write_merged
from nightshift.jobs.resources import peak_memory
model, layout, out = sys.argv[1:]
write_merged(Path(model), layout, Path(out))
print(peak_memory())
"""

EXPORT = """
import sys
from nightshift.commands.main import dispatch
from nightshift.export import example_frames
from nightshift.jobs.resources import peak_memory
model, out = sys.argv[1:]
example_frames.SIZES = example_frames.SIZES[-1:]
dispatch(["export", model, "-o", out])
print(peak_memory())
"""


def python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def whole_file(path: Path, preset: str, parameters: int) -> Path:
    """So many parameters: trunk and neck in the layout of `preset`'s own file, what else it has in one tensor."""
    neck = encoder.build(read_preset("encoder", preset, Encoder, ROOT))
    state = {PLACE + name: value for name, value in neck.state_dict().items()}
    if preset == "sam3.1":
        for use in ("interactive", "propagation"):
            state |= {f"{PLACE}{use}_{name}": value.clone() for name, value in neck.state_dict().items()
                      if name.startswith("convs.")}  # fmt: skip
    state["tracker.rest"] = torch.ones(max(1, parameters - sum(value.numel() for value in state.values())))
    if path.suffix == ".pt":
        torch.save({"model": state}, path)
    else:
        save_file(state, path)
    return path


@pytest.mark.parametrize(
    "preset, suffix, parameters, release, others",
    [  # ignored are the position tables of 32 blocks, and the rest
        ("sam3", "pt", 848_000_000, "SAM 3", 32 + 1),
        ("sam3", "safetensors", 848_000_000, "SAM 3", 32 + 1),
        ("sam3.1", "pt", 873_000_000, "SAM 3.1", 32 + 1 + 2 * 18),
    ],
)
def test_the_whole_file_loads_quickly_and_once(tmp_path, preset, suffix, parameters, release, others):
    path = whole_file(tmp_path / f"{preset}.{suffix}", preset, parameters)
    seen = json.loads(python(LOAD, str(path), preset))
    size = path.stat().st_size
    print(f"{path.name}: {size / 1e9:.2f} GB in {seen['seconds']:.1f} s, {seen['memory'] / size:.2f} x its size")
    assert size > 3.3e9
    assert seen["seconds"] < 30
    assert seen["memory"] < 1.3 * size
    assert f"({release} in the sam3 layout), {others} others ignored" in seen["said"]


def test_a_file_of_sam31_is_loaded_strictly_or_not_at_all(tmp_path):
    path = whole_file(tmp_path / "sam3.1.pt", "sam3.1", 0)
    settings = read(["use.encoder=sam3.1", f"encoder.weights={path}", "encoder.resolution=336"])
    neck = encoder.configured(settings)
    with torch.no_grad():
        levels = encoder.neck_levels(neck, neck.trunk(torch.zeros(1, 3, 336, 336))[-1])
    assert [tuple(level.shape) for level in levels] == [(1, 256, side, side) for side in (96, 48, 24)]
    del neck, levels
    with pytest.raises(UserError, match=r"this is a SAM 3\.1 file; set use\.encoder=sam3\.1"):
        load(encoder.build(FULL_SIZE, "meta"), path)
    whole = torch.load(path, weights_only=True, mmap=True)["model"]
    name = f"{PLACE}trunk.blocks.31.mlp.fc2.weight"
    for change, said in (
        ({name: None}, f"{name} is missing"),
        ({name: torch.zeros(1024, 1024)}, f"{name} has shape (1024, 1024), expected (1024, 4736)"),
        ({f"{PLACE}convs.3.conv_1x1.bias": torch.zeros(256)}, "convs.3.conv_1x1.bias has no place in this encoder"),
    ):
        state = {key: value for key, value in (whole | change).items() if value is not None}
        torch.save({"model": state}, tmp_path / "damaged.pt")
        with pytest.raises(UserError) as caught:
            load(encoder.build(settings.preset, "meta"), tmp_path / "damaged.pt")
        assert said in str(caught.value) and "nothing was loaded" in str(caught.value)


@pytest.mark.parametrize(
    "kind, side, cases, section",
    [
        ("lora", 504, 1, {}),
        ("lora", 504, 2, {"blocks": {"last": 8}}),
        ("lora", 1008, 1, {"activation_checkpointing": True}),
        ("frozen", 1008, 2, {}),
        ("full", 336, 1, {"blocks": {"last": 4}, "neck": True}),
        ("full", 504, 1, {"activation_checkpointing": True}),
        ("unet", 336, 2, {}),
        ("unet", 504, 8, {}),
    ],
)
def test_the_plan_predicts_the_memory_of_a_training(checkout, change, kind, side, cases, section):
    """Two epochs of one step, with validation, checkpoints and the saved model."""
    change({"arms.mine": {"kind": kind, **section}, "use.encoder": "sam3", "encoder.resolution": side,
            "train.epochs": 2, "train.batch_size": cases})  # fmt: skip
    write_json(record_of("mine"), {"path": "random"})
    some = [source_case(i, f"p{i}") for i in range(cases + 1)]
    write_cases(PREPARED, some, iter)
    write_folds(PREPARED, [{"train": some[:cases], "val": some[cases:], "test": []}])
    python(STAGE, "encode", "mine")
    process, real = map(int, python(STAGE, "train", "mine").split())
    tensors = planning.tensor_bytes(read().arm("mine"), CPU)
    predicted = planning.needed(tensors, CPU, process)
    print(f"{kind} {side} px {section}: predicted {predicted / 1e9:.2f} GB, real {real / 1e9:.2f} GB")
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


def stock_neck(levels: int) -> torch.nn.Module:
    """Trunk and neck as sam3 builds them, tables at 1008 px; SAM 3.1's neck has three of its four levels."""
    neck = model_builder._create_vit_neck(
        model_builder._create_position_encoding(), model_builder._create_vit_backbone()
    )
    neck.convs = neck.convs[:levels]
    return neck.eval()


@pytest.mark.parametrize(
    "preset, parameters, section",
    [
        ("sam3", 848_000_000, {"kind": "lora"}),
        ("sam3.1", 873_000_000, {"kind": "full", "blocks": "all", "neck": True}),
    ],
)
@torch.no_grad()
def test_a_merged_sam3_opens_in_sam3_and_in_transformers(checkout, change, preset, parameters, section):
    """Made by the test with random weights. Stock sam3 computes with the complex tables that are in the file."""
    source = whole_file(checkout / f"{preset}.pt", preset, parameters)
    change({"arms.mine": section, "use.encoder": preset, "encoder.weights": str(source)})
    settings = read().arm("mine")
    folder = pretend_trained(settings, source, checkout / "models/mine")
    for layout in ("sam3", "transformers"):
        (checkout / layout).mkdir()
        peak = int(python(MERGE, str(folder), layout, str(checkout / layout)))
        print(f"{preset} {section['kind']} to {layout}: {peak / source.stat().st_size:.2f} x the file in memory")
        assert peak < 1.5 * source.stat().st_size
    before, after = (torch.load(path, weights_only=True, mmap=True)["model"]
                     for path in (source, checkout / "sam3" / source.name))  # fmt: skip
    assert {n: (v.shape, v.dtype) for n, v in before.items()} == {n: (v.shape, v.dtype) for n, v in after.items()}
    image = torch.rand(1, 3, 1008, 1008, generator=torch.Generator().manual_seed(0)) * 2 - 1
    neck = kind_of(settings).open_model(folder, settings).neck
    expected = encoder.neck_levels(neck, neck.trunk(image)[-1])
    neck = stock_neck(len(expected))
    vision = {name.removeprefix(PLACE): value for name, value in after.items()
              if name.startswith((f"{PLACE}trunk.", f"{PLACE}convs."))}  # fmt: skip
    neck.load_state_dict(vision, strict=True, assign=True)
    of_sam3 = neck(image)[0]
    del neck
    of_transformers = Sam3VisionModel.from_pretrained(checkout / "transformers")(image).fpn_hidden_states
    for name, levels in (("sam3", of_sam3), ("transformers", of_transformers)):
        differences = [float((a - b).norm() / b.norm()) for a, b in zip(levels, expected, strict=True)]
        print(f"{preset} in {name}: features differ by {max(differences):.1e}")
        assert max(differences) < 1e-5


def test_a_bundle_of_sam3_makes_the_maps_of_its_model(checkout, change):
    """The export itself checks one frame by onnxruntime, and fails where maps differ by more than 1e-4."""
    change({"use.encoder": "sam3", "encoder.weights": "random"})
    folder = pretend_trained(read().arm("lora"), None, checkout / "models/mine")
    card = read_card(folder)  # not at 0.05, about which all probabilities of a new head lie
    card.model_copy(update={"threshold": 0.1}).write(folder / "card.json")
    started = time.perf_counter()
    peak = int(python(EXPORT, str(folder), str(checkout / "bundle")))
    small, weights = ((checkout / "bundle" / name).stat().st_size for name in ("model.onnx", "model.onnx.data"))
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s, {peak / 1e9:.1f} GB of memory, {small / 1e6:.1f} MB and {weights / 1e9:.2f} GB in files")
    assert small < 20e6 and weights > 4 * 440e6
    assert peak < 12e9
