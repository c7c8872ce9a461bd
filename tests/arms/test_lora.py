"""Low-rank adapters by peft: where they are, what training changes, that plain peft opens them."""

from functools import partial

import peft
import pytest
import torch
from helpers.models import batch

from nightshift.arms import lora
from nightshift.backbone import encoder
from nightshift.console.errors import UserError
from nightshift.core.records import Prefix
from nightshift.engine.device import autocast


@pytest.fixture
def neck(small):
    return encoder.build(small().preset)


@torch.no_grad()
def output(trunk) -> torch.Tensor:
    return encoder.run_suffix(trunk, encoder.run_prefix(trunk, batch(), 0), 0)


@pytest.mark.parametrize(
    ("blocks", "adapted"), [("all", [0, 1, 2]), ({"last": 2}, [1, 2]), ({"last": 3}, [0, 1, 2]), ([2, 0, 2], [0, 2])]
)
def test_adapters_are_where_the_settings_say(small, blocks, adapted):
    arm = small({"arms.lora.blocks": blocks}, "lora")
    trunk = encoder.build(arm.preset).trunk
    model = lora.add_adapters(trunk, arm.arm)
    names = [name for name, p in trunk.named_parameters() if p.requires_grad]
    expected = {f"blocks.{i}.{target}" for i in adapted for target in arm.arm.targets}
    assert {name.split(".lora_")[0] for name in names} == expected
    assert len(names) == 2 * len(expected)
    assert all("lora_" in name for name in names)
    assert type(trunk.patch_embed.proj) is torch.nn.Conv2d
    assert lora.prefix(arm) == Prefix(blocks=adapted[0])
    assert sum(p.numel() for p in [p for p in model.parameters() if p.requires_grad]) == encoder.count_parameters(trunk)


@pytest.mark.parametrize("blocks", [[3], [0, 7], {"last": 4}, []])
def test_blocks_that_are_not_there(small, blocks):
    what = r"the encoder has blocks 0\.\.2" if blocks else r"expected all, \{last: 8\}"
    with pytest.raises(UserError, match=rf"arms\.lora\.blocks.*: {what}"):
        small({"arms.lora.blocks": blocks}, "lora")


def trained(trunk, settings) -> peft.PeftModel:
    """Adapters after two steps; the second, because A has no gradient while B is 0."""
    model = lora.add_adapters(trunk, settings)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.05)
    for _ in range(2):
        optimiser.zero_grad()
        encoder.run_suffix(trunk, encoder.run_prefix(trunk, batch(), 0), 0).square().mean().backward()
        optimiser.step()
    return model


def test_training_changes_the_output_and_no_base_weight(small, neck):
    trunk, before = neck.trunk, output(neck.trunk)
    base = {name: p.clone() for name, p in trunk.named_parameters()}
    lora.add_adapters(trunk, small(arm="lora").arm)
    assert torch.equal(output(trunk), before)
    other = encoder.build(small().preset).trunk
    trained(other, small(arm="lora").arm)
    assert not torch.allclose(output(other), before, atol=1e-3)
    kept = {name.replace(".base_layer", ""): p for name, p in other.named_parameters() if "lora_" not in name}
    assert kept.keys() == base.keys()
    assert all(torch.equal(kept[name], base[name]) for name in base)


@pytest.mark.parametrize("blocks", ["all", {"last": 1}])
def test_saved_adapters_open_with_plain_peft(small, tmp_path, blocks):
    settings = small({"arms.lora.blocks": blocks}, "lora")
    trunk = encoder.build(settings.preset).trunk
    lora.save_adapters(trained(trunk, settings.arm), tmp_path / "a")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    plain, own = (encoder.build(settings.preset).trunk for _ in range(2))
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "a")
    lora.merge_adapters(own, tmp_path / "a")
    with torch.no_grad():
        plainly = model(batch())[-1]
    for other in (plainly, output(own)):  # peft's layer, merged weights: other sums, same map
        torch.testing.assert_close(other, output(trunk), rtol=1e-5, atol=1e-5)
    assert own.state_dict().keys() == encoder.build(settings.preset).trunk.state_dict().keys()
    assert encoder.count_parameters(own) == 0


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_a_layer_that_adds_in_place_is_pefts(small, neck, precision, near, dropout):
    lora.add_adapters(neck.trunk, small({"arms.lora.dropout": dropout}, "lora").arm)
    layer, x = neck.trunk.blocks[-1].attn.qkv, torch.randn(2, 4, 4, 32, requires_grad=True)
    assert type(layer) is lora.InPlaceLinear
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(b)
    results = []
    for forward in (layer.forward, partial(peft.tuners.lora.Linear.forward, layer)):
        torch.manual_seed(0)  # of the dropout
        with autocast(torch.device("cpu"), precision):
            y = forward(x)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), (x, a, b))))
    for ours, theirs in zip(*results, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert torch.linalg.vector_norm(ours - theirs) <= near * torch.linalg.vector_norm(theirs)
