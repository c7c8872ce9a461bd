"""Normalisation layers for a graph give what torch's give."""

import pytest
import torch
from torch import nn

from nightshift.export.norms import replace_norms

LAYERS = {"instance": lambda: nn.InstanceNorm2d(6, affine=True), "group": lambda: nn.GroupNorm(3, 6, eps=1e-3)}


@pytest.fixture(params=LAYERS)
def layer(request):
    """With weights that are not 1 and 0."""
    torch.manual_seed(0)
    found = LAYERS[request.param]()
    for p in found.parameters():
        nn.init.normal_(p)
    return found.requires_grad_(False)


@pytest.mark.parametrize("scale, offset", [(1, 0), (1e-3, 0), (5, 40)])
def test_replaced_norms_give_what_torch_gives(layer, scale, offset):
    x = torch.randn(2, 6, 33, 21) * scale + offset
    exact = layer.double()(x.double()).float()
    layer.float()
    kind = type(layer)
    replace_norms(nn.Sequential(layer))
    assert type(layer) is not kind
    torch.testing.assert_close(layer(x), exact, rtol=1e-5, atol=2e-5)


def test_of_float16_they_are_computed_in_float32(layer):
    x = torch.randn(1, 6, 300, 300) + 8
    expected = layer(x.half().float())
    replace_norms(nn.Sequential(layer))
    found = layer(x.half())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
