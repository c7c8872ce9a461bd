"""The channels of an encoder's input: the frame, and filters that show dark tubes as bright."""

import numpy as np
import pytest
import torch
from helpers.models import UNET, new_model, tokens_of, trained_model

from nightshift.arms import unet
from nightshift.data.channels import input_of
from nightshift.data.letterbox import frame_to_square, inner_size
from nightshift.data.samples import TrainingCases


@pytest.mark.parametrize("shape", [(140, 140), (140, 90), (60, 200)])
def test_a_dark_tube_is_bright_in_both_filters_and_padding_is_0(shape):
    y, _ = np.indices(shape)
    frame = np.where(abs(y - shape[0] // 2) < 2, 60, 140).astype(np.uint8)
    square = input_of(frame, 140, "vesselness")
    assert torch.equal(square[0], frame_to_square(frame, 140)[0])
    rows, columns = inner_size(*shape, 140)
    assert not square[:, rows:].any() and not square[:, :, columns:].any()
    inside = square[1:, :rows, 10 : columns - 10]
    assert (inside[:, rows // 2 - 1 : rows // 2 + 1] > 0.5).any(1).all()
    assert (inside[:, : rows // 4] < -0.9).all()
    assert inside.min() >= -1 and inside.max() <= 1


def test_grey_is_three_times_the_frame_and_an_empty_frame_has_no_tubes():
    frame = np.full((50, 70), 90, np.uint8)
    assert torch.equal(input_of(frame, 56, "grey"), frame_to_square(frame, 56))
    assert (input_of(frame, 56, "vesselness")[1:, :40] < -0.999).all()


def test_kept_tokens_are_those_of_the_channels_that_an_arm_without_a_prefix_sees(small, prepared, tmp_path):
    settings = small({"encoder.channels": "vesselness"}, "lora")
    kept = trained_model(settings, prepared, tokens=tokens_of(settings, 1, tmp_path / "kept"))[1].curves
    assert trained_model(settings, prepared)[1].curves == kept
    assert trained_model(small({"encoder.channels": "grey"}, "lora"), prepared)[1].curves != kept


def test_the_unet_sees_all_channels_and_other_kinds_without_encoder_the_frame(small, prepared):
    filtered = {"encoder.channels": "vesselness", "arms.unet": UNET, "arms.filter": {"kind": "vesselness"}}
    settings = small(filtered, "unet")
    image = TrainingCases(prepared["train"], None, settings)[0]["images"][None]
    model = unet.build(settings).eval()
    with torch.no_grad():
        seen, blind = (model(None, torch.zeros(1, 2), one) for one in (image, image[:, [0, 0, 0]]))
    assert not torch.equal(seen, blind)
    assert small(filtered, "filter").channels == "grey"
    assert new_model(small(filtered)).channels == "vesselness"
