"""What all parts of the GPU's benchmark share: rows, errors that cost one row alone, settings, times, kernels, peak.

A row is called WHAT/VARIANT.MEASURE, as `lora_batch4/compiled.seconds_per_case`; the table at the end has a line for
each WHAT/VARIANT.
"""

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.arms import FROZEN, LAST8, LORA, NAME
from benchmarks.timing import Row, noted, row
from nightshift.config.params import ArmSettings, read

ARMS = {"frozen": FROZEN, "lora": LORA, "lora_last8": LAST8}
ATTENTION = ("flash", "fmha", "sdpa", "attention")  # in the name of a kernel
TOP = 15  # kernels that are listed
Action = Callable[[], object]
Measurement = tuple[str, Callable[[], Iterable[Row]]]


@dataclass(frozen=True)
class Bench:
    """Where and how large: `small` is a try without a GPU. `notes`: lists of kernels are appended to this file."""

    device: torch.device
    small: bool
    notes: Path

    @property
    def rounds(self) -> int:
        """How many times an action is timed."""
        return 1 if self.small else 10

    @property
    def side(self) -> int:
        """Of the square matrices whose product is the peak."""
        return 64 if self.small else 8192

    def settings(self, arm: str, *changes: str) -> ArmSettings:
        """Settings of one of ARMS: full-size SAM 3 at 1008 px in bf16, or the tiny encoder where `small`."""
        size = ("use.encoder=tiny",) if self.small else ("use.encoder=sam3", "encoder.resolution=1008")
        text = ARMS[arm].replace("last: 8", "last: 2") if self.small else ARMS[arm]
        precision = "fp32" if self.small else "bf16"  # as params.yaml has it
        return read([*size, f"encoder.precision={precision}", text, *changes]).arm(NAME)


def collected(measurements: Iterable[Measurement]) -> Iterator[Row]:
    """The rows of one measurement after the other; what fails, out of memory too, is a row that says so."""
    for name, measure in measurements:
        try:
            yield from measure()
        except torch.OutOfMemoryError as error:
            yield noted(name, f"out of memory: {error}")
        except Exception as error:
            traceback.print_exc()
            yield noted(name, f"{type(error).__name__}: {error}")
        del measure  # and the model that it knows
        free_memory()


def free_memory() -> None:
    """Give back what a measurement left: models that were compiled live in cycles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    """Wait until the device has nothing to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def wall(action: Action, device: torch.device) -> float:
    """Seconds from the call to the end of all that it has the device do."""
    synchronize(device)
    start = time.perf_counter()
    action()
    synchronize(device)
    return time.perf_counter() - start


def median_wall(action: Action, bench: Bench) -> float:
    """The median of `bench.rounds` times, in seconds."""
    return statistics.median(wall(action, bench.device) for _ in range(bench.rounds))


def flops_of(action: Action) -> int:
    """Floating-point operations of the matrix products and attentions of a call, in-place products too."""
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _in_place_flops}) as counted:
        action()
    return counted.get_total_flops()


def _in_place_flops(_own: list[int], one: list[int], other: list[int], **_: object) -> int:
    """Of own += one @ other, (N, K) and (K, M)."""
    return 2 * one[0] * one[1] * other[1]


def peak_flops(bench: Bench) -> float:
    """Operations per second of a bf16 product of two random squares: the median of ten."""
    one, other = (torch.rand(bench.side, bench.side, device=bench.device).bfloat16() for _ in range(2))
    wall(lambda: one @ other, bench.device)
    seconds = [wall(lambda: [one @ other for _ in range(5)], bench.device) / 5 for _ in range(10)]
    return 2 * bench.side**3 / statistics.median(seconds)


def kernels(action: Action, device: torch.device) -> dict[str, tuple[int, float]]:
    """Launches and seconds of every kernel of a call by its name, the slowest first; none without CUDA."""
    if device.type != "cuda":
        return {}
    synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as recorded:
        action()
        synchronize(device)
    found: dict[str, tuple[int, float]] = {}
    for event in recorded.events():
        if event.device_type == DeviceType.CUDA and not event.name.startswith("Mem"):  # copies are no computation
            count, seconds = found.get(event.name, (0, 0.0))
            found[event.name] = count + 1, seconds + event.time_range.elapsed_us() / 1e6
    return dict(sorted(found.items(), key=lambda item: -item[1][1]))


def kernel_rows(name: str, action: Action, seconds: float, bench: Bench) -> Iterator[Row]:
    """How much of `seconds`, a call's time without profiler, the GPU computes, and by which kernels."""
    found = kernels(action, bench.device)
    if not found:
        return
    total = sum(taken for _, taken in found.values())
    yield row(f"{name}.gpu_share", total / seconds, "ratio")
    yield row(f"{name}.kernels", sum(count for count, _ in found.values()), "")
    names = [kernel for kernel in found if any(word in kernel.lower() for word in ATTENTION)]
    for number, kernel in enumerate(names[:3]):
        yield noted(f"{name}.attention_kernel{number}", kernel)
    lines = [f"{taken * 1e3:9.3f} ms {count:5} x {kernel[:150]}" for kernel, (count, taken) in found.items()][:TOP]
    with bench.notes.open("a", encoding="utf-8") as file:
        print(f"\n{name}: {total * 1e3:.1f} ms of kernels in {seconds * 1e3:.1f} ms", *lines, sep="\n", file=file)


def speed_rows(
    name: str, action: Action, bench: Bench, cases: int, flops: float = 0.0, peak: float = 0.0
) -> Iterator[Row]:
    """What a call takes: seconds, share of the peak, memory, kernels.

    Args:
        name: WHAT/VARIANT.
        action: the call, of `cases` cases.
        bench: where.
        cases: how many it computes.
        flops: of the call, 0 where they were not counted.
        peak: operations per second that the device can do.
    """
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first = wall(action, bench.device)
    wall(action, bench.device)
    seconds = median_wall(action, bench)
    yield row(f"{name}.seconds_per_case", seconds / cases, "s")
    yield row(f"{name}.first_call", first, "s")
    if flops and peak:
        yield row(f"{name}.tflops", flops / seconds / 1e12, "TFLOP/s")
        yield row(f"{name}.share_of_peak", flops / seconds / peak, "ratio")
    if bench.device.type == "cuda":
        yield row(f"{name}.memory", torch.cuda.max_memory_allocated() / 1e9, "GB")
        yield row(f"{name}.reserved", torch.cuda.max_memory_reserved() / 1e9, "GB")
    yield from kernel_rows(name, action, seconds, bench)
