"""Adapters by peft, of every method: where they are, what training changes, that plain peft opens and merges them."""

import re
from functools import partial
from pathlib import Path

import peft
import pytest
import torch
from helpers.models import CPU, batch, changed, new_model, trained_model
from peft.optimizers import create_loraplus_optimizer
from torch import nn

from nightshift.arms import lora
from nightshift.backbone import encoder
from nightshift.config.kinds import METHOD_KEYS
from nightshift.console.errors import UserError
from nightshift.core.records import Prefix
from nightshift.data.samples import TrainingCases
from nightshift.engine.device import autocast
from nightshift.probe.arm import ProbeArm, verdict_of
from nightshift.training import trainer
from nightshift.training.step import optimiser_of

pytestmark = pytest.mark.filterwarnings("ignore:Unsupported layer type")  # peft's, of LayerNorm
VARIANTS = [
    *({"method": method} for method in METHOD_KEYS),
    {"method": "dora", "rslora": True, "init": "eva"},
    {"method": "miss", "rank": 5},  # a width of 32 is no multiple of it
    {"rslora": True},
    {"init": "gaussian"},
    {"init": "orthogonal"},
    {"init": "eva"},
]
ADAPTER = re.compile(r"\.(?:lora|miss|vera|ia3|ln_tuning)_")  # in the name of an adapter's parameter
LAYERS = {"ln_tuning": ["norm1", "norm2"]}  # of the other methods: `targets`


@pytest.fixture
def settings_of(small):
    """settings_of(method="ia3", blocks="all"): of the arm `lora`, with rank 4 where the method has one."""

    def read(**keys):
        rank = 4 if "rank" in METHOD_KEYS.get(keys.get("method", "lora"), ()) else 8
        return small({"arms.lora.rank": rank} | {f"arms.lora.{key}": value for key, value in keys.items()}, "lora")

    return read


@torch.no_grad()
def output(trunk) -> torch.Tensor:
    return encoder.run_suffix(trunk, encoder.run_prefix(trunk, batch(), 0), 0)


def fresh(settings) -> encoder.ViT:
    """The trunk that adapters are put into or opened with."""
    return encoder.build(settings.preset).trunk


def trained(settings) -> lora.AdaptedModel:
    """A model after three steps; more than one, because A of LoRA has no gradient while B is 0."""
    model = new_model(settings, start=lora.prefix(settings).blocks)
    model.initialise({"images": image[None]} for image in batch(3))
    optimiser = torch.optim.AdamW([p for p in model.neck.parameters() if p.requires_grad], 0.05)
    for _ in range(3):
        optimiser.zero_grad()
        model.features(None, batch()).square().mean().backward()
        optimiser.step()
    return model.eval()


def base_weights(trunk) -> dict[str, torch.Tensor]:
    """The trunk's own state by its names without adapters."""
    state = {name.replace(".base_layer", ""): value.clone() for name, value in trunk.state_dict().items()}
    return {name: value for name, value in state.items() if not ADAPTER.search(name)}


@pytest.mark.parametrize("method", METHOD_KEYS)
@pytest.mark.parametrize(
    ("blocks", "adapted"), [("all", [0, 1, 2]), ({"last": 2}, [1, 2]), ({"last": 3}, [0, 1, 2]), ([2, 0, 2], [0, 2])]
)
def test_adapters_are_where_the_settings_say(settings_of, method, blocks, adapted):
    settings = settings_of(method=method, blocks=blocks)
    trunk = fresh(settings)
    lora.add_adapters(trunk, settings.arm)
    names = [name for name, p in trunk.named_parameters() if p.requires_grad]
    expected = {f"blocks.{i}.{layer}" for i in adapted for layer in LAYERS.get(method, settings.arm.targets)}
    assert {ADAPTER.split(name)[0] for name in names} == expected
    assert type(trunk.patch_embed.proj) is nn.Conv2d
    assert lora.prefix(settings) == Prefix(blocks=adapted[0])


@pytest.mark.parametrize("blocks", [[3], [0, 7], {"last": 4}, []])
def test_blocks_that_are_not_there(small, blocks):
    what = r"the encoder has blocks 0\.\.2" if blocks else r"expected all, \{last: 8\}"
    with pytest.raises(UserError, match=rf"arms\.lora\.blocks.*: {what}"):
        small({"arms.lora.blocks": blocks}, "lora")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "miss", "rslora": True}, r"rslora: method miss has no rslora; leave it out, or at its default"),
        ({"method": "vera", "alpha": 3.0}, "alpha: method vera has no alpha"),
        ({"method": "ia3", "rank": 4}, "rank: method ia3 has no rank; leave it out"),
        ({"method": "ln_tuning", "targets": ["attn.qkv"]}, "targets: method ln_tuning has no targets"),
        ({"method": "miss", "b_ratio": 16.0}, "b_ratio: method miss has no b_ratio"),
        ({"method": "vera", "init": "eva"}, "init: method vera has no init"),
        ({"method": "oft"}, "method: expected lora, dora, miss, vera, ia3 or ln_tuning"),
        ({"init": "pissa"}, "init: expected default, gaussian, orthogonal or eva; .* change the base weights"),
        ({"init": "orthogonal", "rank": 3}, "rank 3: init orthogonal needs an even one"),
        ({"method": "miss", "rank": 33}, "rank 33: method miss takes at most 32"),
    ],
)
def test_what_a_method_does_not_have_is_refused(settings_of, keys, message):
    with pytest.raises(UserError, match=rf"^params\.yaml: arms\.lora\.{message}"):
        settings_of(**keys)


