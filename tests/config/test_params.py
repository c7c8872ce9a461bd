"""Settings: what is shipped is valid; every mistake ends in one line with the key and the nearest valid one."""

import re
from pathlib import Path

import pytest
import yaml

from nightshift.console import errors
from nightshift.config import params as settings
from nightshift.console.errors import UserError
from nightshift.config.params import Data, Encoder, Folder, Hardware, Manifest, Simulated

PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
KEYS = [f"{section}.{key}" for section, values in PARAMS.items() for key in values]


def message(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def test_what_is_shipped_is_valid(checkout):
    chosen = settings.read()
    assert chosen.preset == settings.read_preset("encoder", "tiny", Encoder)
    assert chosen.resolution == chosen.preset.img_size
    assert isinstance(chosen.data, Simulated)
    assert settings.read_preset("encoder", "sam3", Encoder).depth == 32
    assert isinstance(settings.read_preset("data", "angiograms", Data).source, Folder)


def test_values_are_those_of_the_files(change):
    change({"encoder.resolution": 336, "lora.blocks": {"last": 2}, "train.seeds": [3, 4], "use.data": "angiograms"})
    change({"images": "somewhere"}, "conf/data/angiograms.yaml")
    chosen = settings.read()
    assert (chosen.resolution, chosen.lora.blocks, chosen.train.seeds) == (336, {"last": 2}, [3, 4])
    assert chosen.data.images == "somewhere"


def test_every_key_is_read(checkout):
    """Nothing in params.yaml is without effect, and the model needs nothing that is not there."""
    assert settings.read().model_dump(exclude_unset=True) == PARAMS
    given = set(KEYS)
    needed = {
        f"{name}.{key}"
        for name, section in settings.Settings.model_fields.items()
        for key, field in section.annotation.model_fields.items()
        if field.is_required()
    }
    assert needed == given


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_needed(checkout, key):
    section, name = key.split(".")
    values = {s: {k: v for k, v in keys.items() if (s, k) != (section, name)} for s, keys in PARAMS.items()}
    (checkout / "params.yaml").write_text(yaml.safe_dump(values))
    assert message(settings.read) == f"params.yaml: key '{key}' is missing"


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("train.epoch", "did you mean 'epochs'?"),
        ("train.learning_rat", "did you mean 'learning_rate'?"),
        ("head.widht", "did you mean 'width'?"),
        ("lora.epoch", "did you mean 'epochs'?"),
        ("frozen.seeds", "valid: batch_size, clip_norm, epochs, learning_rate, micro_batch, warmup, weight_decay"),
        ("probee", "did you mean 'probe'?"),
        ("view.zzz", "valid: mode"),
    ],
)
def test_unknown_key_names_the_nearest(change, key, hint):
    change({key: 1})
    assert message(settings.read) == f"params.yaml: unknown key '{key}'; {hint}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", "12"),
        ("train.epochs", 1.5),
        ("train.epochs", True),
        ("train.epochs", 0),
        ("train.learning_rate", "fast"),
        ("train.learning_rate", 0),
        ("train.seeds", []),
        ("train.warmup", 1.0),
        ("head.width", 12),
        ("head.detail", "yes"),
        ("view.mode", "fillm"),
        ("encoder.resolution", "natve"),
        ("lora.blocks", "last"),
        ("lora.blocks", {"last": 0}),
        ("lora.blocks", {"lats": 8}),
        ("lora.targets", ["attn.q"]),
        ("frozen.batch_size", 2.5),
    ],
)
def test_wrong_value_names_the_key_and_what_is_valid(change, key, value):
    change({key: value})
    said = message(settings.read)
    valid = {"encoder.resolution": "expected a number of pixels", "lora.blocks": "expected all, {last: 8} or a list"}
    given = value[0] if key == "lora.targets" else value
    assert said.startswith(f"params.yaml: {key}: ")
    assert valid.get(key, f"got {given!r}") in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"use: [", "not readable as YAML"),
        (b"use: a: b", "not readable as YAML"),
        (b"use: \xff\xfe", "not readable as YAML"),
        (b"- 1\n- 2\n", "not a mapping"),
        (b"", "key 'use' is missing"),
    ],
)
def test_bad_file_ends_in_one_line_and_status_1(checkout, capsys, text, said):
    (checkout / "params.yaml").write_bytes(text)
    with pytest.raises(SystemExit) as caught:
        errors.run(settings.read)
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"error: params.yaml: {said}")


