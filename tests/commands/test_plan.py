"""`nightshift plan`: memory as it is really taken, counts as `prepare` makes them, settings that help."""

import dataclasses
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.models import WITHOUT_ENCODER

from nightshift.backbone.encoder import count_parameters
from nightshift.commands import forecast, plan, planning, queue_actions
from nightshift.commands.main import dispatch
from nightshift.commands.memory import Counter
from nightshift.config import params
from nightshift.config.kinds import METHOD_KEYS
from nightshift.console.errors import UserError
from nightshift.core.records import Prefix
from nightshift.engine import checkpoints
from nightshift.engine.device import seed_everything
from nightshift.feature_cache import EncodeSettings, encode_arm
from nightshift.jobs import gpu_lock
from nightshift.training.arm import train_arm
from nightshift.training.step import add_gradients, optimiser_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("arm", ["frozen", "lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("micro_batch", [1, "all"])
def test_fake_tensors_take_what_real_ones_take(small, arm, checkpointing, micro_batch):
    changes = {"arms.lora.activation_checkpointing": checkpointing, "train.micro_batch": micro_batch}
    changes["arms.full"] = {"kind": "full", "activation_checkpointing": checkpointing, "neck": True}
    expect_what_real_tensors_take(small(changes, arm))


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # peft's, of LayerNorm
@pytest.mark.parametrize("method", [method for method in METHOD_KEYS if method != "lora"])
def test_every_method_of_adapters_takes_what_is_planned(small, method):
    rank = 2 if "rank" in METHOD_KEYS[method] else 8
    expect_what_real_tensors_take(
        small({"arms.lora.method": method, "arms.lora.rank": rank, "arms.lora.blocks": [2]}, "lora")
    )


def test_a_unet_takes_what_is_planned(small):
    expect_what_real_tensors_take(small(WITHOUT_ENCODER, "unet"))


def test_a_filter_is_planned_by_the_maps_that_it_makes(small):
    settings = small(WITHOUT_ENCODER | {"encoder.resolution": 336}, "vesselness")
    frame = 336**2 * 4  # bytes of one in float32
    assert 10 * frame < planning.tensor_bytes(settings, CPU) < 40 * frame
    assert [keys for keys, _ in planning.options(settings)] == [{}]  # it has no keys of train
    took = forecast.measure(settings, CPU, iter)
    assert took.step == took.prefix == 0 and took.passes == 4
    asked = [planning.FoldSize(train=5, val=6, test=7, patients=5)]
    assert forecast.total_seconds(settings, asked, took) == pytest.approx((4 * 6 + 7) * took.case)
    assert forecast.total_seconds(settings, asked * 3, took) == pytest.approx(3 * (4 * 6 + 7) * took.case)
    also = [asked[0]._replace(external=9)] * 3
    assert forecast.total_seconds(settings, also, took) == pytest.approx(3 * (4 * 6 + 7 + 9) * took.case)
    assert planning.disk_of(settings, asked, 0) == (0, 0, 0)


def expect_what_real_tensors_take(settings) -> None:
    """Two training steps on real tensors take what is planned, within 2 %."""
    predicted = planning.tensor_bytes(settings, GPU)
    train, start = settings.train, planning.start_of(settings)
    seed_everything(0)
    model = planning.new_model(settings, "cpu")
    with Counter() as counter:
        for tensor in (*model.parameters(), *model.buffers()):
            counter.add(tensor)
        optimiser = optimiser_of(model, train)
        for _ in range(2):
            optimiser.zero_grad()
            add_gradients(model, planning.noise_batch(settings, start, train.batch_size, CPU), train)
            optimiser.step()
    assert predicted == pytest.approx(counter.peak, rel=0.02)
    best = 4 * count_parameters(model)  # on a GPU these are in the memory of the CPU
    assert planning.tensor_bytes(settings, CPU) == pytest.approx(predicted + best, rel=0.02)


def test_fewer_cases_at_a_time_and_checkpointing_take_less_memory(small):
    settings = small({"train.batch_size": 4, "arms.lora.blocks": "all"}, "lora")
    needs = [(keys, planning.tensor_bytes(changed, CPU)) for keys, changed in planning.options(settings)]
    assert [keys for keys, _ in needs[:2]] == [{}, {"arms.lora.micro_batch": "2"}]
    assert needs[-1][0] == {"arms.lora.micro_batch": "1", "arms.lora.activation_checkpointing": "true"}
    first, last = needs[:3], needs[3:]
    assert [size for _, size in first] == sorted((size for _, size in first), reverse=True)
    assert [size for _, size in last] == sorted((size for _, size in last), reverse=True)
    assert all(b < a for (_, a), (_, b) in zip(first, last, strict=True))


def test_only_kinds_with_activation_checkpointing_are_advised_it(small):
    keys = [keys for keys, _ in planning.options(small({"train.batch_size": 4}, "frozen"))]
    assert keys == [{}, {"arms.frozen.micro_batch": "2"}, {"arms.frozen.micro_batch": "1"}]
    on = small({"train.batch_size": 1, "arms.lora.activation_checkpointing": True}, "lora")
    assert [keys for keys, _ in planning.options(on)] == [{}]


def test_the_advised_keys_are_settings_of_their_arm(small):
    """What `advice` names can be given as -S, and is what was counted."""
    for arm in ("frozen", "lora"):
        settings = small({"train.batch_size": 4}, arm)
        for keys, changed in planning.options(settings):
            read = params.read([f"++{key}={value}" for key, value in keys.items()]).arm(arm)
            assert planning.tensor_bytes(read, CPU) == planning.tensor_bytes(changed, CPU)


def size_of(paths) -> int:
    return sum(path.stat().st_size for path in paths)


@pytest.mark.parametrize(("ema", "tensors"), [("none", 4), (0.9, 5)])
def test_the_disk_is_what_a_training_leaves(small, prepared, monkeypatch, ema, tensors):
    """The tokens, all checkpoints that are there at a time, and the models, to the headers of the files."""
    small({"arms.full": {"kind": "full", "blocks": {"last": 2}}, "train.seeds": [0, 1], "train.ema": ema})
    settings = params.read().arm("full")
    trained = count_parameters(planning.new_model(settings, "meta"))
    planned = planning.disk_of(settings, [planning.FoldSize(train=5, val=2, test=2, patients=5)], trained)
    states: list[int] = []
    monkeypatch.setattr(checkpoints, "forget", lambda folder: states.append(size_of(folder.glob("*-*.safetensors"))))
    encode_arm(
        "full", EncodeSettings(**settings.model_dump(include=set(EncodeSettings.model_fields))), Prefix(blocks=1)
    )
    train_arm(settings)
    written = [size_of(Path(folder).rglob("*.safetensors")) for folder in ("data/encoded", "models")]
    written.insert(1, max(states))
    one = tensors * 4 * trained  # the checkpoint that is being written
    expected = (planned.cache, planned.checkpoints - one, planned.models)
    assert tuple(written) == pytest.approx(expected, rel=0.1)
    assert all(real > plan for real, plan in zip(written, expected, strict=True))  # the headers


def test_fold_sizes_are_those_of_prepare(small, prepared, pictures, change):
    def sizes(**use):
        small({f"use.{key}": value for key, value in use.items()})
        found = planning.fold_sizes(params.read().data)
        assert {one.external for one in found} == {2 if use.get("external") == "angiograms" else 0}
        return [one[:4] for one in found]

    assert sizes() == [(270, 66, 114, 90)]
    change({"split": "made"}, "conf/data/synthetic.yaml")
    assert sizes() == [(267, 69, 114, 89)]
    change({"prepare.folds": 4})
    assert sizes() == [(270, 69, 111, 90), (267, 69, 114, 89)] * 2
    change({"prepare.folds": 1})
    change({"images": "images", "masks": "masks"}, "conf/data/angiograms.yaml")
    with pytest.raises(UserError, match="no case in train"):
        sizes(data="angiograms")
    assert sizes(data="synthetic", external="angiograms") == [(267, 69, 114, 89)]


def test_the_plan_names_every_arm_of_params_and_says_that_it_fits(small, capsys):
    small({"train.epochs": 1})
    added = ("wide={kind: lora, rank: 5, blocks: {last: 1}}", "unet={kind: unet}", "sato={kind: vesselness}")
    dispatch(["plan", "-S", "arms.lora.rank=3", *(word for arm in added for word in ("-S", f"+arms.{arm}"))])
    out = capsys.readouterr().out
    for line in (
        "mini at 56 px: 4 x 4 = 16 tokens per case, fp32",
        "synthetic: 270 train, 66 val, 114 test cases; on cpu",
        "frozen: 3 of 3 blocks once per case",
        "lora: 1 of 3 blocks once per case",
        "wide: 2 of 3 blocks once per case",
        "unet: no encoder, 64 px, 1,",
        "sato: no encoder, 56 px, 0 parameters trained",
        "disk          0.0 GB of cache, 0.0 GB of checkpoints, 0.0 GB of models; ",
        "from 20 steps of 2 cases, 0.",
        "from 4 candidates, 0.",
        "\nit fits",
    ):
        assert line in out


def test_what_does_not_fit_ends_with_settings_that_do(small, monkeypatch):
    settings = small({"train.batch_size": 4}, "lora")
    sizes = {tuple(keys.items()): planning.tensor_bytes(changed, CPU) for keys, changed in planning.options(settings)}
    monkeypatch.setattr(planning, "needed", lambda tensors, device, process_bytes: tensors)
    enough = sizes[(("arms.lora.micro_batch", "2"),)]
    monkeypatch.setattr(planning, "memory_of", lambda device, busy: enough)
    with pytest.raises(UserError, match=r"the lora arm needs .* try -S \+\+arms.lora.micro_batch=2$"):
        dispatch(["plan"])
    monkeypatch.setattr(planning, "memory_of", lambda device, busy: 1000)
    with pytest.raises(
        UserError, match=r"the frozen arm needs .* try a smaller encoder.resolution; the lora arm needs"
    ):
        dispatch(["plan"])


def test_an_arm_without_an_encoder_is_advised_a_resolution_of_its_own(small):
    settings = small(WITHOUT_ENCODER, "unet")
    assert planning.advice(settings, CPU, 0, 1000) == "a smaller arms.unet.resolution"


def test_cards_is_a_table_for_each_arm(small, monkeypatch, capsys):
    """On the very small encoder: full-size SAM 3 takes a minute."""
    settings = small({"train.batch_size": 2}, "lora")
    least = min(planning.tensor_bytes(changed, GPU) for _, changed in planning.options(settings))
    monkeypatch.setattr(planning, "needed", lambda tensors, device, process_bytes: tensors * 10**9 // least)
    monkeypatch.setattr(plan, "SIDES", (56,))
    monkeypatch.setattr(plan, "CARDS", (1, 80))
    read = params.read
    monkeypatch.setattr(params, "read", lambda changes: read([*changes, "use.encoder=mini", "encoder.precision=fp32"]))
    dispatch(["plan", "--cards"])
    frozen, lora = capsys.readouterr().out.strip().split("\n\nlora, ")
    assert frozen.startswith("frozen, batches of 2 cases\n\n| Frame | 1 GB | 80 GB |") and "| 56 px |" in frozen
    keys = "`arms.lora.micro_batch=1`, `arms.lora.activation_checkpointing=true`"
    assert lora.splitlines()[-1].startswith(f"| 56 px | {keys} (1.0 GB) | as it is (")


def test_nothing_is_computed_on_a_device_that_a_run_has(small, monkeypatch, tmp_path, capsys):
    """Neither by plan nor by queue; slots stand in for GPUs."""
    (Path.cwd() / "hardware.yaml").write_text("device: cpu\nthreads: 1\ndevices: [0]\n")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(forecast, "measure", lambda *arguments: pytest.fail("computed"))
    monkeypatch.setattr(queue_actions, "trained_before", lambda name, settings: (0.0, ""))  # it asks DVC
    small({"train.epochs": 1})
    with gpu_lock.locked("train@lora"):
        dispatch(["plan"])
        forecast_line = queue_actions.forecast_of(["frozen"], params.read())
    line = f"slot 0 in use by train@lora of {Path.cwd()} (process {os.getpid()}"
    out = capsys.readouterr().out
    assert out.count(f"time          not measured: {line}") == 2 and out.endswith("it fits\n")
    assert forecast_line.startswith(f"starts when the device is free: {line}") and "hours not measured" in forecast_line
    monkeypatch.setattr(forecast, "measure", lambda *arguments: forecast.Time(1.0, 1.0, 1.0, 0.0, 1, "a spy"))
    dispatch(["plan"])
    assert capsys.readouterr().out.count("from a spy") == 2


def test_the_first_call_on_a_gpu_is_not_what_is_timed(monkeypatch):
    calls: list[float] = [0.3, 0.0]
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert forecast._seconds(GPU, lambda: time.sleep(calls.pop(0))) < 0.2 and not calls


def test_a_step_on_a_cpu_takes_as_long_as_the_batch_and_loading_it(small, monkeypatch):
    settings = small({"train.batch_size": 2}, "lora")
    fast = forecast.measure(settings, CPU, iter).step
    monkeypatch.setattr(forecast, "_load_one", lambda *_: time.sleep(0.3))
    slow = forecast.measure(settings, CPU, iter).step
    assert fast < 0.3 and 0.6 <= slow < 0.9
    monkeypatch.setattr(forecast, "add_gradients", lambda *_: time.sleep(0.3))
    assert forecast.measure(settings, CPU, iter).step >= 0.9


def test_variants_are_made_for_the_encoder_for_training_or_in_every_step(small, monkeypatch):
    def warm_seconds(call):
        call()
        return 1000.0 * (call.func is forecast._vary_one)

    monkeypatch.setattr(forecast, "_warm_seconds", warm_seconds)
    values = {"train.batch_size": 2, "train.seeds": [0, 1]} | WITHOUT_ENCODER
    online = forecast.measure(small(values | {"augment.online": True}, "unet"), CPU, iter)
    assert online.step >= 2000 and online.variant == 0
    folds = [planning.FoldSize(train=5, val=2, test=2, patients=5)]
    for arm, times in (("frozen", 9 + 2 * 5), ("unet", 2 * 5)):
        settings = small({"augment.online": False, "augment.variants": 3}, arm)
        took = forecast.measure(settings, CPU, iter)
        assert took.step < 1000 == took.variant
        without = forecast.total_seconds(settings, folds, dataclasses.replace(took, variant=0.0))
        assert forecast.total_seconds(settings, folds, took) - without == pytest.approx(3 * times * took.variant)


def test_what_other_programs_have_of_a_gpu_is_not_there(monkeypatch):
    properties = SimpleNamespace(total_memory=24 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * 10**9, 24 * 10**9))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 10**9)
    assert planning.memory_of(GPU) == 11 * 10**9 + planning.CONTEXT  # needed() counts this process's context
    assert planning.memory_of(GPU, busy="GPU 0 in use by a run, which will have ended") == 24 * 10**9
