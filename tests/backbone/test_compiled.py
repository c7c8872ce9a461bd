"""Compiled blocks: few graphs, no break, and a training that ends near that of plain ones, in the same bits twice."""

import pytest
import torch
from helpers.models import CPU, batch, new_model
from torch._dynamo.testing import CompileCounter

from nightshift.backbone import encoder
from nightshift.backbone.rope import make_real
from nightshift.commands.planning import noise_batch
from nightshift.engine.device import seed_everything
from nightshift.training.step import add_gradients, optimiser_of


@pytest.mark.parametrize("arm", ["frozen", "lora"])
def test_twelve_blocks_share_four_graphs(small, arm):
    """Windowed and global ones, the last of them with gradients; fullgraph raises at a break."""
    settings = small({}, arm)
    preset = settings.preset.model_copy(update={"depth": 12, "global_blocks": [2, 5, 8, 11]})
    settings = settings.model_copy(update={"preset": preset})
    if arm == "lora":
        settings = settings.model_copy(update={"arm": settings.arm.model_copy(update={"blocks": list(range(12))})})
    torch._dynamo.reset()
    model, counter = new_model(settings, start=0), CompileCounter()
    expected = model.features(None, batch())
    encoder.compile_blocks(model.neck.trunk, counter)
    assert torch.equal(model.features(None, batch()), expected)
    assert 1 <= counter.frame_count <= 4
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiled_steps_are_near_plain_ones_and_the_same_bits_twice(small):
    """With torch's own compiler for the CPU; batches of two sizes."""
    settings, found = small({}, "lora"), []
    for compiled in (False, True, True):
        seed_everything(0)
        torch._dynamo.reset()
        model = new_model(settings, start=0).train()
        make_real(model.neck.trunk)
        if compiled:
            model.compile_parts()
        optimiser = optimiser_of(model, settings.train)
        for cases in (3, 3, 2, 3):
            optimiser.zero_grad()
            torch.manual_seed(cases)
            add_gradients(model, noise_batch(settings, 0, cases, CPU), settings.train)
            optimiser.step()
        found.append(torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    seed_everything(0)
    fresh, (plain, one, other) = new_model(settings, start=0), found
    assert torch.equal(one, other)
    moved = plain - torch.cat([p.detach().flatten() for p in fresh.parameters() if p.requires_grad])
    assert 0 < (one - plain).norm() < 0.05 * moved.norm()  # a step of Adam turns on the sign of the smallest gradient