def test_missing_file(checkout):
    (checkout / "params.yaml").unlink()
    assert message(settings.read) == "params.yaml: no such file; run from the project's root"


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        errors.run(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("group", "name", "hint"),
    [
        ("encoder", "tinny", "did you mean 'tiny'?"),
        ("data", "angiogram", "did you mean 'angiograms'?"),
        ("encoder", "q", "valid: mini, sam3, tiny"),
        ("encoder", "../data/synthetic", "valid: mini, sam3, tiny"),
    ],
)
def test_unknown_preset_names_the_nearest(change, group, name, hint):
    change({f"use.{group}": name})
    chosen = settings.read()
    said = message(lambda: chosen.preset if group == "encoder" else chosen.data)
    assert said == f"params.yaml: use.{group}: no preset '{name}' in conf/{group}/; {hint}"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"embed_dims": 3}, "unknown key 'embed_dims'; did you mean 'embed_dim'?"),
        ({"embed_dim": 30}, "embed_dim 30 must be a multiple of 4 x num_heads (8)"),
        ({"global_blocks": [1]}, "the last of global_blocks must be the last block, 2"),
        ({"global_blocks": []}, "the last of global_blocks must be the last block, 2"),
        ({"img_size": 60}, "img_size and pretrain_img_size must be multiples of patch_size 14"),
        ({"depth": "3"}, "depth: "),
    ],
)
def test_wrong_encoder_preset(change, values, said):
    change({"use.encoder": "mini"})
    change(values, "conf/encoder/mini.yaml")
    whole = message(lambda: settings.read().preset)
    assert whole.startswith("conf/encoder/mini.yaml: ")
    assert said in whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: manifest\nfile: x\nsplit: made", "key 'path' is missing; unknown key 'file'; valid: kind, mask, path"),
        ("kind: folder\nimages: x\nmask: y\nsplit: made", "did you mean 'masks'?"),
        ("kind: folder\nimages: x\nmasks: y\nsplit: given", "split: given needs cases, a CSV with a column split"),
        (
            "kind: manifst\npath: x\nsplit: made",
            "kind: expected simulated, manifest, folder, dicom, coco, got 'manifst'",
        ),
        ("path: x\nsplit: made", "kind: expected simulated, manifest, folder, dicom, coco, got None"),
        ("", "kind: expected simulated, manifest, folder, dicom, coco, got None"),
    ],
)
def test_wrong_data_preset(checkout, change, text, said):
    (checkout / "conf/data/mine.yaml").write_text(text)
    change({"use.data": "mine"})
    whole = message(lambda: settings.read().data)
    assert whole.startswith("conf/data/mine.yaml: ")
    assert said in whole


def test_a_preset_of_ones_own(checkout, change):
    (checkout / "conf/data/mine.yaml").write_text("kind: manifest\npath: there/m.csv\nsplit: given\n")
    change({"use.data": "mine"})
    assert settings.read().data == Manifest(kind="manifest", path="there/m.csv", split="given")


def test_an_arm_overrides_train_for_itself_alone(change):
    change({"frozen.epochs": 3, "frozen.weight_decay": 0.0, "lora.learning_rate": 0.5, "lora.batch_size": 1})
    chosen = settings.read()
    train = chosen.train
    assert chosen.train_for("frozen") == train.model_copy(update={"epochs": 3, "weight_decay": 0.0})
    assert chosen.train_for("lora") == train.model_copy(update={"learning_rate": 0.5, "batch_size": 1})
    assert (train.epochs, train.learning_rate) == (PARAMS["train"]["epochs"], PARAMS["train"]["learning_rate"])


