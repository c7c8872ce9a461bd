"""Weights: strictly loaded, never half, never run; both layouts alike; the hub's answers in one line."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from helpers.sam3_weights import PREFIX, fresh, in_transformers_layout, preset, saved
from huggingface_hub import errors
from safetensors.torch import load_file, save_file

from nightshift.backbone import encoder, pretrained, rope
from nightshift.backbone.state_dict import load
from nightshift.config import params
from nightshift.config.presets import Weights
from nightshift.console.errors import UserError
from stages import inputs


def features(neck, side=56):
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return encoder.neck_levels(neck, neck.trunk(images)[-1])


def loaded(path, release="SAM 3"):
    neck = fresh(release)
    report = load(neck, path)
    rope.make_tables(neck.trunk)
    return neck, report


@pytest.mark.parametrize("release, ignored", [("SAM 3", 3 + 3), ("SAM 3.1", 3 * 3 + 2 * 18 + 1)])
@pytest.mark.parametrize("name, wrap", [("w.pt", False), ("w.pt", True), ("w.safetensors", False)])
def test_the_real_layout_loads_whole(tmp_path, name, wrap, release, ignored):
    neck, report = loaded(saved(tmp_path / name, wrap=wrap, release=release), release)
    expected = encoder.build(preset())
    assert all(torch.equal(a, b) for a, b in zip(features(neck), features(expected), strict=False))
    assert (report.release, report.layout, report.ignored, report.converted) == (release, "sam3", ignored, {})
    assert f"({release} in the sam3 layout), {ignored} others ignored" in str(report)
    assert report.used == len(list(neck.parameters()))
    assert encoder.count_parameters(neck) == 0
    assert not any(value.is_meta for value in neck.state_dict().values())


def test_transformers_layout_gives_the_features_of_transformers_and_of_the_sam3_layout(tmp_path):
    path, model = in_transformers_layout(tmp_path / "t.safetensors")
    neck, report = loaded(path)
    assert report.layout == "transformers"
    images = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = model(images).fpn_hidden_states
    ours = features(neck)
    for a, b in zip(ours, theirs, strict=False):
        assert (a - b).norm() / b.norm() <= 1e-5
    state = {PREFIX + name: value for name, value in neck.state_dict().items()}
    torch.save(state, tmp_path / "same.pt")
    for a, b in zip(ours, features(loaded(tmp_path / "same.pt")[0]), strict=True):
        assert (a - b).norm() / b.norm() <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_converted_and_said(tmp_path, dtype):
    neck, report = loaded(saved(tmp_path / "w.pt", cast=dtype))
    assert f"converted from {str(dtype)[6:]} to float32" in str(report)
    assert {p.dtype for p in neck.parameters()} == {torch.float32}
    for a, b in zip(features(neck), features(encoder.build(preset())), strict=True):
        assert 0 < (a - b).norm() / b.norm() < 0.02


QKV = PREFIX + "trunk.blocks.1.attn.qkv.weight"


def removed(state):
    del state[QKV]


def misshapen(state):
    state[QKV] = torch.zeros(96, 31)


def integer(state):
    state[QKV] = torch.zeros(96, 32, dtype=torch.int8)


def broken(state):
    state[QKV] = torch.full((96, 32), float("nan"))


def deeper(state):
    state[PREFIX + "trunk.blocks.3.norm1.weight"] = torch.ones(32)


def without_neck(state):
    for name in [n for n in state if ".convs." in n and "sam2" not in n]:
        del state[name]


def with_more_convs(state):
    state[PREFIX + "other_convs.0.conv_1x1.weight"] = torch.ones(2)


@pytest.mark.parametrize("suffix, release", [(".pt", "SAM 3"), (".safetensors", "SAM 3"), (".pt", "SAM 3.1")])
@pytest.mark.parametrize(
    "change, said",
    [
        (removed, f"{QKV} is missing"),
        (misshapen, f"{QKV} has shape (96, 31), expected (96, 32)"),
        (integer, f"{QKV} holds int8, expected floats"),
        (broken, f"{QKV} holds numbers that are not finite"),
        (deeper, f"{PREFIX}trunk.blocks.3.norm1.weight has no place in this encoder"),
        (without_neck, f"{PREFIX}convs.0.dconv_2x2_0.weight is missing"),
        (with_more_convs, f"{PREFIX}other_convs.0.conv_1x1.weight has no place in this encoder"),
        (dict.clear, "no image encoder of SAM 3"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path, suffix, release, change, said):
    path, neck = saved(tmp_path / f"w{suffix}", change, release=release), fresh(release)
    with pytest.raises(UserError) as caught:
        load(neck, path)
    assert said in str(caught.value) and str(path) in str(caught.value)
    assert all(p.is_meta for p in neck.parameters())


@pytest.mark.parametrize("release, other, name", [("SAM 3", "SAM 3.1", "sam3"), ("SAM 3.1", "SAM 3", "sam3.1")])
def test_a_file_of_the_other_release_says_which_encoder_it_is_for(tmp_path, release, other, name):
    path = saved(tmp_path / "w.pt", release=release)
    with pytest.raises(UserError) as caught:
        load(fresh(other), path)
    assert str(caught.value) == f"{path}: this is a {release} file; set use.encoder={name}"
    if release == "SAM 3":
        path, _ = in_transformers_layout(tmp_path / "t.safetensors")
        with pytest.raises(UserError, match=r"this is a SAM 3 file; set use\.encoder=sam3$"):
            load(fresh(other), path)


def test_a_transformers_file_without_one_of_the_three_is_refused(tmp_path):
    path, _ = in_transformers_layout(tmp_path / "t.safetensors")
    state = load_file(path)
    name = "detector_model.vision_encoder.backbone.layers.2.attention.k_proj.bias"
    save_file({n: v for n, v in state.items() if n != name}, tmp_path / "u.safetensors")
    with pytest.raises(UserError, match=f"{name} is missing"):
        load(fresh(), tmp_path / "u.safetensors")


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
@pytest.mark.parametrize("share", [0, 0.3, 0.999])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    path = saved(tmp_path / name)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"not readable as weights|not a weights file"):
        load(fresh(), path)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch, writer):
    monkeypatch.chdir(tmp_path)
    writer({"model": {"trunk.pos_embed": Evil()}}, Path("w.pt"))
    with pytest.raises(UserError, match=r"could run code|not a weights file"):
        load(fresh(), Path("w.pt"))
    assert not Path("ran").exists()


def test_a_file_of_other_things_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="not a mapping of names to tensors"):
        load(fresh(), tmp_path / "w.pt")


def test_the_configured_encoder_has_the_weights_and_the_grid(small, tmp_path):
    path = saved(tmp_path / "w.pt")
    for mode in ("repaired", "as_shipped"):
        neck = encoder.configured(small({"encoder.weights": "w.pt", "encoder.rope": mode}))
        for a, b in zip(features(neck), features(encoder.build(preset())), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    neck = encoder.configured(
        small({"encoder.weights": str(path), "encoder.rope": "repaired", "encoder.resolution": 84})
    )
    assert features(neck, 84)[2].shape[-1] == 6
    with pytest.raises(UserError, match="no such file; expected random, hub or a path"):
        encoder.configured(small({"encoder.weights": "x.pt"}))


def test_inputs_records_the_hash_of_the_weights_once(small, manifest, tmp_path, monkeypatch):
    (tmp_path / "conf/data/mine.yaml").write_text("kind: manifest\npath: set/manifest.csv\nsplit: given\n")
    saved(tmp_path / "w.pt")
    small({"use.data": "mine", "encoder.weights": "w.pt"})
    inputs.main()
    records = [pretrained.record_of(arm).read_text() for arm in ("frozen", "lora")]
    assert records[0] == records[1] and '"path": "w.pt"' in records[0] and '"sha256"' in records[0]
    monkeypatch.setattr("nightshift.core.hashing.sha256", lambda path: pytest.fail("hashed again"))
    inputs.main()
    assert pretrained.record_of("lora").read_text() == records[1]


def from_hub(hub: str) -> Weights:
    return Weights(key="encoder.weights", given="hub", hub=hub)


class Answer:
    """What an HTTP error of huggingface_hub carries."""

    headers, request, status_code, url = {}, None, 403, ""


@pytest.mark.parametrize(
    "error, said",
    [
        (errors.GatedRepoError("x", response=Answer()), "accept its licence at https://huggingface.co/facebook/sam3"),
        (errors.RepositoryNotFoundError("x", response=Answer()), "run `hf auth login` with a token"),
        (errors.LocalEntryNotFoundError("x"), "connect this machine to the network"),
        (OSError("Disk is\nfull"), "the hub answered 'Disk is'; try again later"),
    ],
)
def test_every_refusal_of_the_hub_is_an_instruction(monkeypatch, error, said):
    def refuse(*arguments, **options):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UserError) as caught:
        pretrained.place_of(from_hub("facebook/sam3/sam3.pt"), download=True)
    assert said in str(caught.value) and "set encoder.weights to its path" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, repository, file",
    [("sam3", "facebook/sam3", "sam3.pt"), ("sam3.1", "facebook/sam3.1", "sam3.1_multiplex.pt")],
)
def test_the_hub_is_asked_for_the_file_of_the_encoder(change, monkeypatch, tmp_path, name, repository, file):
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: asked.append((a, k)) or str(tmp_path / "f"))
    change({"use.encoder": name, "encoder.weights": "hub"})
    place = params.read().arm("lora").weights
    assert pretrained.place_of(place, download=True) == pretrained.place_of(place) == tmp_path / "f"
    assert asked == [((repository, file), {"local_files_only": offline}) for offline in (False, True)]


def test_an_encoder_without_weights_on_the_hub_says_so(checkout):
    with pytest.raises(UserError, match=r"that use\.encoder names has no weights there; expected random or"):
        pretrained.place_of(from_hub(params.read().preset.hub), download=True)
