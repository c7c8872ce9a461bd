"""Variants of a case: the same whoever asks, masks that follow their frames, angles that stay true."""

import numpy as np
import pytest
import torch
from helpers.models import trained_model

from nightshift.config import params
from nightshift.data.augmentation import varied, varied_case
from nightshift.data.samples import TrainingCases

NOTHING = dict.fromkeys(("rotation", "scale", "shift", "elastic", "gamma", "contrast", "noise", "blur"), 0.0)
GREY = dict.fromkeys(("gamma", "contrast", "noise", "blur"), 0.0)


@pytest.fixture
def augment(checkout):
    """augment(rotation=0): the settings of params.yaml, changed."""
    return lambda **values: params.read().augment.model_copy(update=values)


def vessel(height=90, width=120):
    """A frame with a bright, thick curve, and its mask."""
    y, x = np.indices((height, width))
    mask = (abs(y - height / 2 - 20 * np.sin(x / 20)) < 6).astype(np.uint8)
    return {"frame": 40 + 160 * mask, "mask": mask}


def test_frame_and_mask_are_varied_alike_and_alone(augment):
    pixels = vessel()
    for variant in range(1, 9):
        both = varied(pixels, "c1", variant, augment())
        for name in ("frame", "mask"):
            alone = varied({name: pixels[name]}, "c1", variant, augment())[name]
            assert np.array_equal(alone, both[name]) and alone.dtype == np.uint8 and alone.shape == (90, 120)
        plain = varied(pixels, "c1", variant, augment(**GREY))
        assert set(np.unique(plain["mask"])) == {0, 1}
        assert ((plain["frame"] > 120) == plain["mask"]).mean() > 0.98
        assert (plain["mask"] != pixels["mask"]).mean() > 0.01


def test_a_variant_follows_from_case_and_number_alone(augment):
    pixels = vessel()
    frames = [varied(pixels, case, v, augment())["frame"] for case, v in (("a", 1), ("a", 1), ("a", 2), ("b", 1))]
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2]) and not np.array_equal(frames[0], frames[3])


def test_with_every_range_0_a_variant_is_the_case_or_its_mirror_image(augment):
    pixels, seen = vessel(), set()
    for variant in range(1, 12):
        found = varied(pixels, "c", variant, augment(**NOTHING))
        same, mirrored = (np.array_equal(found["mask"], pixels["mask"][:, ::step]) for step in (1, -1))
        assert same != mirrored
        seen.add(mirrored)
        frame = pixels["frame"][:, :: -1 if mirrored else 1]
        assert abs(found["frame"].astype(int) - frame).max() <= 1
        assert np.array_equal(varied(pixels, "c", variant, augment(**NOTHING, mirror=False))["mask"], pixels["mask"])
    assert seen == {True, False}


@pytest.mark.parametrize(("key", "value"), [("rotation", 15.0), ("scale", 0.2), ("shift", 0.1), ("elastic", 0.03)])
def test_each_range_moves_the_vessel_and_no_further(augment, key, value):
    """The centre of a square in the middle, and its area."""
    mask = np.zeros((120, 120), np.uint8)
    mask[50:70, 50:70] = 1
    areas, shifts, changed = [], [], False
    for variant in range(1, 20):
        found = varied({"mask": mask}, "c", variant, augment(**NOTHING | {key: value}, mirror=False))["mask"]
        areas.append(found.sum() / 400)
        shifts.append(np.abs(np.argwhere(found).mean(axis=0) - 59.5).max())
        changed |= not np.array_equal(found, mask)
    assert changed
    limits = {
        "scale": ((0.65, 1.6), 1),
        "shift": ((0.9, 1.1), 13),
        "rotation": ((0.9, 1.1), 1),
        "elastic": ((0.6, 1.5), 8),
    }
    (low, high), far = limits[key]
    assert low <= min(areas) and max(areas) <= high and max(shifts) <= far


def test_mirrored_is_lao_for_rao(small, prepared):
    augment, cases = small({"augment.variants": 6}).augment, prepared["train"]
    signs = set()
    for place in range(len(cases)):
        plain = cases[place]
        assert varied_case(cases, place, augment).angles == plain.angles
        for variant in range(1, 7):
            angles = varied_case(cases, place + variant * len(cases), augment).angles
            assert angles[1] == plain.angles[1] and abs(angles[0]) == abs(plain.angles[0])
            signs.add(angles[0] == plain.angles[0])
    assert signs == {True, False}


def test_without_variants_training_is_what_it_was_and_validation_is_never_varied(small, prepared, monkeypatch):
    plain = trained_model(small({"train.epochs": 2, "augment.variants": 0}), prepared)[1].curves
    settings = small({"augment.variants": 0, "augment.rotation": 90})
    assert trained_model(settings, prepared)[1].curves == plain
    settings = small({"augment.variants": 3})
    val = TrainingCases(prepared["val"], None, settings)
    for i in range(len(val)):
        assert torch.equal(val[i]["target"], TrainingCases(prepared["val"], None, small())[i]["target"])
    assert trained_model(small({"augment.variants": 3}), prepared)[1].curves != plain
