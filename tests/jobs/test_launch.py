"""A stage's work is called with its arguments: here, in new processes, or in those of a launcher."""

import os
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from nightshift.console.errors import UserError
from nightshift.engine import distributed
from nightshift.jobs import gpu_lock, launch

STAGE = """
from pathlib import Path
from nightshift.engine import distributed
def work(arm, *more):
    total = sum(distributed.of_all(1 + distributed.rank()))
    Path(f"{arm}-{distributed.rank()}-{distributed.of_first(arm)}-{total}-{len(more)}").touch()
"""


@pytest.fixture
def stage(checkout, monkeypatch):
    """A module `made_stage` that writes a file in each process; its name."""
    (checkout / "made_stage.py").write_text(STAGE)
    monkeypatch.syspath_prepend(str(checkout))
    monkeypatch.setenv("PYTHONPATH", str(checkout))
    monkeypatch.delitem(sys.modules, "made_stage", raising=False)
    return "made_stage"


def test_one_process_works_here(stage):
    Path("hardware.yaml").write_text("device: cpu\n")
    launch.run(stage, "wide")
    assert [path.name for path in Path().glob("wide-*")] == ["wide-0-wide-1-0"]


def test_new_processes_get_the_arguments(stage):
    Path("hardware.yaml").write_text("device: cpu\nprocesses: 2\n")
    launch.run(stage, "wide", "x")
    assert sorted(path.name for path in Path().glob("wide-*")) == ["wide-0-wide-3-1", "wide-1-wide-3-1"]


def test_the_lock_is_of_the_stage_and_its_arm(checkout, monkeypatch):
    labels = []
    real = gpu_lock.locked
    monkeypatch.setattr(launch, "locked", lambda label, *rest: labels.append(label) or real(label, *rest))
    monkeypatch.setitem(sys.modules, "stages.made", module := ModuleType("stages.made"))
    module.work = lambda *arguments: labels.append(arguments)
    Path("hardware.yaml").write_text("device: cpu\n")
    launch.run("stages.made", "wide")
    launch.run("stages.made")
    assert labels == ["made@wide", ("wide",), "made", ()]


def test_more_processes_than_gpus_are_refused(checkout, monkeypatch):
    Path("hardware.yaml").write_text("device: cuda\nprocesses: 3\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="3 processes, but there are 2 GPUs; set processes: 2"):
        launch.run("stages.train", "lora")


@pytest.mark.parametrize(("kind", "nccl", "expected"), [
    ("cpu", True, "gloo"), ("cuda", True, "cpu:gloo,cuda:nccl"), ("cuda", False, "gloo"),
])  # fmt: skip
def test_processes_talk_by_what_torch_has(checkout, monkeypatch, kind, nccl, expected):
    import accelerate

    made = []
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(launch, "device", lambda: torch.device(kind))
    monkeypatch.setattr(accelerate, "PartialState", lambda **how: made.append(how) or SimpleNamespace(
        destroy_process_group=lambda: None))  # fmt: skip
    launch._one_of_several(lambda: None, joined=True)
    assert made == [{"cpu": kind == "cpu", "backend": expected, "timeout": launch.LONGEST_WAIT}]


@pytest.mark.parametrize("nccl", [True, False])
def test_gloo_gets_no_tensors_of_a_gpu(monkeypatch, nccl):
    seen = []
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: nccl)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda flat: seen.append(flat.device.type))
    with FakeTensorMode():
        gradients = [torch.zeros(2, 3, device="cuda"), torch.zeros(4, device="cuda")]
        distributed.add_up(gradients)
    assert seen == ["cuda" if nccl else "cpu"] and {one.device.type for one in gradients} == {"cuda"}


def test_a_task_of_slurm_that_sees_one_gpu_uses_that(checkout, monkeypatch):
    """`srun --gpus-per-task=1` with RANK set by hand: the fourth task's GPU is its number 0."""
    locks, found = [], []
    for name, value in {"RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4", "SLURM_GPUS_PER_TASK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(launch, "locked", lambda *asked: nullcontext(locks.append(asked)))
    monkeypatch.setattr(launch, "_one_of_several", lambda work, joined: found.append(os.environ["LOCAL_RANK"]))
    launch.run("stages.train", "lora")
    assert locks == [("train@lora",)] and found == ["0"]


def test_tasks_of_slurm_that_are_no_run_together_are_refused_with_the_line_that_works(checkout, monkeypatch):
    for name, value in {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_PROCID": "3"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"srun started 8 tasks.*use: srun .* torchrun .* -m stages\.train lora$"):
        launch.run("stages.train", "lora")
