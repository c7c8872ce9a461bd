"""Epochs by the pipeline's own steps, from cases on disk: as it is, with a prefetched batch, and with all on the GPU.

Loading and collating are in it, other than in gpu_steps.py. Encoding by the stage's own code, too.
"""

import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch.utils.data import default_collate

from benchmarks import variants
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
from nightshift.training import state as state_module
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
        yield "frozen_epoch/as_it_is", lambda: frozen.rows("as_it_is", None)
        yield "frozen_epoch/prefetched", lambda: frozen.rows("prefetched", frozen.half)
        yield "frozen_epoch/on_the_gpu", lambda: frozen.resident_rows()
        yield "frozen_epoch/validation", lambda: frozen.validation_rows()
        settings = bench.settings("lora", f"train.batch_size={BATCHES['lora']}")
        lora = Epochs("lora", TrainingCases(cases, None, settings), bench, folder)
        yield "lora_epoch/as_it_is", lambda: lora.rows("as_it_is", None)
        yield "lora_epoch/prefetched", lambda: lora.rows("prefetched", lora.cases.__getitem__)


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
        count = min(len(cases), COUNTS[arm])
        self.order = [part.tolist() for part in torch.randperm(count).split(settings.train.batch_size)]
        self.half = lambda i: variants.half_item(cases, i)

    def epoch(self, batches: Iterable[variants.Batch] | None) -> None:
        """One epoch; the batches are loaded by the step itself, or are these."""
        self.state.model.train()
        given, collate = iter(batches or ()), state_module.default_collate
        with patch.object(state_module, "default_collate", collate if batches is None else lambda _: next(given)):
            for number, indices in enumerate(self.order):
                cases: Any = self.cases if batches is None else range(len(self.cases))  # items that nobody looks at
                self.state.step(indices, number, len(self.order), cases, lambda: [False])

    def rows(self, variant: str, item: Any) -> Iterator[Row]:
        """Seconds and the GPU's share of the second epoch; with `item` batches are prefetched."""

        def epoch() -> None:
            self.epoch(variants.prefetched(item, self.order, self.bench.device) if item else None)

        yield from self._rows(variant, epoch)

    def resident_rows(self) -> Iterator[Row]:
        """The same with every case on the GPU beforehand."""
        items = [self.half(i) for i in range(len(self.cases))]
        sent = {key: value.to(self.bench.device) for key, value in default_collate(items).items()}
        yield from self._rows("on_the_gpu", lambda: self.epoch(variants.resident(sent, self.order, self.bench.device)))

    def _rows(self, variant: str, epoch: Any) -> Iterator[Row]:
        name, count = f"{self.arm}_epoch/{variant}", sum(map(len, self.order))
        epoch()
        seconds = wall(epoch, self.bench.device)
        yield row(f"{name}.seconds_per_case", seconds / count, "s")
        if self.bench.device.type == "cuda":
            yield row(f"{name}.syncs_per_step", syncs(epoch) / len(self.order), "")
        yield from kernel_rows(name, epoch, seconds, self.bench)

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
