"""Epochs by the pipeline's own steps, from cases on disk.

Loading and collating are in it, other than in gpu_steps.py. Encoding by the stage's own code, too.
"""

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_rows import Bench, Measurement, kernel_rows, wall
from benchmarks.timing import Row, row
from nightshift.backbone import encoder
from nightshift.config.params import ArmSettings
from nightshift.core.records import Prefix
from nightshift.data.dataset import Cases, Frames
from nightshift.data.samples import TrainingCases
from nightshift.data.shards import Shards
from nightshift.feature_cache import encode_cases
from nightshift.ingest.prepared import write_cases
from nightshift.ingest.record import SourceCase
from nightshift.model.kinds import kind_of
from nightshift.training.batches import Batches
from nightshift.training.state import TrainingState
from nightshift.training.validation import validate

COUNTS = {"frozen": 64, "lora": 16}  # cases of an epoch
BATCHES = {"frozen": 8, "lora": 4}
SIDE = 512  # pixels of a frame


def measurements(bench: Bench) -> Iterator[Measurement]:
    """Encoding, then the epochs of both arms, then validation."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        count = 8 if bench.small else COUNTS["frozen"]
        cases = write_noise(folder / "cases", count)
        settings = bench.settings("frozen", f"train.batch_size={BATCHES['frozen']}")
        yield "encode_stage", lambda: encode_rows(cases, settings, bench, folder)
        frozen = Epochs("frozen", TrainingCases(cases, Shards(folder / "tokens", "pt"), settings), bench, folder)
        yield "frozen_epoch/as_it_is", lambda: frozen.rows()
        yield "frozen_epoch/validation", lambda: frozen.validation_rows()
        settings = bench.settings("lora", f"train.batch_size={BATCHES['lora']}")
        lora = Epochs("lora", TrainingCases(cases, None, settings), bench, folder)
        yield "lora_epoch/as_it_is", lambda: lora.rows()


def write_noise(folder: Path, count: int) -> Cases:
    """Cases of noise, SIDE x SIDE pixels, with a bright bar that the mask marks."""

    def read(i: int) -> tuple[Any, Any]:
        frame = np.random.default_rng(i).integers(0, 150, (SIDE, SIDE), dtype=np.uint8)
        mask = np.zeros_like(frame)
        mask[:, 5 * i % (SIDE - 9) :][:, :9] = 1
        return frame + 100 * mask, mask

    sources = [SourceCase(f"case-{i}", f"p{i}", (float(i), -10.0), "", (), lambda i=i: read(i)) for i in range(count)]
    write_cases(folder, sources, iter)
    return Cases(folder)


def encode_rows(cases: Cases, settings: ArmSettings, bench: Bench, folder: Path) -> Iterator[Row]:
    """Cases per second of the stage `encode`: frames from disk, tokens to disk in bf16."""
    neck = encoder.configured(settings, str(bench.device)).to(bench.device)
    prefix = Prefix(blocks=settings.preset.depth)

    def encode(name: str, count: int) -> None:
        encode_cases(neck, Frames(folder / "cases"), count, prefix, settings, folder / name)

    encode("warm", 4)
    seconds = wall(lambda: encode("tokens", len(cases)), bench.device)
    yield row("encode_stage.seconds_per_case", seconds / len(cases), "s")
    yield from kernel_rows("encode_stage", lambda: encode("again", len(cases)), seconds, bench)


class Epochs:
    """An arm's model and optimiser, trained epoch by epoch on the same cases in the same order."""

    def __init__(self, arm: str, cases: TrainingCases, bench: Bench, folder: Path) -> None:
        self.arm, self.cases, self.bench = arm, cases, bench
        settings = cases.settings
        model = kind_of(settings).build(settings, str(bench.device))
        self.state = TrainingState(model, settings.train, 0, bench.device, folder / f"states-{arm}")
        self.batches_of = Batches(cases, bench.device)
        count = min(len(cases), COUNTS[arm])
        self.order = [part.tolist() for part in torch.randperm(count).split(settings.train.batch_size)]

    def epoch(self) -> None:
        """One epoch of steps as the trainer takes them."""
        self.state.model.train()
        with self.batches_of(self.order) as batches:
            for number, (indices, batch) in enumerate(zip(self.order, batches, strict=True)):
                self.state.step(indices, batch, number, len(self.order), self.cases, lambda: [False])

    def rows(self) -> Iterator[Row]:
        """Seconds and the GPU's share of the second epoch."""
        name, count = f"{self.arm}_epoch/as_it_is", sum(map(len, self.order))
        self.epoch()
        seconds = wall(self.epoch, self.bench.device)
        yield row(f"{name}.seconds_per_case", seconds / count, "s")
        if self.bench.device.type == "cuda":
            yield row(f"{name}.syncs_per_step", syncs(self.epoch) / len(self.order), "")
        yield from kernel_rows(name, self.epoch, seconds, self.bench)

    def validation_rows(self) -> Iterator[Row]:
        """Seconds per case of the validation at the end of an epoch, from kept tokens."""
        seconds = wall(lambda: validate(self.state.model, self.cases, 8, self.bench.device), self.bench.device)
        yield row(f"{self.arm}_epoch/validation.seconds_per_case", seconds / len(self.cases), "s")


def syncs(action: Any) -> int:
    """How often torch makes the CPU wait for the GPU in a call."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            action()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(one.message) for one in caught)
