"""The plan: memory as it is really taken, counts as prepare makes them, settings that help where it does not fit."""

import pytest
import torch

from nightshift.commands import memory as footprint
from nightshift.commands import planning
from nightshift.engine.device import seed_everything
from nightshift.console.errors import UserError
from nightshift.ingest.record import SPLITS
from nightshift.config.params import read
from nightshift.training.step import add_gradients, optimiser_of
from stages import plan

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["frozen", "lora"])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("micro_batch", [1, "all"])
def test_fake_tensors_take_what_real_ones_take(small, name, checkpointing, micro_batch):
    settings = small({"lora.activation_checkpointing": checkpointing, "train.micro_batch": micro_batch})
    predicted = planning.tensors(name, settings)
    own, start = settings.train_for(name), planning.start_of(name, settings)
    seed_everything(0)
    arm = planning.new_arm(name, settings, "cpu")
    with footprint.Counter() as counter:
        for tensor in (*arm.parameters(), *arm.buffers()):
            counter.add(tensor)
        optimiser = optimiser_of(arm, own)
        for _ in range(2):
            optimiser.zero_grad()
            add_gradients(arm, planning.batch_of(settings, start, own.batch_size, CPU), own, CPU)
            optimiser.step()
    assert predicted == pytest.approx(counter.peak, rel=0.02)


def test_less_at_a_time_and_less_kept_is_less_memory(small):
    settings = small({"train.batch_size": 4, "lora.blocks": "all"})
    needs = [(told, planning.tensors("lora", changed)) for told, changed in planning.options("lora", settings)]
    assert [told for told, _ in needs[:2]] == [{}, {"lora.micro_batch": "2"}]
    assert needs[-1][0] == {"lora.micro_batch": "1", "lora.activation_checkpointing": "true"}
    first, last = needs[:3], needs[3:]
    assert [size for _, size in first] == sorted((size for _, size in first), reverse=True)
    assert [size for _, size in last] == sorted((size for _, size in last), reverse=True)
    assert all(b < a for (_, a), (_, b) in zip(first, last, strict=True))
    assert len(list(planning.options("frozen", settings))) == 3


def test_counts_are_those_of_prepare(small, prepared, pictures, change):
    assert planning.counts(small()) == {"train": 270, "val": 66, "test": 114}
    change({"split": "made"}, "conf/data/synthetic.yaml")
    assert (
        planning.counts(small()) == {"train": 270, "val": 69, "test": 114}
        or sum(planning.counts(small()).values()) == 450
    )
    change({"images": "images", "masks": "masks"}, "conf/data/angiograms.yaml")
    with pytest.raises(UserError, match="no case in train"):
        planning.counts(small({"use.data": "angiograms"}))
    assert set(planning.counts(small({"use.data": "synthetic"}))) == set(SPLITS)


def test_the_plan_says_all_of_it_and_that_it_fits(small, capsys):
    small({"train.epochs": 1})
    plan.main(["-S", "lora.rank=3"])
    out = capsys.readouterr().out
    for line in (
        "mini at 56 px: 4 x 4 = 16 tokens per case, fp32",
        "synthetic: 270 train, 66 val, 114 test cases; on cpu",
        "Frozen: 3 of 3 blocks once per case",
        "LoRA: 1 of 3 blocks once per case",
        "cache on disk 0.0 GB",
        "from 20 steps of 2 cases",
        "\nit fits",
    ):
        assert line in out


def test_what_does_not_fit_ends_with_settings_that_do(small, monkeypatch, capsys):
    settings = small({"train.batch_size": 4})
    sizes = {tuple(told.items()): planning.tensors("lora", s) for told, s in planning.options("lora", settings)}
    monkeypatch.setattr(planning, "needed", lambda peak, device, process: peak)
    enough = sizes[(("lora.micro_batch", "2"),)]
    monkeypatch.setattr("nightshift.commands.planning.memory_of", lambda device: enough)
    with pytest.raises(UserError, match=r"the lora arm needs .* try -S lora.micro_batch=2$"):
        plan.main([])
    monkeypatch.setattr("nightshift.commands.planning.memory_of", lambda device: 1000)
    with pytest.raises(
        UserError, match=r"the frozen arm needs .* try a smaller encoder.resolution; the lora arm needs"
    ):
        plan.main([])


@pytest.mark.parametrize("change", ["lora.rank", "rank=3", "lora.x.y=3", "lora.rank=[", "lora.rnak=3"])
def test_a_wrong_change_is_one_line(checkout, change):
    with pytest.raises(UserError) as caught:
        read([change])
    assert "\n" not in str(caught.value)


def test_a_change_is_as_dvc_takes_it(checkout):
    assert read(["lora.blocks={last: 2}", "train.learning_rate=1e-05"]).lora.blocks == {"last": 2}
    assert read(["train.learning_rate=1e-05"]).train.learning_rate == 1e-5
