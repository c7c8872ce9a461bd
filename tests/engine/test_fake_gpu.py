"""What a GPU would be asked to do, counted without one: precisions, bytes, kernels, memory and waits of a step.

Fake CUDA tensors follow CUDA's autocast, but have no backward pass and choose no kernel of attention; what needs these
is counted on fake CPU tensors. The limits are 5 % above what a step took when they were written.
"""

import contextlib
from pathlib import Path

import pytest
import torch
from helpers.fake_gpu import Meter, fake_gpu
from helpers.models import CPU, UNET, new_model
from torch._subclasses.fake_tensor import FakeTensorMode

from nightshift.arms import unet
from nightshift.backbone import encoder
from nightshift.commands import planning
from nightshift.commands.memory import Counter, peak_bytes
from nightshift.config import params
from nightshift.data.samples import TrainingCases
from nightshift.engine.device import HALF
from nightshift.model import segmentation
from nightshift.training.losses import loss_of
from nightshift.training.state import TrainingState
from nightshift.training.step import forward

GPU = torch.device("cuda")


@pytest.fixture
def switched_by_hand(monkeypatch):
    """torch.autocast("cuda") turns itself off where there is no GPU; `fake_gpu` has set its switches."""
    for module in (segmentation, unet):
        monkeypatch.setattr(module, "autocast", lambda device, precision: contextlib.nullcontext())


@pytest.fixture
def full_size():
    """Settings of an arm on full-size SAM 3 at 1008 px in bfloat16, a case at a time."""
    changes = ("use.encoder=sam3", "encoder.precision=bf16", "encoder.resolution=1008", "train.batch_size=1")
    return params.read(changes).arm


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("arm", ["frozen", "lora", "full", "unet"])
def test_no_arm_mixes_devices_or_precisions(small, switched_by_hand, arm, precision):
    """An operator that is given two of them raises, on fake CUDA tensors as on a GPU."""
    arms = {"arms.full": {"kind": "full", "neck": True}, "arms.unet": UNET}
    settings = small(arms | {"encoder.precision": precision, "head.detail": True, "arms.lora.blocks": "all"}, arm)
    model = planning.new_model(settings, "meta")
    with fake_gpu(HALF.get(precision)):
        model.to_empty(device="cuda")
        for start in {0, planning.start_of(settings)}:
            if isinstance(model, segmentation.SegmentationModel):
                model.start = start
            batch = planning.noise_batch(settings, start, 2, GPU)
            if start:
                batch["tokens"] = batch["tokens"].to(HALF.get(precision, torch.float32))  # as they are kept
            logits = forward(model, batch)
            assert logits.device.type == "cuda" and logits.dtype == torch.float32
            assert loss_of(logits, batch["target"], 0.5).dtype == torch.float32


def test_encoding_moves_what_it_did(full_size):
    settings = full_size("frozen")
    model = planning.new_model(settings, "meta")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        neck = model.neck.to_empty(device="cpu")
        images = torch.rand(1, 3, 1008, 1008)
        with Meter() as meter:
            encoder.run_prefix(neck.trunk, images, settings.preset.depth)
    assert 15e9 < meter.moved < 21e9 and 500 < meter.kernels < 705 and meter.waits == 0


def test_a_lora_step_moves_what_it_did(full_size):
    settings = full_size("lora")
    model = planning.new_model(settings, "meta")
    with FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cpu")
        batch = planning.noise_batch(settings, 0, 1, CPU)
        with Meter() as meter:
            loss_of(forward(model, batch), batch["target"]).mean().backward()
    assert 40e9 < meter.moved < 56e9 and 2500 < meter.kernels < 3440 and meter.waits == 0


def test_the_plan_knows_what_cuda_keeps_in_float32(full_size, switched_by_hand, monkeypatch):
    """The peak of a frozen arm's forward pass, on fake CUDA tensors and as the plan counts it."""
    settings = full_size("frozen")
    start = planning.start_of(settings)

    def run(model):
        return forward(model, planning.noise_batch(settings, start, 1, CPU))

    model = planning.new_model(settings, "meta")
    with fake_gpu(torch.bfloat16), Counter() as real:
        model.to_empty(device="cuda")
        for tensor in (*model.parameters(), *model.buffers()):
            real.add(tensor)
        weights = real.now
        forward(model, planning.noise_batch(settings, start, 1, GPU))
    monkeypatch.undo()
    counted = peak_bytes(lambda: planning.new_model(settings, "meta"), run, GPU)
    assert counted - weights == pytest.approx(real.peak - weights, rel=0.01)
    assert 0.4e9 < counted - weights < 0.52e9
    assert peak_bytes(lambda: planning.new_model(settings, "meta"), run, CPU) < counted


def test_a_step_waits_for_the_gpu_once(small, prepared, monkeypatch):
    """`tolist` waits, and every value of a tensor. Without AdamW, which reads how many steps it made, on the CPU."""
    settings, lists = small({"encoder.precision": "bf16", "train.ema": 0.9}, "lora"), []
    state = TrainingState(new_model(settings, 0), settings.train, 0, CPU, Path("states"))
    monkeypatch.setattr(state.optimiser, "step", lambda: None)
    cases, to_list = TrainingCases(prepared["train"], None, settings), torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: (lists.append(tensor), to_list(tensor))[1])
    batch = cases.batch([0, 1])
    lists.clear()
    with Meter() as meter:
        for number in range(3):
            state.step([0, 1], batch, number, 3, cases, lambda: [False, False])
    assert len(lists) == 3 and meter.waits == 0
