"""What saves time or memory gives the same training: kept tokens and levels, mirrored cases, half precision."""

import math
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers.models import CPU, batch, new_model, tokens_of, trained_model

from nightshift import feature_cache
from nightshift.arms.lora import AdaptedModel
from nightshift.backbone import encoder
from nightshift.console.errors import UserError
from nightshift.core.records import Prefix
from nightshift.data.dataset import Frames
from nightshift.data.locations import PREPARED
from nightshift.data.samples import TrainingCases
from nightshift.data.shards import Shards
from nightshift.engine.device import autocast, seed_everything
from nightshift.feature_cache import EncodeSettings, encode_arm
from nightshift.training import step, trainer


def keep(settings, blocks, output="tokens"):
    """encode_arm on the prepared cases -> what was kept of their frames."""
    own = EncodeSettings(**settings.model_dump(include={"encoder", "preset", "augment"}))
    encode_arm(settings.name, own, Prefix(blocks=blocks, output=output))
    return Shards(Path("data/encoded") / settings.name, "pt")


def step_of(settings, prepared):
    """Loss and gradients of one step of the LoRA arm on both val cases."""
    arm = new_model(settings, start=0)
    batch = TrainingCases(prepared["val"], None, settings).batch(range(2))
    loss = step.add_gradients(arm, batch, settings.train)
    return loss, {name: p.grad for name, p in arm.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "key, value", [("train.micro_batch", 1), ("arms.lora.micro_batch", 1), ("arms.lora.activation_checkpointing", True)]
)
def test_what_saves_memory_changes_nothing_else(small, prepared, key, value):
    loss, gradients = step_of(small({"train.micro_batch": "all"}, "lora"), prepared)
    same, others = step_of(small({key: value}, "lora"), prepared)
    torch.testing.assert_close(loss, same, rtol=1e-6, atol=0)
    assert gradients.keys() == others.keys() and len(gradients) > 20
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, others[name], rtol=1e-4, atol=1e-7)


def test_checkpointed_blocks_run_again_in_the_backward_pass(small, prepared):
    calls = []
    for checkpointing in (False, True):
        settings = small({"arms.lora.activation_checkpointing": checkpointing, "encoder.resolution": 56}, "lora")
        arm = new_model(settings, start=1)
        arm.neck.trunk.blocks[2].register_forward_pre_hook(lambda *_: calls.append(checkpointing))  # noqa: B023
        tokens = torch.rand(1, 4, 4, 32)
        arm(tokens, torch.zeros(1, 2), None).sum().backward()
        with torch.no_grad():
            arm(tokens, torch.zeros(1, 2), None)
    assert calls == [False] * 2 + [True] * 3


@pytest.mark.parametrize("detail", [False, True])
def test_bf16_is_close_keeps_float32_where_it_matters_and_trains(small, prepared, detail):
    full = small({"head.detail": detail}, "lora")
    settings = small({"head.detail": detail, "encoder.precision": "bf16"}, "lora")
    seed_everything(0)
    arm = AdaptedModel(encoder.configured(settings), 0, settings)
    attention = arm.neck.trunk.blocks[1].attn
    assert {attention.rope.dtype, attention.qkv.lora_A["default"].weight.dtype} == {torch.float32}
    assert attention.qkv.base_layer.weight.dtype == torch.bfloat16
    x = batch()
    with torch.no_grad():
        logits, expected = (one.eval()(None, torch.zeros(2, 2), x) for one in (arm, new_model(full, start=0)))
    assert logits.dtype == torch.float32
    assert 0 < (logits - expected).norm() / expected.norm() < 0.02
    halved, cast = encoder.build(settings.preset), encoder.build(settings.preset)
    encoder.halve(halved, torch.bfloat16)
    with torch.no_grad(), autocast(CPU, "bf16"):
        assert torch.equal(halved.trunk(x)[-1], cast.trunk(x)[-1])
    arm, trained, _ = trained_model(settings, prepared)
    assert trained.val_dice > 0


def test_encoding_and_training_meet_in_bf16(small, prepared):
    for name, arm in (("frozen", 3), ("lora", 1)):
        settings = small({"encoder.precision": "bf16"}, name)
        tokens = keep(settings, arm)
        with torch.no_grad(), autocast(CPU, "bf16"):
            image = TrainingCases(prepared["train"], None, settings)[0]["images"][None]
            again = encoder.run_prefix(encoder.configured(settings).trunk, image, arm)
        torch.testing.assert_close(tokens["tokens.0"].float(), again[0], rtol=0.02, atol=0.02)


