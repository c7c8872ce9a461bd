"""Frames and masks to a square and back: what is where stays where it is."""

import numpy as np
import pytest
import torch

from nightshift.data import letterbox

SHAPES = [(120, 60), (60, 120), (90, 90), (37, 101), (512, 300)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resolution", [56, 168])
def test_a_blob_returns_to_its_place_and_is_never_in_the_padding(shape, resolution):
    radius = 1.5 * max(1, max(shape) / resolution)
    y, x = np.indices(shape)
    rows, columns = letterbox.inner_size(*shape, resolution)
    for share in ((0.2, 0.2), (0.5, 0.75), (0.8, 0.8)):
        centre = [round(s * n) for s, n in zip(share, shape, strict=True)]
        blob = np.exp(-((y - centre[0]) ** 2 + (x - centre[1]) ** 2) / (2 * radius**2))
        square = letterbox.mask_to_square(blob, resolution)
        assert square.shape == (1, resolution, resolution)
        assert square[:, rows:].abs().sum() == square[:, :, columns:].abs().sum() == 0
        back = letterbox.square_to_frame(square[0], *shape).numpy()
        assert back.shape == shape
        found = [float((back * axis).sum() / back.sum()) for axis in (y, x)]
        assert np.abs(np.subtract(found, centre)).max() < 0.5
        scale = resolution / max(shape)
        inside = [float((square[0].numpy() * axis).sum() / square.sum()) for axis in np.indices((resolution,) * 2)]
        expected = [(c + 0.5) * scale - 0.5 for c in centre]
        assert np.abs(np.subtract(inside, expected)).max() < 0.5


@pytest.mark.parametrize("shape", SHAPES)
def test_corner_pixels_stay_in_their_corners(shape):
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        marker = np.zeros(shape, np.uint8)
        marker[corner] = 1
        back = letterbox.square_to_frame(letterbox.mask_to_square(marker, 168)[0], *shape).numpy()
        assert back[corner] == back.max() > 0


def test_frames_are_normalised_and_padded_with_grey():
    frame = np.full((30, 60), 255, np.uint8)
    frame[:, :30] = 0
    square = letterbox.frame_to_square(frame, 60)
    assert square.shape == (3, 60, 60)
    assert torch.equal(square[0], square[2])
    assert (square[:, :30, :30] == -1).all()
    assert (square[:, :30, 30:] == 1).all()
    assert (square[:, 30:] == 0).all()
    assert letterbox.inner_size(2, 1000, 56) == (1, 56)