@pytest.mark.parametrize("keys", VARIANTS)
@pytest.mark.parametrize("blocks", ["all", {"last": 1}])
def test_training_changes_no_base_weight_and_plain_peft_opens_and_merges_it(settings_of, tmp_path, keys, blocks):
    settings = settings_of(blocks=blocks, **keys)
    before, base = output(fresh(settings)), fresh(settings).state_dict()
    untrained = new_model(settings, start=0)
    torch.testing.assert_close(output(untrained.neck.trunk), before, rtol=0, atol=1e-6)
    model = trained(settings)
    expected, now = output(model.neck.trunk), base_weights(model.neck.trunk)
    assert (expected - before).abs().max() > 1e-3
    assert now.keys() == base.keys()
    assert all(torch.equal(now[name], base[name]) for name in base)
    lora.save_adapters(model.adapters, tmp_path / "a")
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"adapter_model.safetensors", "adapter_config.json"}
    opened, merged = peft.PeftModel.from_pretrained(fresh(settings), tmp_path / "a"), fresh(settings)
    lora.merge_adapters(merged, tmp_path / "a")
    with torch.no_grad():
        plain = opened.eval()(batch())[-1]
    for other in (plain, output(merged)):
        torch.testing.assert_close(other, expected, rtol=1e-5, atol=1e-5)
    assert merged.state_dict().keys() == base.keys()
    assert encoder.count_parameters(merged) == 0


def test_only_plain_lora_is_trained_with_our_layer_and_dora_differs_from_it(settings_of):
    models = {method: trained(settings_of(method=method)) for method in ("lora", "dora")}
    layers = {method: type(model.neck.trunk.blocks[-1].attn.qkv) for method, model in models.items()}
    assert layers == {"lora": lora.OneStepLinear, "dora": peft.tuners.lora.Linear}
    ours, other = (output(model.neck.trunk) for model in models.values())
    assert (ours - other).abs().max() > 1e-2


def test_disabled_adapters_are_not_used(settings_of):
    model = trained(settings_of())
    with model.adapters.disable_adapter():
        assert torch.equal(output(model.neck.trunk), output(fresh(settings_of())))


@pytest.mark.parametrize("method", [method for method, keys in METHOD_KEYS.items() if "dropout" in keys])
def test_dropout_follows_training_and_the_encoder_does_not(settings_of, method):
    model = new_model(settings_of(method=method, dropout=0.5))
    for mode in (True, False):
        model.train(mode)
        dropouts = [m for name, m in model.neck.named_modules() if name.endswith("_dropout.default")]
        assert len(dropouts) == 8
        assert all(m.training is mode for m in [*dropouts, *model.head.modules()])
        paths = [m for m in model.neck.modules() if "Drop" in type(m).__name__ and m not in dropouts]
        assert paths
        assert not any(m.training for m in [*paths, model.neck, model.neck.trunk, *model.neck.trunk.blocks])
    assert torch.equal(model.features(None, batch()), model.features(None, batch()))


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_learning_rates_are_those_of_loraplus(settings_of, method):
    settings = settings_of(method=method, b_ratio=16.0)
    model = new_model(settings)
    theirs = create_loraplus_optimizer(model.adapters, torch.optim.AdamW, lr=0.003, loraplus_lr_ratio=16.0)
    rates, expected = (
        {p: group["lr"] for group in optimiser.param_groups for p in group["params"]}
        for optimiser in (optimiser_of(model, settings.train), theirs)
    )
    assert set(expected.values()) == {0.003, 0.048}
    assert {p: rates.pop(p) for p in expected} == pytest.approx(expected)
    assert set(rates) == set(model.head.parameters())
    assert set(rates.values()) == {0.003}


