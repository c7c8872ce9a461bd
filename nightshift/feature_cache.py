"""The output of an arm's frozen prefix, computed once per frame and kept in memory-mapped shards.

Tokens (g, g, D) or the neck's levels, in the precision that the encoder runs in. A run that was killed goes on after
the last whole shard.
"""

import shutil
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout
from safetensors.torch import save_file
from torch import Tensor

from nightshift.backbone import encoder
from nightshift.backbone.pretrained import record_of
from nightshift.config.hardware import hardware
from nightshift.config.params import EncoderSettings
from nightshift.config.sections import Augment
from nightshift.console.errors import UserError
from nightshift.console.progress import say, steps_bar
from nightshift.core.hashing import hash_folder
from nightshift.core.io import link, read_json, remove, replacing, write_json
from nightshift.core.project import root
from nightshift.core.records import LEVELS, Prefix
from nightshift.data.augmentation import Pixels, varied
from nightshift.data.channels import input_of
from nightshift.data.dataset import Frames
from nightshift.data.locations import ENCODED, FRAMES, PREPARED, WEIGHTS
from nightshift.data.shards import LIMIT
from nightshift.engine import checkpoints, distributed
from nightshift.engine.ahead import ahead
from nightshift.engine.device import HALF, autocast, compiles, device, seed_everything
from nightshift.jobs import resources

BATCH = 4  # cases per forward
FEATURES = "features"  # in the folder of a run
LOCKS = "locks"  # in FEATURES


class EncodeSettings(EncoderSettings):
    """What the kept features follow from, beside the prefix."""

    augment: Augment


def bytes_per_case(settings: EncoderSettings, output: str) -> int:
    """Bytes kept of one case: tokens (g, g, D), or the neck's levels (d_model, s g, s g) for s = 4, 2, 1."""
    numbers = settings.preset.embed_dim if output == "tokens" else settings.preset.d_model * (4**2 + 2**2 + 1)
    return settings.grid**2 * numbers * (2 if settings.encoder.precision in HALF else 4)


def cases_kept(augment: Augment, cases: int) -> int:
    """How many are kept of `cases`: all, and all variants of each, as with folds any may be trained on."""
    return cases * (1 + augment.variants)


def encode_cases(
    neck: encoder.Sam3DualViTDetNeck | None,
    frames: Frames,
    count: int,
    prefix: Prefix,
    settings: EncodeSettings,
    folder: Path,
) -> int:
    """Write the features of the first `count` frames as shards and an index into `folder`; shards there are kept.

    Arrays are called tokens.N, or level.0.N to level.2.N. From len(frames) on it is their variants.
    With `count` 0 the index is empty, and no encoder is needed. Every process writes the shards that it claims first.

    Returns:
        How many cases were there already.

    Raises:
        UserError: what another process wrote is not there, as on two machines without a common disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    per_shard = -(-LIMIT // bytes_per_case(settings, prefix.output))
    per_shard = -(-per_shard // BATCH) * BATCH  # whole batches: a GPU is as fast as they are large
    shards = [range(first, min(first + per_shard, count)) for first in range(0, count, per_shard)]
    names = [f"shard-{number:05d}.safetensors" for number in range(len(shards))]
    present = {name for name in names if (folder / name).exists()}
    known = sum(len(shard) for shard, name in zip(shards, names, strict=True) if name in present)
    if known and distributed.rank() == 0:
        say(f"going on after {known} of {count} cases")
    claims = deque[Claim]()

    def images(indices: range) -> dict[str, Tensor]:
        seen = [_varied(frames, i, settings.augment) for i in indices]
        return {"images": torch.stack([input_of(one, settings.resolution, settings.channels) for one in seen])}

    with (
        steps_bar("encode", count, known) as done,
        ahead(images, _claimed(folder, dict(zip(names, shards, strict=True)), claims), device()) as batches,
    ):
        arrays: dict[str, Tensor] = {}
        for batch in batches:
            assert neck is not None  # there is a case
            claim = claims.popleft()
            arrays |= _features(neck, batch["images"], claim.indices, prefix, settings)
            done(len(claim.indices))
            if claim.last is not None:
                with replacing(folder / claim.name) as temporary:
                    save_file(arrays, temporary)
                claim.last.release()
                arrays = {}
    arrays_per_case = ["tokens"] if prefix.output == "tokens" else [f"level.{number}" for number in range(LEVELS)]
    index = {
        f"{array}.{i}": name
        for shard, name in zip(shards, names, strict=True)
        for i in shard
        for array in arrays_per_case
    }
    distributed.of_all(None)  # wait for all shards
    if missing := [name for name in names if not (folder / name).exists()]:
        raise UserError(f"{folder}: no {missing[0]}, which another process wrote; all need one disk for the project")
    distributed.of_all(None)
    if distributed.rank() == 0:
        remove(folder / LOCKS)
        write_json(folder / "index.json", index)
    return known


class Claim(NamedTuple):
    """Cases that this process encodes: `indices` of the shard `name`; with the `last` of them, the shard's lock."""

    name: str
    indices: range
    last: FileLock | None


