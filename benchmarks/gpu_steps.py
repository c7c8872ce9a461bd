"""Training steps of all arms, as they are and compiled; memory beside the plan's figure."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from benchmarks import variants
from benchmarks.gpu_rows import Bench, Measurement, flops_of, free_memory, peak_flops, speed_rows
from benchmarks.timing import Row, row
from nightshift.backbone import encoder
from nightshift.commands import planning
from nightshift.config.params import ArmSettings
from nightshift.model.segmentation import SegmentationModel
from nightshift.training.step import add_gradients, optimiser_of

VARIANTS: dict[str, Callable[[Any], AbstractContextManager[None]]] = {
    "as_it_is": nullcontext,
    "compiled": variants.compiled,
}
PLANNED = (("lora", 4), ("lora", 1), ("lora_last8", 4), ("frozen", 8))  # arm, cases of a batch


def lora(bench: Bench) -> Iterator[Measurement]:
    """LoRA in all blocks: a batch of 4, and one case."""
    for cases in (4, 1):
        stepping = Stepping("lora", cases, bench)
        for name in VARIANTS:
            yield stepping.name(name), lambda stepping=stepping, name=name: stepping.rows(name)
        del stepping
        free_memory()


def others(bench: Bench) -> Iterator[Measurement]:
    """LoRA in the last blocks and the frozen arm from kept tokens, float32, and the whole trunk trained."""
    for arm, cases, names in (("frozen", 8, ["as_it_is"]), ("lora_last8", 4, list(VARIANTS))):
        stepping = Stepping(arm, cases, bench)
        for name in names:
            yield stepping.name(name), lambda stepping=stepping, name=name: stepping.rows(name)
        del stepping
        free_memory()
    yield "lora_fp32_batch1", lambda: float32_rows(bench)
    yield "trunk_in_full_batch1", lambda: trunk_rows(bench)


def plan(bench: Bench) -> Iterator[Measurement]:
    """What the plan says that each of PLANNED takes; on the CPU alone."""
    for arm, cases in PLANNED:
        yield f"{arm}_batch{cases}", lambda arm=arm, cases=cases: plan_rows(arm, cases, bench)


def plan_rows(arm: str, cases: int, bench: Bench) -> Iterator[Row]:
    """Bytes of all tensors, and what the plan makes of them on a GPU."""
    tensors = planning.tensor_bytes(bench.settings(arm, f"train.batch_size={cases}"))
    yield row(f"{arm}_batch{cases}.plan_tensors", tensors / 1e9, "GB")
    yield row(f"{arm}_batch{cases}.plan", planning.needed(tensors, torch.device("cuda"), 0) / 1e9, "GB")


def new_model(settings: ArmSettings, device: torch.device) -> SegmentationModel:
    """The arm's model, in train mode, adapters with an effect as after some training."""
    model = planning.new_model(settings, str(device))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=1e-3)
    return model


class Stepping:
    """Training steps of an arm on one batch of noise that is on the device already."""

    def __init__(self, arm: str, cases: int, bench: Bench, *changes: str) -> None:
        settings = bench.settings(arm, f"train.batch_size={cases}", *changes)
        self.what, self.cases, self.bench, self.train = f"{arm}_batch{cases}", cases, bench, settings.train
        self.use(new_model(settings, bench.device), settings)
        self.flops, self.peak = flops_of(self.step), peak_flops(bench)

    def use(self, model: SegmentationModel, settings: ArmSettings) -> None:
        """Take this model, with a new optimiser and a new batch."""
        self.model, self.optimiser = model, optimiser_of(model, self.train)
        self.batch = planning.noise_batch(settings, model.start, self.cases, self.bench.device)

    def name(self, variant: str) -> str:
        return f"{self.what}/{variant}"

    def step(self) -> None:
        self.optimiser.zero_grad()
        add_gradients(self.model, self.batch, self.train)
        self.optimiser.step()

    def gradients(self) -> Tensor:
        """Of all trained parameters, in a row."""
        self.optimiser.zero_grad()
        add_gradients(self.model, self.batch, self.train)
        found = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
        return torch.cat(found)

    def rows(self, variant: str) -> Iterator[Row]:
        """Speed of one of VARIANTS, and how far its gradients are from those as it is, with the same parameters."""
        reference = self.gradients()
        with VARIANTS[variant](self.model.neck.trunk):
            start = time.perf_counter()
            error = ((self.gradients() - reference).norm() / reference.norm()).item()
            first = time.perf_counter() - start
            del reference
            yield from speed_rows(self.name(variant), self.step, self.bench, self.cases, self.flops, self.peak)
        yield row(f"{self.name(variant)}.difference", error, "ratio")
        yield row(f"{self.name(variant)}.first_gradients", first, "s")  # compiles, where it is compiled


def float32_rows(bench: Bench) -> Iterator[Row]:
    """A LoRA step of one case without half precision: matrix products in float32, and in TF32."""
    stepping = Stepping("lora", 1, bench, "encoder.precision=fp32")
    before = torch.get_float32_matmul_precision()
    try:
        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            name = f"lora_fp32_batch1/{'tf32' if precision == 'high' else 'as_it_is'}"
            yield from speed_rows(name, stepping.step, bench, 1, stepping.flops, stepping.peak)
    finally:
        torch.set_float32_matmul_precision(before)


def trunk_rows(bench: Bench) -> Iterator[Row]:
    """A step that trains all of trunk and neck: weights in float32, products in bf16, activation checkpointing."""
    settings = bench.settings("frozen", "train.batch_size=1", "encoder.precision=fp32")
    neck = encoder.configured(settings, str(bench.device)).requires_grad_(True)
    model = SegmentationModel(neck, 0, settings, activation_checkpointing=True).to(bench.device).train()
    model.precision = "bf16"
    optimiser = optimiser_of(model, settings.train)
    batch = planning.noise_batch(settings, 0, 1, bench.device)

    def step() -> None:
        optimiser.zero_grad()
        add_gradients(model, batch, settings.train)
        optimiser.step()

    name = "trunk_in_full_batch1/activation_checkpointing"
    yield from speed_rows(name, step, bench, 1, flops_of(step), peak_flops(bench))