@pytest.mark.parametrize("method", METHOD_KEYS)
def test_the_probe_runs_every_method(settings_of, method):
    settings = settings_of(method=method)
    probed = ProbeArm(name="lora", arm=settings.arm, encoder=settings.encoder, preset=settings.preset)
    assert verdict_of(probed).model_dump() == {
        "ok": True,
        "cause": "",
        "cure": "",
        "prefix": {"blocks": 1, "output": "tokens"},
    }


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("bf16", 2e-2)])
def test_our_layer_computes_what_pefts_does(settings_of, precision, near, dropout):
    trunk = fresh(settings_of(dropout=dropout))
    lora.add_adapters(trunk, settings_of(dropout=dropout).arm)
    layer, x = trunk.blocks[-1].attn.qkv, torch.randn(2, 4, 4, 32, requires_grad=True)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    nn.init.normal_(b)
    results = []
    for forward in (layer.forward, partial(peft.tuners.lora.Linear.forward, layer)):
        torch.manual_seed(0)  # of the dropout
        with autocast(torch.device("cpu"), precision):
            y = forward(x)
        results.append((y, *torch.autograd.grad(y.float().square().sum(), (x, a, b))))
    for ours, theirs in zip(*results, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert torch.linalg.vector_norm(ours - theirs) <= near * torch.linalg.vector_norm(theirs)


@pytest.mark.parametrize("keys", VARIANTS)
def test_in_half_precision_adapters_are_trained_in_float32(settings_of, keys):
    settings = changed(settings_of(**keys), encoder={"precision": "bf16"})
    model = lora.build(settings)
    model.initialise({"images": image[None]} for image in batch(3))
    model.features(None, batch()).float().square().mean().backward()
    adapters = [p for p in model.neck.parameters() if p.requires_grad]
    assert {p.dtype for p in adapters} == {torch.float32}
    assert all(torch.isfinite(p.grad).all() for p in adapters)
    assert model.neck.trunk.blocks[0].mlp.fc1.weight.dtype is torch.bfloat16


def inputs_of(trunk, layer: str, images) -> torch.Tensor:
    """What a layer of the trunk sees of the images, (N, in)."""
    seen = []
    trunk.get_submodule(layer).register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, -2)))
    with torch.no_grad():
        trunk(images)
    return torch.cat(seen)


def test_eva_begins_with_the_principal_components_of_what_a_layer_sees(settings_of):
    """In one pass they keep as much of the variance as those of peft, which goes round until none moves any more."""
    settings, images = settings_of(init="eva", blocks="all"), batch(8)
    model, theirs = new_model(settings, start=0), new_model(settings, start=0)
    model.initialise({"images": image[None]} for image in images)
    theirs.adapters.peft_config["default"].eva_config = peft.EvaConfig(rho=1.0)
    found = peft.get_eva_state_dict(
        theirs.adapters,
        torch.utils.data.DataLoader(images, batch_size=1),
        forward_fn=lambda _, batch: theirs.features(None, batch),
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=None,
        show_progress_bar=False,
    )
    for name in ("blocks.0.attn.qkv", "blocks.1.mlp.fc2", "blocks.2.attn.proj"):
        x = inputs_of(fresh(settings), name, images)
        x = x - x.mean(0)
        best = torch.linalg.svdvals(x)[:4].square().sum()
        a = model.neck.trunk.get_submodule(name).lora_A["default"].weight
        torch.testing.assert_close(a @ a.T, torch.eye(4), rtol=0, atol=1e-4)
        ours, other = ((x @ one.float().T).square().sum() for one in (a, found[f"base_model.model.{name}"]))
        assert ours > 0.9 * best  # not all of it: incremental PCA forgets the components that it does not keep
        assert ours > 0.98 * other


def test_eva_needs_enough_tokens(settings_of):
    settings = settings_of(init="eva", rank=9)
    with pytest.raises(UserError, match=r"arms\.lora\.rank 9: init eva takes at most 8 at 56 px"):
        lora.build(settings, "meta")


class Dying(TrainingCases):
    """Cases of which the N-th that is read ends the process, as far as training can tell."""

    left = 10**6

    def __getitem__(self, i):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().__getitem__(i)


@pytest.mark.parametrize("reads", [3, 5 + 4])
def test_a_killed_run_with_eva_ends_with_the_same_bytes(settings_of, prepared, tmp_path, reads):
    settings = settings_of(init="eva", dropout=0.5)
    Path("hardware.yaml").write_text("device: cpu\nthreads: 1\ncheckpoint_minutes: 0\n")
    whole, one, _ = trained_model(settings, prepared)
    cases, val = Dying(prepared["train"], None, settings), TrainingCases(prepared["val"], None, settings)
    arguments = (val, settings.train, 0, CPU, tmp_path / "states", "lora")
    cases.left = reads
    with pytest.raises(KeyboardInterrupt):
        trainer.train(new_model(settings), cases, *arguments)
    cases.left = 10**6
    again = new_model(settings)
    assert trainer.train(again, cases, *arguments).curves == one.curves
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
