"""The loss by hand and against MONAI's, and the moving average of the parameters."""

import math
import subprocess
import sys

import pytest
import torch
from helpers.models import new_model, trained_model
from monai.losses import DiceLoss, SoftclDiceLoss

from nightshift.model.segmentation import SegmentationModel
from nightshift.training import validation
from nightshift.training.average import Average
from nightshift.training.losses import loss_of


def test_a_training_without_it_does_not_import_monai():
    """It takes seconds, and each training is a process."""
    code = "import sys, nightshift.training.arm, nightshift.arms.lora; print('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


ENTROPY = torch.nn.BCEWithLogitsLoss()


def test_loss_by_hand():
    target = torch.tensor([[[[1.0, 0], [0, 0]]]])
    zero = torch.zeros(1, 1, 2, 2)
    half = math.log(2) + 1 - (2 * 0.5 + 1) / (2 + 1 + 1)
    assert loss_of(zero, target).item() == pytest.approx(half, abs=1e-6)
    sure = (target * 2 - 1) * 50
    assert loss_of(sure, target).item() == pytest.approx(0, abs=1e-6)
    assert loss_of(zero - 50, zero).item() == pytest.approx(0, abs=1e-6)
    assert loss_of(torch.cat([zero, sure]), target.tile(2, 1, 1, 1)).item() == pytest.approx(half / 2, abs=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_dice_and_cldice_are_monais(share):
    logits, target = torch.randn(3, 1, 70, 70), torch.rand(3, 1, 70, 70).round()
    dice = DiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1)(logits, target)
    cldice = SoftclDiceLoss(iter_=2, sigmoid=True)(logits, target)
    expected = ENTROPY(logits, target) + (1 - share) * dice + share * cldice
    torch.testing.assert_close(loss_of(logits, target, share), expected)


def test_cldice_sees_a_gap_that_dice_hardly_sees():
    """A vessel with a gap of 3 pixels, against one that misses as many pixels at its side."""
    target = torch.zeros(1, 1, 64, 64)
    target[..., 30:34, 4:60] = 1
    gap, thin = target.clone(), target.clone()
    gap[..., 30:34, 30:33] = 0
    thin[..., 33, 30:42] = 0
    losses = {share: [loss_of(20 * one - 10, target, share).item() for one in (gap, thin)] for share in (0.0, 0.5)}
    assert losses[0.0][0] == pytest.approx(losses[0.0][1], abs=1e-6)
    assert losses[0.5][0] > losses[0.5][1] + 0.005


def test_cldice_starts_with_its_epoch(small, prepared):
    late = {"train.epochs": 3, "train.loss": {"cldice": 0.5, "from_epoch": 3}}
    plain, mixed = (trained_model(small({"train.epochs": 3} | more), prepared)[1].curves for more in ({}, late))
    assert mixed[:2] == plain[:2] and mixed[2] != plain[2]


def test_the_average_by_hand():
    p = torch.nn.Parameter(torch.zeros(2))
    average = Average({"p": p}, 0.5)
    expected = 0.0
    for step, value in enumerate((1.0, 2.0, 4.0, 8.0)):
        with torch.no_grad():
            p.fill_(value)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
        assert average.values["p"].tolist() == pytest.approx([expected] * 2)
    with pytest.raises(KeyError), average.in_use():
        assert p.tolist() == pytest.approx([expected] * 2)
        raise KeyError
    assert p.tolist() == [8, 8]
    nothing = Average({"p": p}, "none")
    nothing.update(0)
    with nothing.in_use():
        assert nothing.values == {} and p.tolist() == [8, 8]


def test_the_averaged_parameters_are_validated_and_kept(small, prepared, monkeypatch):
    seen = []
    validate = validation.validate

    def spied(model, *more):
        seen.append({name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad})
        return validate(model, *more)

    monkeypatch.setattr("nightshift.training.state.validate", spied)
    settings = small({"train.epochs": 3, "train.ema": 0.9})
    model, trained, _ = trained_model(settings, prepared)
    kept = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(torch.equal(p, seen[trained.epoch - 1][name]) for name, p in kept.items())
    plain, _, _ = trained_model(small({"train.epochs": 3, "train.ema": "none"}), prepared)
    start = new_model(settings)
    name = "head.out.weight"
    moved = [(one.get_parameter(name) - start.get_parameter(name)).norm() for one in (model, plain)]
    assert 0 < moved[0] < moved[1]  # it lags behind


def test_the_average_begins_with_what_the_arm_is_initialised_with(small, prepared, monkeypatch):
    def initialise(model, cases):
        torch.nn.init.constant_(model.head.out.bias, 3.0)

    monkeypatch.setattr(SegmentationModel, "initialise", initialise)
    settings = small({"train.epochs": 1, "train.ema": 0.9, "train.learning_rate": 1e-6})
    model, _, _ = trained_model(settings, prepared)
    assert model.head.out.bias.tolist() == pytest.approx([3.0] * 4, abs=1e-3)
