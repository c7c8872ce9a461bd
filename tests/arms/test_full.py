"""Fine-tuning: what is trained and how fast, what stays as it was, and that what is saved opens again, strictly."""

from pathlib import Path

import pytest
import torch
from helpers.models import batch
from safetensors.torch import load_file, save_file

from nightshift.arms import full
from nightshift.backbone import encoder
from nightshift.commands.planning import noise_batch
from nightshift.console.errors import UserError
from nightshift.core.hashing import sha256
from nightshift.core.records import Prefix
from nightshift.engine.device import HALF, seed_everything
from nightshift.training.step import add_gradients, optimiser_of

CPU = torch.device("cpu")
EMBEDDING = {"trunk.patch_embed.proj.weight", "trunk.pos_embed", "trunk.ln_pre.weight", "trunk.ln_pre.bias"}


@pytest.fixture
def fine_tuned(small):
    """fine_tuned(blocks="all", neck=True): settings of an arm of this kind; `values` are other keys of params.yaml."""

    def settings(values=None, **keys):
        return small({"arms.full": {"kind": "full", **keys}} | (values or {}), "full")

    return settings


def step(settings):
    """A model after one training step on noise, and the encoder's weights before it."""
    seed_everything(0)
    model = full.build(settings)
    before = {name: p.detach().clone() for name, p in model.neck.named_parameters()}
    optimiser = optimiser_of(model.train(), settings.train)
    add_gradients(model, noise_batch(settings, model.start, 2, CPU), settings.train)
    optimiser.step()
    return model, before


@torch.no_grad()
def logits(model):
    return model.eval()(None, torch.zeros(2, 2), batch())


@pytest.mark.parametrize(
    ("blocks", "numbers"), [("all", [0, 1, 2]), ({"last": 2}, [1, 2]), ([0, 2], [0, 2]), ([2, 1, 0], [0, 1, 2])]
)
@pytest.mark.parametrize("neck", [False, True])
def test_what_is_trained_is_what_the_settings_say(fine_tuned, blocks, numbers, neck):
    settings = fine_tuned(blocks=blocks, neck=neck)
    model, before = step(settings)
    assert full.prefix(settings) == Prefix(blocks=numbers[0])
    named = dict(model.neck.named_parameters())
    expected = {name for name in named if any(name.startswith(f"trunk.blocks.{i}.") for i in numbers)}
    expected |= EMBEDDING if len(numbers) == 3 else set()
    expected |= {name for name in named if neck and name.startswith(("convs.0.", "convs.1.", "convs.2."))}
    assert {name for name, p in named.items() if p.requires_grad} == expected
    assert {name for name, p in named.items() if not torch.equal(p, before[name])} == expected
    assert all(p.grad.abs().max() > 0 for name, p in named.items() if name in expected)


def test_each_block_has_its_learning_rate(fine_tuned):
    settings = fine_tuned(neck=True, backbone_learning_rate=0.5, layer_decay=0.1)
    model = full.build(settings)
    factors = {"head.out.weight": 1.0, "neck.convs.0.conv_1x1.weight": 0.5, "neck.trunk.blocks.2.attn.qkv.weight": 0.5}
    factors |= {"neck.trunk.blocks.0.norm1.bias": 0.005}
    factors |= {f"neck.{name}": 0.0005 for name in EMBEDDING}
    assert {name: model.learning_rate_factor(name) for name in factors} == pytest.approx(factors)
    groups = {group["factor"]: group for group in optimiser_of(model, settings.train).param_groups}
    assert sorted(groups) == pytest.approx([0.0005, 0.005, 0.05, 0.5, 1.0])
    assert all(group["lr"] == settings.train.learning_rate * factor for factor, group in groups.items())


@pytest.mark.parametrize("precision", HALF)
def test_trained_weights_are_float32_whatever_the_precision(fine_tuned, precision):
    model, before = step(fine_tuned({"encoder.precision": precision}, blocks={"last": 1}))
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert model.neck.trunk.blocks[0].attn.qkv.weight.dtype == HALF[precision]
    moved = (model.neck.trunk.blocks[2].mlp.fc1.weight - before["trunk.blocks.2.mlp.fc1.weight"]).abs()
    assert 0 < moved.max() < 2e-4  # AdamW's first step is as long as the learning rate, 0.03 x 0.003


