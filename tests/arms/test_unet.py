"""The U-Net: the square it sees, the view, precision, and that what is saved opens again, strictly."""

import warnings

import pytest
import torch
from helpers.models import UNET, batch
from safetensors.torch import load_file, save_file
from torch.utils.data import default_collate

from nightshift.arms import unet
from nightshift.backbone.encoder import count_parameters
from nightshift.config import params
from nightshift.console.errors import UserError
from nightshift.data.samples import TrainingCases
from nightshift.engine.device import seed_everything
from nightshift.training.step import add_gradients, optimiser_of


@pytest.fixture
def settings(small):
    """settings({"view.mode": "none"}, channels=[4, 8, 8]): of a small U-Net."""

    def read(values=None, **keys):
        return small({"arms.unet": UNET | keys} | (values or {}), "unet")

    return read


def new(settings, seed=0):
    seed_everything(seed)
    return unet.build(settings)


@torch.no_grad()
def logits(model, angles=(0.0, 0.0), images=None):
    images = batch(side=model.resolution) if images is None else images
    return model.eval()(None, torch.tensor([angles] * len(images)), images)


@pytest.mark.parametrize(("of_encoder", "side"), [(14, 32), (84, 96), (224, 224), (308, 320), (1008, 1008)])
def test_the_square_is_that_of_the_encoder_rounded_up(checkout, of_encoder, side):
    changes = ["+arms.unet={kind: unet}", f"encoder.resolution={of_encoder}"]
    assert params.read(changes).arm("unet").resolution == side
    assert params.read([*changes, "+arms.unet.resolution=208"]).arm("unet").resolution == 208


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            "resolution: 100",
            "arms.unet.resolution 100: 5 levels take a multiple of 16 pixels; the next that fits is 112",
        ),
        ("resolution: 16", "the next that fits is 32"),
        ("resolution: 100, channels: [8, 16, 32]", None),
        ("resolution: half", "arms.unet.resolution: expected a number of pixels, or encoder"),
        ("channels: [8, 16]", "arms.unet.channels: "),
        ("width: 8", "arms.unet.width"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(checkout, keys, said):
    change = [f"+arms.unet={{kind: unet, {keys}}}"]
    if said is None:
        assert params.read(change).arm("unet").resolution == 100
        return
    with pytest.raises(UserError) as caught:
        params.read(change)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_default_has_one_to_two_million_parameters_and_begins_with_few_vessels(checkout):
    model = new(params.read(["+arms.unet={kind: unet}"]).arm("unet"))
    assert 1e6 < count_parameters(model) < 2e6
    assert 0.02 < logits(model).sigmoid().mean() < 0.15
    assert logits(model).shape == (2, 1, 176, 176)


@pytest.mark.parametrize(("mode", "ignored"), [("none", True), ("film", False)])
def test_the_view_matters_unless_mode_is_none(settings, mode, ignored):
    model = new(settings({"view.mode": mode}))
    assert torch.equal(logits(model), logits(model, (60.0, -30.0))) is ignored
    assert any(name.startswith("film.") for name in model.state_dict()) is not ignored
    torch.testing.assert_close(logits(model, (60.0, -30.0)), logits(model, (-300.0, 330.0)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_and_norms_add_up_in_float32(settings, precision):
    """A norm of values around 50, whose sums half precision could not hold."""
    full, half = new(settings()), new(settings({"encoder.precision": precision}))
    expected, found = logits(full), logits(half)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() / expected.norm() < 0.05
    norm = half.net.input_block.norm1
    x = 50 + torch.randn(2, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    x = x.to(torch.bfloat16 if precision == "bf16" else torch.float16)
    with torch.no_grad(), torch.autocast("cpu", x.dtype):
        torch.testing.assert_close(norm(x).float(), norm(x.float()), rtol=0.01, atol=0.01)


def steps(settings, prepared, count=3):
    """A U-Net after some training steps on the same batch, and its losses."""
    cases = TrainingCases(prepared["train"], None, settings)
    together = default_collate([cases[i] for i in range(4)])
    model = new(settings).train()
    optimiser, losses = optimiser_of(model, settings.train), []
    for _ in range(count):
        optimiser.zero_grad()
        losses.append(add_gradients(model, together, settings.train).item())
        optimiser.step()
    return model, losses


def test_training_is_deterministic_and_lowers_the_loss(settings, prepared):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of an operator that is not deterministic
        one, losses = steps(settings(), prepared, 8)
    other, again = steps(settings(), prepared, 8)
    assert losses == again and losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    fresh = dict(new(settings()).named_parameters())
    assert [name for name, p in one.named_parameters() if torch.equal(p, fresh[name])] == []


def test_fewer_cases_at_a_time_are_the_same_training(settings, prepared):
    whole, single = (steps(settings({"train.micro_batch": size}), prepared)[1] for size in ("all", 1))
    assert whole == pytest.approx(single, rel=1e-4)


@pytest.mark.parametrize("mode", ["none", "film"])
def test_what_is_saved_opens_with_the_same_output(settings, prepared, tmp_path, mode):
    settings = settings({"view.mode": mode})
    model, _ = steps(settings, prepared)
    unet.save(model, tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors")] == [unet.NAME]
    opened = unet.open_model(tmp_path, settings)
    assert not opened.training
    assert torch.equal(logits(opened, (20.0, 10.0)), logits(model, (20.0, 10.0)))


OUT = "net.output_block.conv.conv.weight"


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda w: w.pop(OUT), rf"{OUT}: found nothing, expected \(1, 4, 1, 1\) torch.float32"),
        (lambda w: w.update({OUT: w[OUT][:, 1:]}), rf"{OUT}: found \(1, 3, 1, 1\)"),
        (lambda w: w.update(more=torch.ones(1)), r"more: found \(1,\) torch.float32, expected nothing"),
    ],
)
def test_a_file_with_other_weights_is_refused(settings, tmp_path, edit, said):
    unet.save(new(settings()), tmp_path)
    weights = load_file(tmp_path / unet.NAME)
    edit(weights)
    save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / unet.NAME)
    with pytest.raises(UserError, match=rf"{unet.NAME}: not the weights that this arm trains: {said}"):
        unet.open_model(tmp_path, settings())


def test_a_file_that_is_damaged_or_missing_is_refused(settings, tmp_path):
    unet.save(new(settings()), tmp_path)
    file = tmp_path / unet.NAME
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match=rf"{unet.NAME}: not the weights that this arm trains: "):
        unet.open_model(tmp_path, settings())
    file.unlink()
    with pytest.raises(UserError, match=rf"{unet.NAME}: .*No such file"):
        unet.open_model(tmp_path, settings())
