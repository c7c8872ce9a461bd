"""A merged SAM 3: only the encoder differs from its source, and every program that opens it computes our features."""

import pytest
import torch
from helpers.models import batch, card_of, changed, pretend_trained
from helpers.sam3_checkpoint import tiny_config, write_checkpoint
from helpers.sam3_weights import LEVELS, PREFIX, fresh, in_transformers_layout, saved
from transformers import Sam3Model, Sam3VisionModel

from nightshift.backbone import encoder, rope
from nightshift.backbone.state_dict import load, open_weights
from nightshift.console.errors import UserError
from nightshift.export.merged import write_merged
from nightshift.model.card import read_card
from nightshift.model.kinds import kind_of

SIDE = 84  # not the 56 pixels that the tables in the files are made for
FULL = {"kind": "full", "blocks": {"last": 2}, "neck": True}


@pytest.fixture
def trained(small, change, checkout):
    """trained("lora", path): the folder of an arm on the weights in that file; random ones where it is None."""

    def make(arm, source, release="SAM 3", preset=None, precision="fp32"):
        change({"scale_factors": LEVELS[release]} | (preset or {}), "conf/encoder/mini.yaml")
        encoder = {"weights": str(source or "random"), "resolution": SIDE, "precision": precision}
        settings = small({f"encoder.{key}": value for key, value in encoder.items()} | {"arms.full": FULL}, arm)
        return pretend_trained(settings, source, checkout / "models/mine")

    return make


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@torch.no_grad()
def features(neck, side=SIDE):
    return encoder.neck_levels(neck, neck.trunk(batch(side=side))[-1])


def of_arm(folder):
    settings = read_card(folder).settings
    return features(kind_of(settings).open_model(folder, settings).neck)