def test_activation_checkpointing_changes_no_gradient(fine_tuned):
    plain, recomputed = (step(fine_tuned(activation_checkpointing=on))[0] for on in (False, True))
    for a, b in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("keys", [{}, {"blocks": {"last": 1}, "neck": True}])
def test_what_is_saved_opens_with_the_same_output(fine_tuned, tmp_path, precision, keys):
    settings = fine_tuned({"encoder.precision": precision}, **keys)
    model, _ = step(settings)
    full.save(model, tmp_path)
    assert load_file(tmp_path / full.NAME).keys() == full.trained_weights(model.neck, settings.arm).keys()
    opened = full.open_model(tmp_path, settings)
    assert torch.equal(logits(opened), logits(model))
    assert not torch.equal(logits(opened), logits(full.build(settings)))
    assert not any(p.requires_grad for p in opened.neck.parameters())


@pytest.mark.parametrize(("file", "write"), [("sam3.pt", torch.save), ("sam3.safetensors", save_file)])
def test_the_file_of_the_encoders_weights_stays_as_it_is(fine_tuned, tmp_path, file, write):
    settings = fine_tuned({"encoder.weights": file})
    write(encoder.build(settings.preset).state_dict(), file)
    before = sha256(Path(file))
    model, _ = step(settings)
    full.save(model, tmp_path)
    assert torch.equal(logits(full.open_model(tmp_path, settings)), logits(model))
    assert sha256(Path(file)) == before


QKV, FROZEN = (f"trunk.blocks.{i}.attn.qkv.weight" for i in (1, 0))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w.pop(QKV), rf"{QKV}: found nothing, expected \(96, 32\) torch.float32; `dvc repro`"),
        (lambda w: w.update({QKV: w[QKV][1:]}), rf"{QKV}: found \(95, 32\) torch.float32, expected \(96, 32\) "),
        (lambda w: w.update({QKV: w[QKV].half()}), rf"{QKV}: found \(96, 32\) torch.float16, expected \(96, 32\) "),
        (lambda w: w.update({FROZEN: w[QKV].clone()}), rf"{FROZEN}: found \(96, 32\) torch.float32, expected nothing"),
    ],
)
def test_a_file_with_other_weights_is_refused(fine_tuned, tmp_path, edit, message):
    settings = fine_tuned(blocks={"last": 2})
    full.save(full.build(settings), tmp_path)
    weights = load_file(tmp_path / full.NAME)
    edit(weights)
    save_file(weights, tmp_path / full.NAME)
    with pytest.raises(UserError, match=rf"{full.NAME}: not the weights that this arm trains: {message}"):
        full.open_model(tmp_path, settings)


def test_a_file_that_is_damaged_or_missing_is_refused(fine_tuned, tmp_path):
    settings = fine_tuned()
    full.save(full.build(settings), tmp_path)
    file = tmp_path / full.NAME
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=rf"{full.NAME}: not the weights that this arm trains: "):
        full.open_model(tmp_path, settings)
    file.unlink()
    with pytest.raises(UserError, match=rf"{full.NAME}: not the weights that this arm trains: No such file"):
        full.open_model(tmp_path, settings)


@pytest.mark.parametrize("keys", [{"layer_decay": 0}, {"layer_decay": 1.1}, {"backbone_learning_rate": 0}])
def test_settings_that_train_nothing_are_refused(fine_tuned, keys):
    with pytest.raises(UserError, match=rf"arms\.full\.{next(iter(keys))}"):
        fine_tuned(**keys)


def test_blocks_that_are_not_there_are_refused(fine_tuned):
    with pytest.raises(UserError, match=r"arms\.full\.blocks.*: the encoder has blocks 0\.\.2"):
        fine_tuned(blocks=[3])
