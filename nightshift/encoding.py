"""The frozen prefix of an arm, run once per case and kept: tokens (g, g, D), float32, in memory-mapped shards."""

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from nightshift import cost, encoder
from nightshift.arms import ENCODED
from nightshift.cases import PREPARED, Cases
from nightshift.compute import autocast, device, seed_everything
from nightshift.files import replacing
from nightshift.framing import frame_to_square
from nightshift.progress import bar
from nightshift.settings import ArmName, Settings
from nightshift.shards import write_shards

BATCH = 4  # cases per forward


def encode(
    neck: encoder.Sam3DualViTDetNeck,
    cases: Cases,
    end: int,
    settings: Settings,
    folder: Path,
    progress: Callable[[Iterable], Iterable],
) -> None:
    """Write tokens.N for every case: the output of blocks 0..end-1. With no such block, write an empty index."""

    def arrays():
        for first in progress(range(0, len(cases) if end else 0, BATCH)):
            indices = range(first, min(first + BATCH, len(cases)))
            images = torch.stack([frame_to_square(cases[i].frame, settings.resolution) for i in indices])
            with torch.no_grad(), autocast(device(), settings.encoder.precision):
                tokens = encoder.run_prefix(neck.trunk, images.to(device()), end).cpu()
            for i, one in zip(indices, tokens, strict=True):
                yield f"tokens.{i}", one.numpy()

    with replacing(folder) as temporary:
        write_shards(temporary, arrays())


def encode_arm(name: ArmName, settings: Settings, end: int) -> None:
    """Blocks 0..end-1 over train and val -> data/encoded/NAME."""
    with cost.recorded(f"encode_{name}"):
        seed_everything(0)
        neck = encoder.configured(settings).to(device())
        with replacing(ENCODED / name) as folder:
            for split in ("train", "val"):
                progress = bar(f"encode {split}", "batch")
                encode(neck, Cases(PREPARED / split), end, settings, folder / split, progress)
    print(f"{end} of {settings.preset.depth} blocks kept: {(ENCODED / name).as_posix()}")
