"""The frozen prefix of an arm, run once per case and kept: tokens (g, g, D) in memory-mapped shards.

Kept in the precision that the encoder runs in. A run that was killed goes on at the shard where it was.
"""

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from nightshift import checkpoints, cost, encoder, ranks
from nightshift.arms import ENCODED
from nightshift.cases import PREPARED, Cases
from nightshift.compute import autocast, device, seed_everything
from nightshift.errors import UserError
from nightshift.files import read_json, replacing, write_json
from nightshift.framing import frame_to_square
from nightshift.inventory import hash_folder
from nightshift.progress import say, steps_bar
from nightshift.settings import ArmName, Settings, hardware, root
from nightshift.shards import LIMIT
from nightshift.weights import RECORD

BATCH = 4  # cases per forward
SPLITS = ("train", "val")


def bytes_per_case(settings: Settings) -> int:
    """Of the kept tokens of one case."""
    grid = settings.resolution // settings.preset.patch_size
    return grid**2 * settings.preset.embed_dim * (2 if settings.encoder.precision == "bf16" else 4)


def encode(neck: encoder.Sam3DualViTDetNeck | None, cases: Cases, end: int, settings: Settings, folder: Path) -> None:
    """Write tokens.N for every case, the output of blocks 0..end-1, but for the shards that are there already.

    With no such block, write an empty index; no encoder is needed then. Every rank writes its share of the shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = torch.bfloat16 if settings.encoder.precision == "bf16" else torch.float32
    per_shard, count = max(1, LIMIT // bytes_per_case(settings)), len(cases) if end else 0
    shards = [range(first, min(first + per_shard, count)) for first in range(0, count, per_shard)]
    names = [f"shard-{number:05d}.safetensors" for number in range(len(shards))]
    there = {name for name in names if (folder / name).exists()}
    known = sum(len(shard) for shard, name in zip(shards, names, strict=True) if name in there)
    if known and ranks.rank() == 0:
        say(f"{folder.name}: going on after {known} of {count} cases")
    with steps_bar(f"encode {folder.name}", count, known) as done:
        for number, (shard, name) in enumerate(zip(shards, names, strict=True)):
            if name in there or number % ranks.size() != ranks.rank():
                continue
            kept = {}
            for first in range(shard.start, shard.stop, BATCH):
                indices = range(first, min(first + BATCH, shard.stop))
                images = torch.stack([frame_to_square(cases[i].frame, settings.resolution) for i in indices])
                with torch.no_grad(), autocast(device(), settings.encoder.precision):
                    tokens = encoder.run_prefix(neck.trunk, images.to(device()), end).to("cpu", kind)
                kept |= {f"tokens.{i}": one.clone() for i, one in zip(indices, tokens, strict=True)}
                done(len(indices))
            with replacing(folder / name) as temporary:
                save_file(kept, temporary)
    index = {f"tokens.{i}": name for shard, name in zip(shards, names, strict=True) for i in shard}
    ranks.of_all(None)  # wait for all shards
    if ranks.rank() == 0:
        write_json(folder / "index.json", index)


def encode_arm(name: ArmName, settings: Settings, end: int) -> None:
    """Blocks 0..end-1 over train and val -> data/encoded/NAME. Raises UserError where the disk is too small for it."""
    stage = f"encode_{name}"
    splits = {split: Cases(PREPARED / split) for split in SPLITS}
    identity = checkpoints.fingerprint(
        end=end,
        data=hash_folder(*(PREPARED / split for split in SPLITS)),
        weights=read_json(RECORD),
        encoder=settings.encoder.model_dump(),
        preset=settings.preset.model_dump(),
        device=str(device()),
        threads=hardware().threads,
    )
    if ranks.rank():
        return _encode_splits(splits, end, settings, checkpoints.folder_of(stage, identity))
    with cost.recorded(stage) as record, checkpoints.run_folder(stage, identity) as states:
        cases = sum(map(len, splits.values())) if end else 0
        needed, free = cases * bytes_per_case(settings), shutil.disk_usage(states).free
        present = sum(path.stat().st_size for path in states.rglob("*.safetensors"))
        if needed - present > free:
            raise UserError(
                f"{root().absolute()}: the tokens of {cases} cases take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
                "are free; free some, or lower encoder.resolution"
            )
        if needed > 1e9:
            say(f"{cases} cases, {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free")
        _encode_splits(splits, end, settings, states)
        record |= {"cases": cases, "processes": ranks.size()}
        with replacing(ENCODED / name) as folder:
            for split in SPLITS:
                shutil.copytree(states / split, folder / split, copy_function=_link)
        checkpoints.finished(stage, identity, ENCODED / name)
    print(f"{end} of {settings.preset.depth} blocks kept: {(ENCODED / name).as_posix()}")


def _encode_splits(splits: dict[str, Cases], end: int, settings: Settings, states: Path) -> None:
    seed_everything(0)
    neck = encoder.configured(settings).to(device()) if end else None
    for split, members in splits.items():
        encode(neck, members, end, settings, states / split)


def _link(source: str, target: str) -> None:
    """The same file under a second name where the disk can do that: the run keeps its shards until DVC has them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