def test_without_overrides_both_arms_are_train(change):
    change({"train.epochs": 7, "train.batch_size": 3, "train.weight_decay": 0.3, "train.warmup": 0.4})
    chosen = settings.read()
    assert chosen.train_for("frozen") == chosen.train_for("lora") == chosen.train


def test_hardware_is_optional_and_read_from_dvc_root(checkout, monkeypatch, tmp_path_factory):
    assert settings.hardware() == Hardware(device="auto", threads=2)
    (checkout / "hardware.yaml").write_text("device: cpu\n")
    assert settings.hardware() == Hardware(device="cpu", threads=2)
    main = tmp_path_factory.mktemp("main")
    monkeypatch.setenv("DVC_ROOT", str(main))
    assert settings.root() == main
    assert settings.hardware() == Hardware()
    (main / "hardware.yaml").write_text("threads: 1\n")
    assert settings.hardware() == Hardware(threads=1)


def test_wrong_hardware(checkout):
    (checkout / "hardware.yaml").write_text("devise: cpu\n")
    assert message(settings.hardware) == "hardware.yaml: unknown key 'devise'; did you mean 'device'?"
    (checkout / "hardware.yaml").write_text("device: gpu\n")
    assert message(settings.hardware).startswith("hardware.yaml: device: ")
    for devices in ("[0, 0]", "[]", "[-1]", "[true]", "0", "all"):
        (checkout / "hardware.yaml").write_text(f"devices: {devices}\n")
        told = "hardware.yaml: devices: expected auto, or a list of different numbers from 0, as [0, 1]"
        assert message(settings.hardware) == told
    (checkout / "hardware.yaml").write_text("busy: never\n")
    assert message(settings.hardware).startswith("hardware.yaml: busy: Input should be 'wait' or 'refuse'")


def test_settings_cannot_be_changed(checkout):
    with pytest.raises(ValueError, match="frozen"):
        settings.read().train.epochs = 1


@pytest.mark.parametrize("key", ["source", "manifest", "simulated", "folder", "train.folder"])
def test_unknown_key_with_the_name_of_a_source(change, key):
    change({key: 1})
    assert f"unknown key '{key}'" in message(settings.read)


def test_learning_rate_as_dvc_exp_run_writes_it(checkout):
    text = re.sub(r"learning_rate: \S+", "learning_rate: 1e-05", (checkout / "params.yaml").read_text(encoding="utf-8"))
    (checkout / "params.yaml").write_text(text, encoding="utf-8")
    assert settings.read().train.learning_rate == 1e-5


def test_blocks_as_an_empty_mapping(change):
    change({"lora.blocks": {}})
    assert "lora.blocks" in message(settings.read)


@pytest.mark.parametrize("text", ["- kind\n", "manifest\n"])
def test_a_data_preset_that_is_no_mapping(checkout, change, text):
    (checkout / "conf/data/mine.yaml").write_text(text)
    change({"use.data": "mine"})
    assert message(lambda: settings.read().data).startswith("conf/data/mine.yaml: ")


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("lora.blocks={last:1}", {"last": 1}),
        ("lora.blocks=[0,2]", [0, 2]),
        ("train.learning_rate=1e-5", 1e-5),
        ("encoder.weights=C:\\my models\\sam3.pt", "C:\\my models\\sam3.pt"),
    ],
)
def test_changes_are_read_as_dvc_reads_them(checkout, change, value):
    section, key = change.split("=")[0].split(".")
    read = getattr(getattr(settings.read([change]), section), key)
    assert read == value


@pytest.mark.parametrize("change", ["lora.rank=4,8", "lora.rank", "rank=4", "~lora.rank", "lora.rank={"])
def test_a_change_that_is_none_is_one_line(checkout, change):
    with pytest.raises(UserError, match=r"^-S .*: expected"):
        settings.read([change])
