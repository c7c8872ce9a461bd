"""What comes before and after the model in a graph: as nightshift/data/{letterbox,channels}.py, for any frame."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from helpers.models import UNET, pretend_trained

from nightshift.data.channels import input_of
from nightshift.data.letterbox import inner_size, square_to_frame
from nightshift.export.check import probability_map
from nightshift.export.filters import Filters
from nightshift.export.graph import FrameModel, inner_sizes, resizing
from nightshift.export.graph_files import traced, write_onnx
from nightshift.export.norms import replace_norms
from nightshift.model.base import ArmModel
from nightshift.model.kinds import kind_of
from nightshift.model.predictor import MAP_MAX, CachedPredictor

# Squares, flat and upright frames, sides that are rounded from a tie (33 and 35 of 112, at 56), and of one pixel. Not
# upright ones of one pixel, of which torch's interpolation makes something else than of two equal columns.
SHAPES = [(56, 56), (90, 140), (33, 112), (112, 35), (301, 120), (20, 28), (1, 90), (70, 2), (1, 1), (2, 1000)]


class Mirror(ArmModel):
    """Shows a frame as its own map: logits are the first channel; it keeps what it saw."""

    def __init__(self, settings):
        super().__init__(settings)
        self.layer = torch.nn.Linear(1, 1)  # its parameters have the type of the images

    def forward(self, tokens, angles, images, levels=None):
        self.saw = images[0], angles[0]
        return images[:, :1] * 3


def picture(height, width):
    """A frame with tubes of several widths, and noise."""
    y, x = np.indices((height, width))
    tubes = 60 * np.sin(y / 9 + x / 23) + 40 * np.cos(x / 6)
    return (120 + tubes + np.random.default_rng(0).normal(0, 12, (height, width))).clip(0, 255).astype(np.uint8)


@pytest.fixture
def mirror(small):
    """Of 56 pixels, and grey."""
    return Mirror(small({"arms.unet": UNET}, "unet"))


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_a_frame_reaches_the_model_and_its_map_returns_as_in_pytorch(mirror, shape):
    frame, angles = picture(*shape), torch.tensor([-30.0, 20.0])
    found = FrameModel(mirror)(torch.from_numpy(frame), angles)
    square = input_of(frame, 56, "grey")
    torch.testing.assert_close(mirror.saw, (square, angles), rtol=0, atol=2e-5)
    rows, columns = inner_size(*shape, 56)
    padding = torch.ones(56, 56, dtype=torch.bool)
    padding[:rows, :columns] = False
    assert (mirror.saw[0][:, padding] == 0).all()
    torch.testing.assert_close(found, square_to_frame((square[0] * 3).sigmoid(), *shape), rtol=0, atol=2e-5)


@torch.no_grad()
def test_the_mirror_image_has_the_mirrored_view_and_its_map_is_turned_back(mirror):
    frame, angles = torch.from_numpy(picture(40, 70)), torch.tensor([-30.0, 20.0])
    found = FrameModel(mirror, mirror=True)(frame, angles)
    assert mirror.saw[1].tolist() == [30, 20]
    torch.testing.assert_close(mirror.saw[0], input_of(frame.numpy()[:, ::-1].copy(), 56, "grey"), rtol=0, atol=2e-5)
    torch.testing.assert_close(found, FrameModel(mirror)(frame, angles), rtol=0, atol=2e-5)  # it shows what is there


@pytest.mark.parametrize("old, new", [(60, 60), (60, 20), (60, 37), (20, 60), (1, 9), (9, 1), (7, 8), (500, 56)])
def test_resizing_is_torchs_antialiased_interpolation(old, new):
    values = torch.randn(1, 1, old, 4, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(values, (new, 4), mode="bilinear", antialias=True, align_corners=False)[0, 0]
    padded = F.pad(values[0, 0], (0, 0, 0, 3), value=9)
    found = resizing(torch.tensor(old), torch.tensor(new), new + 2, old + 3) @ padded
    torch.testing.assert_close(found[:new], expected, rtol=0, atol=2e-5)
    assert not found[new:].any()


# Windows of the top-hat of 3, 4, 6 and 7 pixels.
@pytest.mark.parametrize("side", [56, 84, 112, 140])
@pytest.mark.parametrize("shape", [(140, 140), (140, 77), (60, 200), (30, 400), (9, 8)])
def test_filters_are_those_of_scikit_image_and_scipy(side, shape):
    square = input_of(picture(*shape), side, "vesselness")
    rows, columns = (torch.tensor(n) for n in inner_size(*shape, side))
    found = torch.stack(list(Filters(side)(square[0], rows, columns)))
    torch.testing.assert_close(found, square[1:], rtol=0, atol=2e-5)


def test_an_empty_frame_has_no_tubes():
    square = input_of(np.full((50, 70), 90, np.uint8), 56, "vesselness")
    found = torch.stack(list(Filters(56)(square[0], torch.tensor(40), torch.tensor(56))))
    torch.testing.assert_close(found, square[1:], rtol=0, atol=2e-5)


@pytest.mark.slow  # 20 s, of which torch.onnx takes most for the filters of two images
def test_onnxruntime_filters_as_pytorch_does(small, tmp_path):
    settings = small({"arms.unet": UNET, "encoder.channels": "vesselness"}, "unet")
    model = kind_of(settings).open_model(pretend_trained(settings, None, tmp_path / "model"), settings)
    expected = [CachedPredictor(model, picture(*shape), mirror=True).probability_map((30, -20)) for shape in SHAPES]
    graph = FrameModel(model, mirror=True)
    replace_norms(graph)
    write_onnx(traced(graph), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for shape, one in zip(SHAPES, expected, strict=True):
        found = probability_map(session, picture(*shape), [30, -20])
        assert found.shape == shape and np.abs(found.astype(int) - one).max() <= 1e-4 * MAP_MAX, shape


def test_frames_fill_as_much_of_the_square_as_in_python():
    """Of most of these, 48 or 96 pixels wide, a side is half a pixel too long, and is rounded to the even number."""
    for width, height in [*((48, one) for one in range(3, 48, 3)), *((96, one) for one in range(3, 96, 3))]:
        found = inner_sizes(torch.tensor(height), torch.tensor(width), 56)
        assert tuple(map(int, found)) == inner_size(height, width, 56), (height, width)