def _claimed(folder: Path, shards: Mapping[str, range], claims: deque[Claim]) -> Iterator[range]:
    """The batches of one shard after the other that is not there and that no other process has; noted in `claims`.

    Not dealt beforehand: a GPU of half the speed takes half as many.
    """
    for name, shard in shards.items():
        if (folder / name).exists():
            continue
        (folder / LOCKS).mkdir(exist_ok=True)
        lock = FileLock(folder / LOCKS / name, timeout=0)
        with suppress(Timeout):
            lock.acquire()
        if not lock.is_locked or (folder / name).exists():  # written while this one looked
            lock.release()
            continue
        for indices in _batches(shard):
            claims.append(Claim(name, indices, lock if indices[-1] == shard[-1] else None))
            yield indices


def _varied(frames: Frames, i: int, augment: Augment) -> Pixels:
    variant, number = divmod(i, len(frames))
    frame = frames[number]
    if variant:
        frame = varied({"frame": frame}, frames.rows[number]["case_id"], variant, augment)["frame"]
    return frame


def _batches(shard: range) -> list[range]:
    return [shard[first : first + BATCH] for first in range(0, len(shard), BATCH)]


def _features(
    neck: encoder.Sam3DualViTDetNeck, images: Tensor, indices: range, prefix: Prefix, settings: EncoderSettings
) -> dict[str, Tensor]:
    """The arrays of some images by name, on the CPU; `indices` are their numbers."""
    kind = HALF.get(settings.encoder.precision, torch.float32)
    with torch.no_grad(), autocast(device(), settings.encoder.precision):
        outputs = {"tokens": encoder.run_prefix(neck.trunk, images, prefix.blocks)}
        if prefix.output == "levels":
            features = encoder.run_suffix(neck.trunk, outputs["tokens"], prefix.blocks)
            levels = encoder.neck_levels(neck, features, LEVELS)
            outputs = {f"level.{number}": values for number, values in enumerate(levels)}
    return {
        f"{name}.{i}": value.contiguous().clone()
        for name, values in outputs.items()
        for i, value in zip(indices, values.to(kind).cpu(), strict=True)  # halved first: half the bytes to send
    }


def encode_arm(name: str, settings: EncodeSettings, prefix: Prefix) -> None:
    """Keep the prefix's output of the frames of all cases, whatever their folds -> data/encoded/NAME.

    Raises UserError where the disk is too small for it.
    """
    stage, frames = f"encode@{name}", Frames(PREPARED)
    count = cases_kept(settings.augment, len(frames)) if prefix.blocks else 0
    identity = checkpoints.fingerprint(
        prefix=prefix.model_dump(),
        count=count,
        data=hash_folder(PREPARED / FRAMES),
        weights=read_json(record_of(name)),
        settings=settings.model_dump(),
        device=device().type,  # not which of them: a run that goes on may get another one
        threads=hardware().threads,
        compiled=compiles(),
    )
    if distributed.rank():
        _encode(frames, count, prefix, settings, checkpoints.folder_of(stage, identity))
        return
    alone = distributed.size() == 1  # the other processes would give up on one that waits
    with checkpoints.run_folder(stage, identity, wait=alone) as states, resources.recorded(name, "encode") as record:
        _check_disk(count, count * bytes_per_case(settings, prefix.output), states)
        start = time.perf_counter()
        before = _encode(frames, count, prefix, settings, states)
        speed = (count - before) / (time.perf_counter() - start)
        record |= {"cases": count, "cases_before": before, "cases_per_second": round(speed, 3)}
        record["processes"] = distributed.size()
        with replacing(ENCODED / name) as folder:
            shutil.copytree(states / FEATURES, folder, copy_function=link)
            write_json(folder / WEIGHTS, read_json(record_of(name)))
        checkpoints.finished(stage, identity, ENCODED / name)
    print(f"{prefix.blocks} of {settings.preset.depth} blocks kept: {(ENCODED / name).as_posix()}")


def encode_nothing(name: str) -> None:
    """For an arm without SAM 3's encoder -> data/encoded/NAME, with the record of its weights alone."""
    with resources.recorded(name, "encode") as record, replacing(ENCODED / name) as folder:
        record |= {"cases": 0, "processes": 1}
        write_json(folder / WEIGHTS, read_json(record_of(name)))
    print(f"no prefix, nothing to keep: {(ENCODED / name).as_posix()}")


def _check_disk(cases: int, needed: int, states: Path) -> None:
    """Raises UserError where less is free than what is still to be written below `states`."""
    free = shutil.disk_usage(states).free
    present = sum(path.stat().st_size for path in states.rglob("*.safetensors"))
    if needed - present > free:
        raise UserError(
            f"{root().absolute()}: the tokens of {cases} cases take {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB "
            "are free; free some, or lower encoder.resolution"
        )
    if needed > 1e9:
        say(f"{cases} cases, {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free")


def _encode(frames: Frames, count: int, prefix: Prefix, settings: EncodeSettings, states: Path) -> int:
    """How many frames were there already."""
    seed_everything(0)
    neck = encoder.configured(settings).to(device()) if count else None
    if neck is not None and compiles():
        encoder.compile_blocks(neck.trunk)
    return encode_cases(neck, frames, count, prefix, settings, states / FEATURES)