def of_file(path, release="SAM 3"):
    neck = fresh(release)
    load(neck, path)
    rope.make_tables(neck.trunk)
    rope.set_grid(neck.trunk, SIDE // 14)
    return features(neck)


@torch.no_grad()
def of_vision_model(model):
    return model(batch(side=SIDE)).fpn_hidden_states


def assert_close(some, others, tolerance=1e-5):
    for a, b in zip(some, others, strict=True):
        assert (a - b).norm() <= tolerance * b.norm()


def assert_only_encoder_differs(source, merged, is_encoder):
    before, after = open_weights(source), open_weights(merged)
    assert list(before) == list(after)
    for name, value in before.items():
        assert (after[name].shape, after[name].dtype) == (value.shape, value.dtype)
        assert is_encoder(name) or torch.equal(after[name], value), name
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def in_meta_layout(name):
    return name.startswith((f"{PREFIX}trunk.", f"{PREFIX}convs.")) and "freqs_cis" not in name


@pytest.mark.parametrize(
    "arm, release, name, wrap",
    [("lora", "SAM 3", "w.pt", True), ("full", "SAM 3.1", "w.pt", False), ("lora", "SAM 3", "w.safetensors", False)],
)
def test_meta_layout_is_the_source_with_another_encoder(trained, out, tmp_path, arm, release, name, wrap):
    source = saved(tmp_path / name, wrap=wrap, release=release)
    folder = trained(arm, source, release)
    said = write_merged(folder, "sam3", out)
    assert sorted(path.name for path in out.iterdir()) == ["head.safetensors", name]
    assert said.startswith(f"{name}: {source} with the trained encoder") and "SAM 3 has no place" in said
    assert (out / "head.safetensors").read_bytes() == (folder / "head.safetensors").read_bytes()
    assert_only_encoder_differs(source, out / name, in_meta_layout)
    if name.endswith(".pt"):
        assert ("model" in torch.load(out / name, weights_only=True)) == wrap
    assert_close(of_file(out / name, release), of_arm(folder))


@pytest.mark.parametrize("arm, release", [("full", "SAM 3"), ("lora", "SAM 3.1")])
def test_transformers_opens_the_encoder_of_a_meta_file(trained, out, tmp_path, arm, release):
    folder = trained(arm, saved(tmp_path / "w.pt", release=release), release)
    assert "the trained vision encoder alone" in write_merged(folder, "transformers", out)
    assert sorted(path.name for path in out.iterdir()) == ["config.json", "head.safetensors", "model.safetensors"]
    model, loading = Sam3VisionModel.from_pretrained(out, output_loading_info=True)
    assert not any(loading.values())
    assert_close(of_vision_model(model), of_arm(folder))


def test_a_whole_model_of_transformers_stays_whole(trained, out, tmp_path):
    source = write_checkpoint(tmp_path / "sam") / "model.safetensors"
    preset = {"depth": 2, "global_blocks": [1], "d_model": 32}
    folder = trained("lora", source, preset=preset)
    write_merged(folder, "transformers", out)
    names = {path.name for path in source.parent.iterdir()}
    assert {path.name for path in out.iterdir()} == names | {"head.safetensors"}
    assert_only_encoder_differs(source, out / source.name, lambda name: name.startswith("vision_encoder."))
    config = tiny_config()
    config.vision_config.backbone_config.layer_norm_eps = 1e-5  # as sam3's
    config.image_size = SIDE
    model, loading = Sam3Model.from_pretrained(out, config=config, output_loading_info=True)
    assert not any(loading.values())
    assert_close(of_vision_model(model.vision_encoder), of_arm(folder))


def test_a_file_of_transformers_without_its_config_gives_the_encoder(trained, out, tmp_path):
    source, _ = in_transformers_layout(tmp_path / "t.safetensors")
    folder = trained("lora", source)
    assert "the trained vision encoder alone" in write_merged(folder, "transformers", out)
    assert_close(of_vision_model(Sam3VisionModel.from_pretrained(out)), of_arm(folder))


@pytest.mark.parametrize("layout, name", [("sam3", "w.pt"), ("transformers", "model.safetensors")])
def test_half_precision_stays_and_rounds(trained, out, tmp_path, layout, name):
    source = saved(tmp_path / "w.pt", cast=torch.bfloat16)
    folder = trained("lora", source, precision="bf16")
    write_merged(folder, layout, out)
    assert {value.dtype for part, value in open_weights(out / name).items() if "proj" in part} == {torch.bfloat16}
    settings = changed(read_card(folder).settings, encoder={"precision": "fp32"})
    expected, merged = kind_of(settings).open_model(folder, settings).neck, fresh()
    load(merged, out / name)
    for p, q in zip(merged.trunk.blocks.parameters(), expected.trunk.blocks.parameters(), strict=True):
        assert torch.equal(p, q.bfloat16().float())


def test_a_source_that_moved_is_named(trained, out, tmp_path):
    source = saved(tmp_path / "w.pt")
    folder = trained("lora", source)
    source.rename(tmp_path / "moved.pt")
    with pytest.raises(UserError, match="name it with --weights"):
        write_merged(folder, "sam3", out)
    write_merged(folder, "sam3", out, tmp_path / "moved.pt")
    assert (out / "moved.pt").is_file()


@pytest.mark.parametrize(
    "arm, of_transformers, said",
    [
        ("frozen", False, r"nothing of SAM 3 was trained, kind frozen trains the head alone; take .*head\.safetensors"),
        ("lora", True, "in transformers' layout, from which Meta's cannot be made; use --to transformers"),
    ],
)
def test_what_cannot_be_merged_is_refused(trained, out, tmp_path, arm, of_transformers, said):
    make = in_transformers_layout if of_transformers else saved
    make(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=said):
        write_merged(trained(arm, tmp_path / "w.safetensors"), "sam3", out)
    assert not list(out.iterdir())


def test_random_weights_have_no_file(trained, out):
    with pytest.raises(UserError, match="was trained on random weights, so there is no file of SAM 3"):
        write_merged(trained("lora", None), "sam3", out)


def test_an_arm_without_the_encoder_has_nothing_of_sam3(small, out, tmp_path):
    card_of(small({"arms.vesselness": {"kind": "vesselness"}}, "vesselness")).write(tmp_path / "card.json")
    with pytest.raises(UserError, match="kind vesselness trains nothing of SAM 3; export an arm of kind lora or full"):
        write_merged(tmp_path, "sam3", out)