def test_kept_levels_of_the_neck_train_like_kept_tokens(small, prepared, tmp_path):
    losses = []
    settings = small()
    for output in ("tokens", "levels"):
        kept = keep(settings, 3, output)
        parts = [TrainingCases(prepared["train"], kept, settings), TrainingCases(prepared["val"], None, settings)]
        assert set(parts[0][0]) - {"index", "angles", "target"} == (
            {"tokens"} if output == "tokens" else {"level.0", "level.1", "level.2"}
        )
        arm = new_model(settings, start=3)
        folder = tmp_path / output
        trained = trainer.train(arm, *parts, settings.train, 0, CPU, folder, "frozen")
        losses.append([row["train_loss"] for row in trained.curves])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_shard_that_another_process_has_is_left_to_it(small, prepared, tmp_path, monkeypatch):
    settings, folder, frames = small({}, "lora"), tmp_path / "kept", Frames(PREPARED)
    monkeypatch.setattr(feature_cache, "LIMIT", 2 * feature_cache.bytes_per_case(settings, "tokens"))
    monkeypatch.setattr(feature_cache, "BATCH", 2)
    arguments = encoder.build(settings.preset), frames, len(frames), Prefix(blocks=1), settings, folder
    (folder / "locks").mkdir(parents=True)
    with (
        FileLock(folder / "locks/shard-00001.safetensors"),
        pytest.raises(UserError, match=r"no shard-00001\.safetensors, which another process wrote; all need one disk"),
    ):
        feature_cache.encode_cases(*arguments)
    assert [path.name for path in sorted(folder.glob("*.safetensors"))] == [
        f"shard-{i:05d}.safetensors" for i in (0, 2, 3, 4)
    ]
    assert feature_cache.encode_cases(*arguments) == 7
    assert not (folder / "locks").exists() and len(Shards(folder, "pt").index) == len(frames) == 9


@pytest.mark.parametrize("limit", [1, 10**4, 10**9])
def test_shards_are_whole_batches(small, prepared, tmp_path, monkeypatch, limit):
    """Also where a shard of LIMIT bytes has less than a batch: the batch decides how fast a GPU is."""
    settings, batches = small({}, "frozen"), []
    features = feature_cache._features
    monkeypatch.setattr(feature_cache, "LIMIT", limit)
    monkeypatch.setattr(feature_cache, "_features", lambda *a: (batches.append(len(a[1])), features(*a))[1])
    tokens_of(settings, 1, tmp_path / "kept")
    assert batches == [4, 4, 1]


def test_kept_variants_are_those_of_an_arm_without_a_prefix(small, prepared):
    settings, cases = small({"augment.variants": 2}, "lora"), prepared["train"]
    kept, images = (TrainingCases(cases, shards, settings) for shards in (keep(settings, 1), None))
    arm = new_model(settings).eval()
    for i in (1, 1 + len(cases), 1 + 2 * len(cases)):
        assert torch.equal(kept[i]["target"], images[i]["target"]) and torch.equal(
            kept[i]["angles"], images[i]["angles"]
        )
        with torch.no_grad():
            one, other = (step.forward(arm, part.batch([i])) for part in (kept, images))
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert set(kept.kept.index) == {f"tokens.{i}" for i in range(3 * 9)}
    drawn = [i for epoch in range(20) for part in trainer._order(kept, 2, 0, epoch) for i in part]
    assert set(drawn) == set(range(3 * len(cases)))
    per_epoch = sorted(i % len(cases) for part in trainer._order(kept, 2, 0, 3) for i in part)
    assert per_epoch == list(range(len(cases)))


def test_online_variants_are_new_in_every_epoch_where_no_prefix_is_kept(small, prepared):
    settings, cases = small({"augment.variants": 2, "augment.online": True}, "lora"), prepared["train"]
    kept, images = (TrainingCases(cases, shards, settings) for shards in (keep(settings, 1), None))
    drawn = [
        i for seed in (0, 1) for epoch in range(1, 20) for part in trainer._order(images, 2, seed, epoch) for i in part
    ]
    assert len(set(drawn)) == len(drawn) and min(drawn) >= len(cases)
    assert {i % len(cases) for i in drawn} == set(range(len(cases)))
    few = {i for epoch in range(1, 20) for part in trainer._order(kept, 2, 0, epoch) for i in part}
    assert few == set(range(3 * len(cases)))
    assert not torch.equal(images[len(cases)]["target"], images[2 * len(cases)]["target"])


def test_fp16_trains_and_an_overflow_skips_the_step(small, prepared, monkeypatch):
    settings = small({"encoder.precision": "fp16", "train.epochs": 3}, "lora")
    _, trained, _ = trained_model(settings, prepared)
    assert all(math.isfinite(row["train_loss"]) for row in trained.curves)
    assert trained.curves[-1]["train_loss"] < trained.curves[0]["train_loss"]
    full = trained_model(small({"encoder.precision": "fp32"}, "lora"), prepared)[1]
    assert trained.curves[0]["train_loss"] == pytest.approx(full.curves[0]["train_loss"], rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("detail", [True, False])
@pytest.mark.parametrize("start", [1, 3])
def test_kept_tokens_give_what_images_give(small, prepared, tmp_path, start, detail):
    settings = small({"head.detail": detail})
    kept = TrainingCases(prepared["train"], tokens_of(settings, start, tmp_path / "t"), settings)
    images = TrainingCases(prepared["train"], None, settings)
    assert tokens_of(settings, 0, tmp_path / "none").index == {}
    arm = new_model(settings, start).eval()
    for i in range(len(kept)):
        assert set(kept[i]) == {"index", "angles", "target", "tokens"} | ({"images"} if detail else set())
        one, other = (step.forward(arm, part.batch([i])) for part in (kept, images))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
        assert torch.equal(kept[i]["target"], images[i]["target"])
