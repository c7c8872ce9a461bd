"""The frozen prefix of an arm, run once per case and kept: tokens (g, g, D) in memory-mapped shards.

Kept in the precision that the encoder runs in. A run that was killed goes on at the shard where it was.
"""

import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from nightshift.engine import checkpoints
from nightshift.jobs import resources as cost
from nightshift.backbone import encoder
from nightshift.engine import distributed as ranks
from nightshift.model.segmentation import ENCODED, LEVELS, seen
from nightshift.data.dataset import PREPARED, Cases
from nightshift.engine.device import HALF, autocast, device, seed_everything
from nightshift.console.errors import UserError
from nightshift.core.io import read_json, replacing, write_json
from nightshift.data.letterbox import frame_to_square
from nightshift.core.hashing import hash_folder
from nightshift.console.progress import say, steps_bar
from nightshift.config.params import ArmName, Settings, hardware, root
from nightshift.data.shards import LIMIT
from nightshift.backbone.pretrained import RECORD

BATCH = 4  # cases per forward
SPLITS = ("train", "val")


def bytes_per_case(settings: Settings, level: str) -> int:
    """Of what is kept of one case: tokens (g, g, D), or the neck's levels (d_model, s g, s g) for s = 4, 2, 1."""
    preset, grid = settings.preset, settings.resolution // settings.preset.patch_size
    numbers = preset.embed_dim if level == "trunk" else preset.d_model * (4**2 + 2**2 + 1)
    return grid**2 * numbers * (2 if settings.encoder.precision in HALF else 4)


def encode(
    neck: encoder.Sam3DualViTDetNeck | None, cases: Cases, count: int, end: int, level: str, settings: Settings,
    folder: Path,
) -> int:  # fmt: skip
    """Write tokens.N for N < `count`, the output of blocks 0..end-1, but for the shards that are there already.

    At level `neck` it is level.0.N to level.2.N, the neck's levels. From len(cases) on cases are mirrored (`seen`).
    With no case, write an empty index; no encoder is needed then. Every rank writes its share of the shards.
    Returns how many cases were there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind, per_shard = HALF.get(settings.encoder.precision, torch.float32), LIMIT // bytes_per_case(settings, level)
    shards = [range(first, min(first + max(1, per_shard), count)) for first in range(0, count, max(1, per_shard))]
    names = [f"shard-{number:05d}.safetensors" for number in range(len(shards))]
    there = {name for name in names if (folder / name).exists()}
    known = sum(len(shard) for shard, name in zip(shards, names, strict=True) if name in there)
    if known and ranks.rank() == 0:
        say(f"{folder.name}: going on after {known} of {count} cases")
    with steps_bar(f"encode {folder.name}", count, known) as done:
        for number, (shard, name) in enumerate(zip(shards, names, strict=True)):
            if name in there or number % ranks.size() != ranks.rank():
                continue
            kept: dict[str, torch.Tensor] = {}
            for first in range(shard.start, shard.stop, BATCH):
                indices = range(first, min(first + BATCH, shard.stop))
                images = torch.stack([frame_to_square(seen(cases, i).frame, settings.resolution) for i in indices])
                for what, values in _outputs(neck, images.to(device()), end, level, settings).items():
                    kept |= {
                        f"{what}.{i}": v.contiguous().clone()
                        for i, v in zip(indices, values.to("cpu", kind), strict=True)
                    }
                done(len(indices))
            with replacing(folder / name) as temporary:
                save_file(kept, temporary)
    whats = ["tokens"] if level == "trunk" else [f"level.{number}" for number in range(LEVELS)]
    index = {f"{what}.{i}": name for shard, name in zip(shards, names, strict=True) for i in shard for what in whats}
    ranks.of_all(None)  # wait for all shards
    if ranks.rank() == 0:
        write_json(folder / "index.json", index)
    return known


def _outputs(
    neck: encoder.Sam3DualViTDetNeck, images: torch.Tensor, end: int, level: str, settings: Settings
) -> dict[str, torch.Tensor]:
    with torch.no_grad(), autocast(device(), settings.encoder.precision):
        tokens = encoder.run_prefix(neck.trunk, images, end)
        if level == "trunk":
            return {"tokens": tokens}
        levels = encoder.neck_levels(neck, encoder.run_suffix(neck.trunk, tokens, end))
        return {f"level.{number}": values for number, values in enumerate(levels[:LEVELS])}


def encode_arm(name: ArmName, settings: Settings, end: int) -> None:
    """Blocks 0..end-1 over train and val -> data/encoded/NAME. Raises UserError where the disk is too small for it."""
    stage = f"encode_{name}"
    splits = {split: Cases(PREPARED / split) for split in SPLITS}
    level = settings.encode.level if name == "frozen" else "trunk"
    counts = {split: count if end else 0 for split, count in kept_cases(settings, map(len, splits.values())).items()}
    identity = checkpoints.fingerprint(
        kept=[end, level, counts],
        data=hash_folder(*(PREPARED / split for split in SPLITS)),
        weights=read_json(RECORD),
        encoder=settings.encoder.model_dump(),
        preset=settings.preset.model_dump(),
        device=device().type,  # not which of them: a run that goes on may get another one
        threads=hardware().threads,
    )
    if ranks.rank():
        _encode_splits(splits, counts, end, level, settings, checkpoints.folder_of(stage, identity))
        return
    alone = ranks.size() == 1  # the other ranks would give up on one that waits
    with checkpoints.run_folder(stage, identity, wait=alone) as states, cost.recorded(stage) as record:
        cases = sum(counts.values())
        needed, free = cases * bytes_per_case(settings, level), shutil.disk_usage(states).free
        present = sum(path.stat().st_size for path in states.rglob("*.safetensors"))
        if needed - present > free:
            raise UserError(
                f"{root().absolute()}: the tokens of {cases} cases take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
                "are free; free some, or lower encoder.resolution"
            )
        if needed > 1e9:
            say(f"{cases} cases, {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free")
        start = time.perf_counter()
        before = _encode_splits(splits, counts, end, level, settings, states)
        speed = (cases - before) / (time.perf_counter() - start)
        record |= {"cases": cases, "cases_before": before, "cases_per_second": round(speed, 3)}
        record["processes"] = ranks.size()
        with replacing(ENCODED / name) as folder:
            for split in SPLITS:
                shutil.copytree(states / split, folder / split, copy_function=_link)
        checkpoints.finished(stage, identity, ENCODED / name)
    print(f"{end} of {settings.preset.depth} blocks kept: {(ENCODED / name).as_posix()}")


def kept_cases(settings: Settings, cases: Iterable[int]) -> dict[str, int]:
    """How many are kept of the train and the val cases; validation is never mirrored."""
    train, val = cases
    return {"train": train * (2 if settings.encode.flips else 1), "val": val}


def _encode_splits(
    splits: dict[str, Cases], counts: dict[str, int], end: int, level: str, settings: Settings, states: Path
) -> int:
    seed_everything(0)
    neck = encoder.configured(settings).to(device()) if end else None
    return sum(
        encode(neck, members, counts[split], end, level, settings, states / split) for split, members in splits.items()
    )


def _link(source: str, target: str) -> None:
    """The same file under a second name where the disk can do that: the run keeps its shards until DVC has them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
