"""A stage's file of settings changes when something changes that the stage reads, and only then."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from nightshift.config import kinds, params, resolved, sections
from nightshift.config.params import DataSettings
from nightshift.console.errors import UserError
from nightshift.core.io import read_json, write_text

EVERY_ARM = ("probe", "encode", "train", "evaluate")
COMMON = {"synthesize", "prepare", "probe", "compare"}
MINE = "kind: manifest\npath: m.csv\nsplit: given\n"


def contents() -> dict[str, dict]:
    return resolved.contents(params.read())


def changed_files(change: Callable[..., None], values: dict, *file: str) -> set[str]:
    """Names of the files that another value changes, but for `compare`, which depends on all settings."""
    before = contents()
    change(values, *file)
    after = contents()
    differing = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    return differing - {"compare"}


def of_arm(arm: str, *steps: str) -> set[str]:
    return {f"arms/{arm}/{step}" for step in steps or EVERY_ARM}


def test_there_is_a_file_per_stage_and_arm(checkout):
    resolved.write_all(params.read())
    written = {path.relative_to(resolved.FOLDER).with_suffix("").as_posix() for path in resolved.FOLDER.rglob("*.json")}
    assert written == COMMON | of_arm("frozen") | of_arm("lora")


@pytest.mark.parametrize(
    ("values", "files"),
    [
        ({"train.epochs": 4}, of_arm("frozen", "train") | of_arm("lora", "train")),
        ({"head.width": 64}, of_arm("frozen", "train") | of_arm("lora", "train")),
        ({"arms.lora.rank": 4}, of_arm("lora", "probe", "train")),
        ({"arms.frozen.level": "neck"}, of_arm("frozen", "probe", "train")),
        ({"arms.frozen.epochs": 4}, of_arm("frozen", "train")),
        ({"augment.variants": 1}, {f"arms/{arm}/{step}" for arm in ("frozen", "lora") for step in ("encode", "train")}),
        ({"augment.rotation": 20}, set()),  # of no variant
        ({"augment.online": True}, of_arm("frozen", "train") | of_arm("lora", "train")),
        ({"prepare.val": 0.2}, {"prepare"}),
        ({"probe.ddp": False}, {"probe"}),
        ({"compare.margin": 0.02}, set()),
        ({"encoder.resolution": 168}, set()),  # what `native` is
        ({"encoder.resolution": 336}, {f"arms/{a}/{s}" for a in ("frozen", "lora") for s in EVERY_ARM[:3]}),
    ],
)
def test_a_value_changes_the_files_of_those_that_read_it(change, values, files):
    assert changed_files(change, values) == files


@pytest.mark.parametrize(
    ("values", "unet", "filter_"),
    [
        ({"encoder.rope": "as_shipped"}, (), ()),
        ({"encoder.weights": "sam3.pt"}, (), ()),
        ({"head.width": 64}, (), ()),
        ({"encoder.resolution": 84}, ("train",), ("train",)),
        ({"encoder.precision": "bf16"}, ("train",), ("train",)),
        ({"view.mode": "none"}, ("train",), ()),
        ({"arms.unet.epochs": 3}, ("train",), ()),
        ({"arms.unet.channels": [8, 16, 32]}, ("probe", "train"), ()),
        ({"arms.unet.resolution": 208}, ("probe", "train"), ()),
    ],
)
def test_nothing_of_the_encoder_trains_an_arm_without_it_again(change, values, unet, filter_):
    change({"arms.unet": {"kind": "unet"}, "arms.vesselness": {"kind": "vesselness"}})
    files = {name for name in changed_files(change, values) if name.startswith(("arms/unet/", "arms/vesselness/"))}
    expected = {f"arms/{arm}/{step}" for arm, steps in (("unet", unet), ("vesselness", filter_)) for step in steps}
    assert files == expected


def test_settings_of_an_arm_without_an_encoder_name_nothing_of_it(change):
    change({"arms.unet": {"kind": "unet"}})
    found = contents()
    train = found["arms/unet/train"]
    assert not {"encoder", "preset", "head"} & train["settings"].keys() and train["settings"]["resolution"] == 176
    assert train["versions"].keys() == {"torch", "monai"}
    assert found["arms/unet/encode"]["versions"] == {}


def test_experiments_are_shown_with_every_section_of_the_settings():
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert pipeline["stages"]["compare"]["params"] == list(params.Params.model_fields)


def test_an_override_hides_the_key_of_train_from_its_arm(change):
    change({"arms.frozen.epochs": 4})
    assert changed_files(change, {"train.epochs": 5}) == of_arm("lora", "train")
    assert changed_files(change, {"arms.lora.epochs": 5}) == set()  # what it had already


def test_a_preset_changes_what_is_made_of_it(change):
    expected = {"synthesize", "prepare"}
    assert changed_files(change, {"patients": 40}, "conf/data/synthetic.yaml") == expected
    encoders = {f"arms/{arm}/{step}" for arm in ("frozen", "lora") for step in EVERY_ARM[:3]}
    assert changed_files(change, {"seed": 3}, "conf/encoder/tiny.yaml") == encoders
    assert changed_files(change, {"seed": 3}, "conf/encoder/mini.yaml") == set()


def test_a_second_data_set_is_read_by_what_lists_and_prepares_it(change):
    assert changed_files(change, {"use.external": "angiograms"}) == {"prepare"}
    expected = {"synthesize", "prepare"}
    assert changed_files(change, {"use.data": "angiograms", "use.external": "synthetic"}) == expected
    assert contents()["synthesize"]["settings"]["simulated"]["patients"] == 150
    assert changed_files(change, {"patients": 40}, "conf/data/synthetic.yaml") == expected


def test_defaults_are_in_the_file(change):
    """Another default in the code reruns what reads it, as another value in params.yaml does."""
    write_text("conf/data/mine.yaml", MINE)
    change({"use.data": "mine", "arms": {"lora": {"kind": "lora"}}, "compare.reference": "lora"})
    files = contents()
    assert files["prepare"]["settings"]["source"]["window"] == "own"
    arm = files["arms/lora/train"]["settings"]["arm"]
    assert arm.keys() == kinds.Lora.model_fields.keys() - sections.Train.model_fields.keys()
    assert (arm["alpha"], arm["blocks"]) == (16.0, [0, 1, 2, 3, 4, 5])


def test_versions_are_those_of_what_a_kind_needs(change, monkeypatch):
    files = contents()
    assert files["arms/frozen/train"]["versions"].keys() == {"torch", "sam3"}
    assert files["arms/lora/train"]["versions"].keys() == {"torch", "sam3", "peft"}
    assert files["arms/lora/encode"]["versions"].keys() == {"torch", "sam3"}
    measuring = {"scikit-image", "scipy", "monai"}
    assert files["arms/lora/evaluate"]["versions"].keys() == {"torch", "sam3", "peft"} | measuring
    assert files["compare"]["versions"] == {}
    change({"arms.lora.loss": {"cldice": 0.5, "from_epoch": 1}})
    assert contents()["arms/lora/train"]["versions"].keys() == {"torch", "sam3", "peft", "monai"}
    change({"augment.variants": 2})
    assert contents()["arms/frozen/encode"]["versions"].keys() == {"torch", "sam3", "monai"}
    files = contents()
    real = resolved._version
    monkeypatch.setattr(resolved, "_version", lambda package: "99" if package == "peft" else real(package))
    newer = contents()
    differing = {name for name in files if files[name] != newer[name]}
    assert differing == {"probe", *of_arm("lora", "probe", "train", "evaluate")}


def test_a_package_that_is_not_installed_is_one_line():
    with pytest.raises(UserError, match=r"^no-such-package is not installed; run: python -m pip install -r"):
        resolved.versions("no-such-package")


def test_the_same_settings_are_not_written_again(change):
    resolved.write_all(params.read())
    paths = sorted(resolved.FOLDER.rglob("*.json"))
    for path in paths:
        os.utime(path, (1, 1))
    resolved.write_all(params.read())
    assert {path.stat().st_mtime for path in paths} == {1}
    change({"arms.frozen.epochs": 5})
    resolved.write_all(params.read())
    again = {path.relative_to(resolved.FOLDER).as_posix() for path in paths if path.stat().st_mtime != 1}
    assert again == {"compare.json", "arms/frozen/train.json"}


def test_what_belongs_to_no_arm_any_more_goes(change):
    resolved.write_all(params.read())
    write_text(resolved.FOLDER / "old.json", "{}")
    change({"arms": {"frozen": {"kind": "frozen"}}})
    resolved.write_all(params.read())
    assert [path.name for path in (resolved.FOLDER / "arms").iterdir()] == ["frozen"]
    assert not (resolved.FOLDER / "old.json").exists()


def test_a_stage_reads_what_was_resolved(change):
    change({"arms.lora.epochs": 5, "arms.lora.rank": 4})
    settings = params.read()
    resolved.write_all(settings)
    read = resolved.read_arm("lora")
    assert read == settings.arm("lora") and read.train.epochs == 5
    assert resolved.read("prepare", DataSettings) == settings.data
    change({"arms.lora.epochs": 6})
    assert resolved.read_arm("lora").train.epochs == 5


def test_a_file_of_other_code_is_one_line(checkout):
    with pytest.raises(UserError, match=r"no such file yet; `dvc repro` makes it"):
        resolved.read("prepare", DataSettings)
    resolved.write_all(params.read())
    path = resolved.FOLDER / "prepare.json"
    content = read_json(path)
    content["settings"]["prepare"]["new"] = 1
    write_text(path, json.dumps(content))
    with pytest.raises(UserError, match=r"prepare.json: unknown key 'prepare.new'; valid: .*; `dvc repro` makes it"):
        resolved.read("prepare", DataSettings)


def inputs() -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "stages.inputs"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_inputs_writes_all_of_it_in_a_moment(checkout):
    start = time.monotonic()
    done = inputs()
    said = "synthetic: 0 files of the user; weights of 2 arms: data/inventory.json\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert time.monotonic() - start < 3  # a quarter of a second where nothing else runs
    assert read_json("reports/env.json").keys() == {"python", *resolved.ALL}
    assert read_json(resolved.FOLDER / "compare.json") == contents()["compare"]


def test_inputs_needs_neither_torch_nor_pandas(checkout):
    heavy = "{'torch', 'pandas', 'numpy', 'dvc', 'hydra', 'tqdm'}"
    code = f"import sys; from stages import inputs; inputs.main(); print({heavy} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nset()\n")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"use.data": "syntetic"}, "use.data: no preset 'syntetic' in conf/data/; did you mean 'synthetic'?"),
        ({"encoder.resolution": 100}, "encoder.resolution 100 is not a multiple of the patch, 14 pixels; nearest: 98"),
        ({"train.epochs": "many"}, "train.epochs: expected a number, or {patience: 5, at_most: 50}"),
        ({"train.epoch": 3}, "unknown key 'train.epoch'; did you mean 'epochs'?"),
        ({"arms.lora.kind": "lroa"}, "arms.lora.kind: no kind 'lroa'; did you mean 'lora'?"),
        ({"compare.reference": "forzen"}, "compare.reference: no arm 'forzen'; did you mean 'frozen'?"),
    ],
)  # fmt: skip
def test_a_mistake_ends_inputs_in_one_line_that_names_the_right_one(change, values, told):
    change(values)
    done = inputs()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"error: params.yaml: {told}")
    assert not Path("reports").exists()
