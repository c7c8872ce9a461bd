"""Encoding four frames: as it is, and compiled; against the GPU's own matrix product and copy."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu_rows import Bench, Measurement, flops_of, peak_flops, speed_rows, wall
from benchmarks.gpu_steps import VARIANTS
from benchmarks.timing import Row, noted, row
from nightshift.backbone import encoder
from nightshift.config.params import ArmSettings
from nightshift.engine.device import autocast

BATCH = 4


def measurements(bench: Bench) -> Iterator[Measurement]:
    """The peak, then each variant on one encoder."""
    yield "device", lambda: device_rows(bench)
    settings = bench.settings("frozen")
    encoding = Encoding(settings, bench)
    for name in VARIANTS:
        yield f"encode_batch{BATCH}/{name}", lambda name=name: encoding.rows(name)


def device_rows(bench: Bench) -> Iterator[Row]:
    """What the device can do at most, and what torch was told to use."""
    yield row("device.matmul_peak", peak_flops(bench) / 1e12, "TFLOP/s")
    source = torch.empty(2**20 if bench.small else 2**32, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    wall(lambda: target.copy_(source), bench.device)
    seconds = wall(lambda: [target.copy_(source) for _ in range(10)], bench.device) / 10
    yield row("device.copy_read_and_write", 2 * source.nbytes / seconds / 1e9, "GB/s")
    backends = torch.backends
    flags = f"cudnn {backends.cudnn.version()}, TF32 in convolutions {backends.cudnn.allow_tf32}, in matrix products "
    yield noted("device.flags", f"{flags}{backends.cuda.matmul.allow_tf32}")


class Encoding:
    """The trunk on BATCH frames."""

    def __init__(self, settings: ArmSettings, bench: Bench) -> None:
        self.settings, self.bench = settings, bench
        self.neck = encoder.configured(settings, str(bench.device)).to(bench.device)
        self.images = torch.rand(BATCH, 3, settings.resolution, settings.resolution, device=bench.device)
        self.flops, self.peak = flops_of(self.encode), peak_flops(bench)
        self.tokens = self.encode().float()

    def encode(self) -> Tensor:
        """Tokens after the last block."""
        with torch.no_grad(), autocast(self.bench.device, self.settings.encoder.precision):
            return encoder.run_prefix(self.neck.trunk, self.images, self.settings.preset.depth)

    def rows(self, variant: str) -> Iterator[Row]:
        """Speed of one of VARIANTS, and how far its tokens are from those as it is."""
        name = f"encode_batch{BATCH}/{variant}"
        with VARIANTS[variant](self.neck.trunk):
            yield from speed_rows(name, self.encode, self.bench, BATCH, self.flops, self.peak)
            error = (self.encode().float() - self.tokens).norm() / self.tokens.norm()
        yield row(f"{name}.difference", error.item(), "ratio")
