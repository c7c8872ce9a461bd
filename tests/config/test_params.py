"""Settings: what is shipped is valid; every mistake ends in one line with the key and the nearest valid one."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nightshift.config import kinds, params, sections
from nightshift.config.kinds import Frozen, Lora
from nightshift.config.params import Params
from nightshift.config.presets import DataFile, Encoder, ImageFolder, Manifest, Section, Simulated
from nightshift.console import errors
from nightshift.console.errors import UserError

PARAMS = yaml.safe_load((Path(__file__).parents[2] / "params.yaml").read_text(encoding="utf-8"))
SECTIONS = {name: section for name, section in PARAMS.items() if name != "arms"}
PATCH = "is not a multiple of the patch, 14 pixels; nearest"
KEYS = [f"{section}.{key}" for section, values in SECTIONS.items() for key in values]


def message(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_shipped_is_valid(checkout):
    settings = params.read()
    assert settings.preset == params.read_preset("encoder", "tiny", Encoder)
    assert settings.resolution == settings.preset.img_size
    assert isinstance(settings.source, Simulated)
    assert params.read_preset("encoder", "sam3", Encoder).depth == 32
    assert isinstance(params.read_preset("data", "angiograms", DataFile).source, ImageFolder)


def test_values_are_those_of_the_files(change):
    change(
        {"encoder.resolution": 336, "arms.lora.blocks": {"last": 2}, "train.seeds": [3, 4], "use.data": "angiograms"}
    )
    change({"images": "somewhere"}, "conf/data/angiograms.yaml")
    settings = params.read()
    assert (settings.resolution, settings.grid, settings.train.seeds) == (336, 24, [3, 4])
    assert settings.arms["lora"].blocks == {"last": 2}
    assert settings.data.source.images == "somewhere"


def test_every_key_is_read(checkout):
    """Nothing in params.yaml is without effect, and the model needs nothing that is not there."""
    given = params.read_as(Params, params.PARAMS)
    assert given.model_dump(exclude_unset=True) == PARAMS
    needed = {
        f"{name}.{key}"
        for name, section in Params.model_fields.items()
        if isinstance(section.annotation, type) and issubclass(section.annotation, Section)
        for key, field in section.annotation.model_fields.items()
        if field.is_required()
    }
    assert needed == set(KEYS)


@pytest.mark.parametrize(("kind", "model"), [("frozen", Frozen), ("lora", Lora)])
def test_an_arm_as_shipped_names_each_key_of_its_kind(kind, model):
    assert PARAMS["arms"][kind].keys() == model.model_fields.keys() - sections.Train.model_fields.keys()


@pytest.mark.parametrize("key", [*KEYS, "arms.lora.kind"])
def test_every_key_is_needed(checkout, change, key):
    values = yaml.safe_load((checkout / "params.yaml").read_text(encoding="utf-8"))
    *sections, last = key.split(".")
    section = values
    for name in sections:
        section = section[name]
    del section[last]
    (checkout / "params.yaml").write_text(yaml.safe_dump(values))
    valid = f"; valid: {', '.join(kinds.KINDS)}" if last == "kind" else ""
    assert message(params.read) == f"params.yaml: key '{key}' is missing{valid}"


@pytest.mark.parametrize(
    ("external", "told"),
    [
        ("angiogram", "no preset 'angiogram' in conf/data/; did you mean 'angiograms'?"),
        ("synthetic", "'synthetic' is use.data already; name another data set, or none"),
        ("other", "'other' is simulated, and so is 'synthetic' of use.data, but only one set of them is made; name "),
    ],
)
def test_a_second_data_set_is_another_one(checkout, change, external, told):
    shutil.copy(checkout / "conf/data/synthetic.yaml", checkout / "conf/data/other.yaml")
    change({"use.external": external})
    assert message(params.read).startswith(f"params.yaml: use.external: {told}")


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("train.epoch", "did you mean 'epochs'?"),
        ("train.learning_rat", "did you mean 'learning_rate'?"),
        ("head.widht", "did you mean 'width'?"),
        ("arms.lora.epoch", "did you mean 'epochs'?"),
        ("arms.frozen.levl", "did you mean 'level'?"),
        ("arms.frozen.rank", "did you mean 'warmup'?"),
        ("probee", "did you mean 'probe'?"),
        ("view.zzz", "valid: mode"),
    ],
)
def test_unknown_key_names_the_nearest(change, key, hint):
    change({key: 1})
    told = message(params.read)
    if key == "arms.frozen.rank":  # nothing is near to it: what there is
        hint = "valid: batch_size, clip_norm, ema, epochs, kind, learning_rate, level, loss, micro_batch, patients, "
        assert told.startswith(f"params.yaml: unknown key '{key}'; {hint}")
    else:
        assert told == f"params.yaml: unknown key '{key}'; {hint}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.epochs", "12"),
        ("train.epochs", 1.5),
        ("train.epochs", True),
        ("train.epochs", 0),
        ("train.learning_rate", "fast"),
        ("train.learning_rate", 0),
        ("train.learning_rate", [0.1, 0.1]),
        ("train.seeds", []),
        ("train.seeds", [3, 3]),
        ("train.warmup", 1.0),
        ("head.width", 12),
        ("head.detail", "yes"),
        ("view.mode", "fillm"),
        ("encoder.resolution", "natve"),
        ("arms.lora.blocks", "last"),
        ("arms.lora.blocks", {"last": 0}),
        ("arms.lora.blocks", {"lats": 8}),
        ("arms.lora.blocks", {}),
        ("arms.lora.targets", ["attn.q"]),
        ("arms.lora.micro_batch", "some"),
        ("arms.frozen.batch_size", 2.5),
    ],
)
def test_wrong_value_names_the_key_and_what_is_valid(change, key, value):
    change({key: value})
    told = message(params.read)
    valid = {
        "encoder.resolution": "expected a number of pixels, or native",
        "arms.lora.blocks": "expected all, {last: 8} or a list",
        "train.epochs": "expected a number, or {patience: 5",
        "train.learning_rate": "expected a number, or a list of different ones",
        "train.seeds": "expected a list of different whole numbers",
        "arms.lora.micro_batch": "expected a number of cases, or all",
    }
    given = value[0] if key == "arms.lora.targets" else value
    assert told.startswith(f"params.yaml: {key}: ")
    assert valid.get(key, f"got {given!r}") in told


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"encoder.resolution": 100}, f"encoder.resolution 100 {PATCH}: 98 or 112"),
        ({"encoder.resolution": 13}, f"encoder.resolution 13 {PATCH}: 14"),
        ({"arms.lora.blocks": [1, 6]}, "arms.lora.blocks [1, 6]: the encoder has blocks 0..5"),
        ({"arms.lora.blocks": {"last": 7}}, "arms.lora.blocks {'last': 7}: the encoder has blocks 0..5"),
        ({"train.epochs": 4, "train.loss": {"cldice": 0.5, "from_epoch": 5}, "arms.frozen.epochs": 9},
         "arms.lora: loss.from_epoch is after the last epoch, 4; lower it"),
        ({"compare.reference": "forzen"}, "compare.reference: no arm 'forzen'; did you mean 'frozen'?"),
        ({"arms.lora.kind": "lroa"}, "arms.lora.kind: no kind 'lroa'; did you mean 'lora'?"),
        ({"arms.lora": None}, "arms.lora: expected keys and values, got None"),
        ({"arms": {}}, "arms: expected at least one, as frozen: {kind: frozen}"),
        ({"train": 3}, "train: expected keys and values, got 3"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_each_other(change, values, told):
    change(values)
    assert message(params.read) == f"params.yaml: {told}"


@pytest.mark.parametrize("name", ["", "my arm", "../x", "-x", "ärm", "a.b", "<b>"])
def test_names_of_arms_are_names_of_folders(change, name):
    change({"arms": {"frozen": {"kind": "frozen"}, name: {"kind": "frozen"}}})
    valid = "a name has only letters, digits, _ and -, and does not begin with -"
    assert message(params.read) == f"params.yaml: arms: name '{name}': {valid}"


def test_names_of_arms_that_are_one_folder_on_windows(change):
    change({"arms": {"frozen": {"kind": "frozen"}, "Frozen": {"kind": "frozen"}}})
    assert "'Frozen' and 'frozen' are one folder on Windows" in message(params.read)


def test_any_number_of_arms_of_any_name(change):
    change({"arms": {"a-1": {"kind": "frozen"}, "2_b": {"kind": "lora", "rank": 4}, "c": {"kind": "lora"}},
            "compare.reference": "c"})  # fmt: skip
    settings = params.read()
    assert set(settings.arms) == {"a-1", "2_b", "c"}
    assert (settings.arm("2_b").arm.rank, settings.arm("c").arm.rank) == (4, 8)
    assert message(lambda: settings.arm("b")) == "params.yaml: arms: no arm 'b'; did you mean '2_b'?"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"use: [", "not readable as YAML"),
        (b"use: a: b", "not readable as YAML"),
        (b"use: \xff\xfe", "not readable as YAML"),
        (b"- 1\n- 2\n", "not a mapping"),
        (b"", "key 'use' is missing"),
    ],
)
def test_bad_file_ends_in_one_line_and_status_1(checkout, capsys, text, told):
    (checkout / "params.yaml").write_bytes(text)
    with pytest.raises(SystemExit) as caught:
        errors.run(params.read)
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"error: params.yaml: {told}")


def test_missing_file(checkout):
    (checkout / "params.yaml").unlink()
    assert message(params.read) == "params.yaml: no such file; run from the project's root"


def test_files_of_another_folder(checkout, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert list(params.read(folder=checkout).arms) == list(PARAMS["arms"])


@pytest.mark.parametrize(
    ("group", "name", "hint"),
    [
        ("encoder", "tinny", "did you mean 'tiny'?"),
        ("data", "angiogram", "did you mean 'angiograms'?"),
        ("encoder", "q", "valid: mini, sam3, sam3.1, tiny"),
        ("encoder", "../data/synthetic", "valid: mini, sam3, sam3.1, tiny"),
    ],
)
def test_unknown_preset_names_the_nearest(change, group, name, hint):
    change({f"use.{group}": name})
    assert message(params.read) == f"params.yaml: use.{group}: no preset '{name}' in conf/{group}/; {hint}"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"embed_dims": 3}, "unknown key 'embed_dims'; did you mean 'embed_dim'?"),
        ({"embed_dim": 30}, "embed_dim 30 must be a multiple of 4 x num_heads (8)"),
        ({"global_blocks": [1]}, "the last of global_blocks must be the last block, 2"),
        ({"global_blocks": []}, "the last of global_blocks must be the last block, 2"),
        ({"img_size": 60}, "img_size and pretrain_img_size must be multiples of patch_size 14"),
        ({"depth": "3"}, "depth: expected a whole number, got '3'"),
        ({"scale_factors": [4.0, 2.0]}, "scale_factors [4.0, 2.0]: expected [4, 2, 1, 0.5] as in SAM 3, or [4, 2, 1]"),
        ({"hub": "sam3.pt"}, "hub: expected OWNER/REPOSITORY/FILE, or none"),
    ],
)
def test_wrong_encoder_preset(change, values, told):
    change({"use.encoder": "mini"})
    change(values, "conf/encoder/mini.yaml")
    assert message(params.read).startswith(f"conf/encoder/mini.yaml: {told}")


KINDS = "simulated, manifest, folder, dicom, coco"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: manifest\nfile: x\nsplit: made", "key 'path' is missing; unknown key 'file'; valid: kind, mask, path"),
        ("kind: folder\nimages: x\nmask: y\nsplit: made", "did you mean 'masks'?"),
        ("kind: folder\nimages: x\nmasks: y\nsplit: given", "split: given needs cases, a CSV with a column split"),
        ("kind: manifst\npath: x\nsplit: made", "kind: no kind 'manifst'; did you mean 'manifest'?"),
        ("path: x\nsplit: made", f"key 'kind' is missing; valid: {KINDS}"),
        ("", f"key 'kind' is missing; valid: {KINDS}"),
        ("- kind\n", "not a mapping of keys to values"),
        ("manifest\n", "not a mapping of keys to values"),
    ],
)
def test_wrong_data_preset(checkout, change, text, told):
    (checkout / "conf/data/mine.yaml").write_text(text)
    change({"use.data": "mine"})
    whole = message(params.read)
    assert whole.startswith("conf/data/mine.yaml: ")
    assert told in whole


def test_a_preset_of_ones_own(checkout, change):
    (checkout / "conf/data/mine.yaml").write_text("kind: manifest\npath: there/m.csv\nsplit: given\n")
    change({"use.data": "mine"})
    assert params.read().source == Manifest(kind="manifest", path="there/m.csv", split="given")


def test_an_arm_overrides_train_for_itself_alone(change):
    change({"arms.frozen.epochs": 3, "arms.frozen.weight_decay": 0.0, "arms.frozen.seeds": [7]})
    change({"arms.lora.learning_rate": 0.5, "arms.lora.batch_size": 1})
    settings = params.read()
    train = settings.train
    frozen = train.model_copy(update={"epochs": 3, "weight_decay": 0.0, "seeds": [7]})
    assert settings.arm("frozen").train == frozen
    assert settings.arm("lora").train == train.model_copy(update={"learning_rate": 0.5, "batch_size": 1})
    change({"arms.lora.epochs": {"patience": 2, "at_most": 6}, "arms.lora.loss": {"cldice": 0.5, "from_epoch": 6}})
    lora = params.read().arm("lora").train
    assert (lora.most_epochs, lora.cldice(5), lora.cldice(6)) == (6, 0, 0.5)
    assert (train.epochs, train.learning_rate) == (PARAMS["train"]["epochs"], PARAMS["train"]["learning_rate"])


def test_without_overrides_every_arm_has_train(change):
    change({"train.epochs": 7, "train.batch_size": 3, "train.weight_decay": 0.3, "train.warmup": 0.4})
    settings = params.read()
    assert settings.arm("frozen").train == settings.arm("lora").train == settings.train


def test_settings_cannot_be_changed(checkout):
    with pytest.raises(ValueError, match="frozen"):
        params.read().train.epochs = 1


@pytest.mark.parametrize("key", ["source", "manifest", "simulated", "preset", "lora", "train.folder"])
def test_unknown_key_with_the_name_of_something_else(change, key):
    change({key: 1})
    assert f"unknown key '{key}'" in message(params.read)


def test_learning_rate_as_dvc_exp_run_writes_it(checkout):
    text = re.sub(r"learning_rate: \S+", "learning_rate: 1e-05", (checkout / "params.yaml").read_text(encoding="utf-8"))
    (checkout / "params.yaml").write_text(text, encoding="utf-8")
    assert params.read().train.learning_rate == 1e-5
