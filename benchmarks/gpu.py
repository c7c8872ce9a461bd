"""How well a GPU is used: encoding against the GPU's own matrix products, and the LoRA step at 1008 px.

No rows without CUDA. The step is timed with torch.compile off and on, which the pipeline itself does not use.
"""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.arms import LORA, NAME
from benchmarks.timing import Row, row
from nightshift.backbone import encoder
from nightshift.commands import planning
from nightshift.config.params import ArmSettings, read
from nightshift.engine.device import HALF, autocast
from nightshift.jobs.resources import peak_device_memory
from nightshift.training.step import add_gradients, optimiser_of

FULL = ("use.encoder=sam3", "encoder.resolution=1008", "encoder.precision=bf16", LORA)
BATCHES, ROUNDS = (1, 4), 10


def rows() -> Iterator[Row]:
    """Encoding, and LoRA steps of different batches; none without CUDA."""
    if not torch.cuda.is_available():
        return
    device = torch.device("cuda")
    yield from encode_rows(read(FULL).arm(NAME), device, side=8192)
    for cases in BATCHES:
        for compiled in (False, True):
            yield from step_rows(read([*FULL, f"train.batch_size={cases}"]).arm(NAME), device, compiled)


def encode_rows(settings: ArmSettings, device: torch.device, side: int) -> Iterator[Row]:
    """TFLOP/s of the trunk on four frames, and its share of what square products of `side` reach."""
    neck = encoder.configured(settings).to(device)
    images = torch.rand(4, 3, settings.resolution, settings.resolution, device=device)

    def encode() -> None:
        with torch.no_grad(), autocast(device, settings.encoder.precision):
            encoder.run_prefix(neck.trunk, images, settings.preset.depth)

    with FlopCounterMode(display=False) as counted:
        encode()
    one, other = (torch.rand(side, side, device=device, dtype=HALF[settings.encoder.precision]) for _ in range(2))
    pairs = [(_seconds(encode, device), _seconds(lambda: one @ other, device)) for _ in range(ROUNDS + 1)][1:]
    ours, peak = (statistics.median(times) for times in zip(*pairs, strict=True))
    speed, best = counted.get_total_flops() / ours / 1e12, 2 * side**3 / peak / 1e12
    yield row("encode_tflops", speed, "TFLOP/s")
    yield row("encode_over_matmul_peak", speed / best, "ratio")


def step_rows(settings: ArmSettings, device: torch.device, compiled: bool) -> Iterator[Row]:
    """Seconds and peak memory of the device of a whole LoRA training step, `train.batch_size` cases."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    train, model = settings.train, planning.new_model(settings, str(device))
    if compiled:
        model.compile()
    optimiser = optimiser_of(model, train)
    batch = planning.noise_batch(settings, model.start, train.batch_size, device)

    def step() -> None:
        optimiser.zero_grad()
        add_gradients(model, batch, train, device)
        optimiser.step()

    for _ in range(2):  # compiles, and makes the optimiser's state
        step()
    seconds = statistics.median(_seconds(step, device) for _ in range(ROUNDS))
    name = f"lora_step_1008_batch{train.batch_size}_compile_{'on' if compiled else 'off'}"
    yield row(f"{name}_seconds", seconds, "s")
    yield row(f"{name}_peak", peak_device_memory() / 1e9, "GB")


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
