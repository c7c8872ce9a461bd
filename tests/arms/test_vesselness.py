"""The filter: it finds dark tubes, ignores padding, and validation chooses its scales; nothing is trained."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import CPU

from nightshift.arms import vesselness
from nightshift.backbone.encoder import count_parameters
from nightshift.config import params
from nightshift.console.errors import UserError
from nightshift.data.letterbox import frame_to_square, square_to_frame
from nightshift.data.samples import TrainingCases
from nightshift.model.predictor import THRESHOLDS
from nightshift.training import trainer
from nightshift.training.choice import choose
from nightshift.training.validation import validate

SIDE = 112


@pytest.fixture
def settings(small):
    """settings(filter="frangi"): of an arm that sees a square of SIDE pixels."""

    def read(values=None, **keys):
        arm = {"kind": "vesselness", "resolution": SIDE} | keys
        return small({"arms.vesselness": arm} | (values or {}), "vesselness")

    return read


def angiogram(height, width, sigma):
    """A grey frame that darkens to the right, with two dark vessels of Gaussian profile, and the mask of these."""
    y, x = np.indices((height, width))
    distance = np.minimum(abs(y - height * 0.3 - 6 * np.sin(x / 9)), abs(x - width * 0.6 - 0.2 * y) / 1.02)
    frame = 180 - 0.3 * x - 70 * np.exp(-((distance / sigma) ** 2) / 2)
    noise = np.random.default_rng(0).normal(0, 2, frame.shape)
    return np.clip(frame + noise, 0, 255).astype(np.uint8), (distance < 1.5 * sigma).astype(np.uint8)


def probability(model, frame):
    with torch.no_grad():
        logits = model(None, None, frame_to_square(frame, model.resolution)[None])
    assert logits.shape == (1, 1, SIDE, SIDE) and logits.dtype == torch.float32
    return logits.sigmoid()[0, 0]


def dice(found, mask):
    return 2 * (found & (mask > 0)).sum() / (found.sum() + mask.sum())


@pytest.mark.parametrize("name", vesselness.FILTERS)
@pytest.mark.parametrize("size", [(SIDE, SIDE), (SIDE, 70), (60, SIDE)])
def test_it_finds_dark_vessels_whatever_the_shape_of_the_frame(settings, name, size):
    frame, mask = angiogram(*size, sigma=1.6)
    model = vesselness.build(settings(filter=name, scales=[[1.4]]))
    found = square_to_frame(probability(model, frame), *size).numpy()
    assert max(dice(found > t, mask) for t in THRESHOLDS) > 0.8
    inverted = square_to_frame(probability(model, 255 - frame), *size).numpy()
    assert max(dice(inverted > t, mask) for t in THRESHOLDS) < 0.4


def test_padding_changes_nothing_and_is_no_vessel(settings):
    """The frame alone, and with its padding: the same map, and the least that there is outside."""
    frame, _ = angiogram(SIDE, 70, sigma=1.6)
    model = vesselness.build(settings())
    map_ = probability(model, frame)
    alone = model._probability(frame_to_square(frame, SIDE)[0, :, :70].numpy())
    np.testing.assert_allclose(map_[:, :70], alone, atol=1e-6)
    assert map_[:, 70:].max() < THRESHOLDS[0] and map_.min() == map_[:, 70:].max()


def test_the_map_is_the_rank_of_the_response(settings):
    frame, _ = angiogram(SIDE, SIDE, sigma=1.6)
    map_ = probability(vesselness.build(settings()), frame).numpy()
    for threshold, share in ((0.5, 0.05), (0.9, 1 / 180), (0.2, 0.2)):
        assert (map_ > threshold).mean() == pytest.approx(share, abs=0.001)
    brighter = probability(vesselness.build(settings()), (frame // 2 + 60).astype(np.uint8)).numpy()
    assert np.corrcoef(map_.ravel(), brighter.ravel())[0, 1] > 0.9  # half the contrast
    for empty in (np.full((40, 50), 127, np.uint8), np.zeros((SIDE, SIDE), np.uint8)):
        assert probability(vesselness.build(settings()), empty).max() < THRESHOLDS[0]


class Cases:
    """Two angiograms as `TrainingCases` has them."""

    def __init__(self, settings, sigma):
        self.settings, self.cases = settings, [self.Case(*angiogram(SIDE, side, sigma)) for side in (SIDE, 80)]

    batch = TrainingCases.batch

    class Case:
        def __init__(self, frame, mask):
            self.frame, self.mask = frame, mask

    def __len__(self):
        return len(self.cases)

    def __getitem__(self, i):
        target = torch.zeros(1, SIDE, SIDE)
        return {"index": i, "images": frame_to_square(self.cases[i].frame, SIDE), "target": target}


@pytest.mark.parametrize(("sigma", "best"), [(1.0, [0.8]), (4.0, [3.5])])
def test_validation_chooses_the_scales_and_the_threshold(settings, sigma, best):
    arm = settings(scales=[[0.8], [3.5]])
    model, cases = vesselness.build(arm), Cases(arm, sigma)
    chosen = choose(model, cases, 3, CPU)
    assert model.scales == best and chosen.epoch == 0
    _, dice = validate(model, cases, 2, CPU)
    assert (chosen.val_dice, chosen.threshold) == (dice.max(), THRESHOLDS[int(dice.argmax())])
    (row,) = chosen.curves
    assert (row["seed"], row["epoch"], row["val_dice"]) == (3, 0, chosen.val_dice) and math.isnan(row["train_loss"])
    other = next(scales for scales in arm.arm.scales if scales != best)
    model.use(other)
    assert validate(model, cases, 2, CPU)[1].max() < chosen.val_dice


def test_nothing_of_it_is_trained_and_no_view_is_asked_for(settings):
    arm = settings({"view.mode": "film"})
    assert count_parameters(vesselness.build(arm)) == 0 and arm.view.mode == "none"


def test_what_is_saved_opens_with_the_same_output(settings, tmp_path):
    arm, (frame, _) = settings(), angiogram(SIDE, 90, sigma=1.6)
    model = vesselness.build(arm)
    model.use(arm.arm.scales[2])
    vesselness.save(model, tmp_path)
    opened = vesselness.open_model(tmp_path, arm)
    assert opened.scales == arm.arm.scales[2]
    assert torch.equal(probability(opened, frame), probability(model, frame))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"scales": [9.0]}', r"scales \[9.0\] are none of this arm's: \[\[0.3, 0.6\]"),
        ('{"scales": "all"}', "scales: .*; `dvc repro` makes it anew"),
        ('{"sigma": 2}', "scales: Field required"),
        ('{"scales": [0.', "not JSON"),
        (None, "no such file yet"),
    ],
)
def test_another_file_is_refused(settings, tmp_path, text, said):
    if text:
        (tmp_path / vesselness.NAME).write_text(text)
    with pytest.raises(UserError, match=rf"{vesselness.NAME}: {said}"):
        vesselness.open_model(tmp_path, settings())


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("filter: hessian", "arms.v.filter: "),
        ("scales: []", "arms.v.scales: "),
        ("scales: [[0]]", "arms.v.scales"),
        ("scales: [1, 2]", "arms.v.scales"),
        ("epochs: 3", "unknown key 'arms.v.epochs'"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(checkout, keys, said):
    with pytest.raises(UserError) as caught:
        params.read([f"+arms.v={{kind: vesselness, {keys}}}"])
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_out_of_memory_while_choosing_is_one_line(settings, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer, "choose", fail)
    for size, cure in ((8, r"-S \+\+train\.micro_batch=4;"), (1, r"lower arms\.vesselness\.resolution;")):
        with pytest.raises(UserError, match=rf"out of memory with {size} case\(s\) at a time; less: {cure}"):
            trainer.train_model(settings({"train.batch_size": size}), {"val": None}, Path(), "v", print)
