"""`nightshift plan`: what every arm takes on this machine, and whether it fits, before anything starts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nightshift.commands.options import add_changes
from nightshift.console.errors import UserError

if TYPE_CHECKING:
    from nightshift.commands.forecast import Forecast
    from nightshift.config.params import ArmSettings, Settings

HELP = "memory, disk and hours of every arm on this machine, before anything starts"
EXAMPLE = """nightshift plan
nightshift plan -S use.encoder=sam3 -S encoder.precision=bf16"""
CARDS, SIDES = (8, 12, 24, 80), (504, 672, 1008)  # GB, pixels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add -S and --cards."""
    add_changes(parser)
    sizes = ", ".join(map(str, CARDS[:-1])) + f" and {CARDS[-1]} GB"
    parser.add_argument("--cards", action="store_true", help=f"print settings for full-size SAM 3 on GPUs of {sizes}")


def main(arguments: argparse.Namespace) -> None:
    """Print the plan, or with --cards a table. Raises UserError as `plan` and `params.read` do."""
    from nightshift.config import params

    if arguments.cards:
        cards(arguments.changes)
    else:
        plan(params.read(arguments.changes))


def plan(settings: Settings) -> None:
    """Print what each arm takes. Raises UserError, with what to set instead, where one does not fit."""
    import shutil
    from pathlib import Path

    from nightshift.commands import forecast, planning
    from nightshift.console.progress import bar, gigabytes, say
    from nightshift.data.locations import SPLITS
    from nightshift.engine.device import device as configured_device
    from nightshift.engine.device import seed_everything
    from nightshift.jobs import gpu_lock

    seed_everything(0)
    arms = {name: settings.arm(name) for name in settings.arms}
    device, process_bytes = configured_device(), planning.process_bytes_of(arms.values())
    free = shutil.disk_usage(Path.cwd()).free
    folds = planning.fold_sizes(settings.data)
    grid = settings.grid
    tokens = f"{grid} x {grid} = {grid**2} tokens per case"
    say(f"{settings.use.encoder} at {settings.resolution} px: {tokens}, {settings.encoder.precision}")
    cases = ", ".join(f"{n} {part}" for part, n in zip(SPLITS, folds[0], strict=False))
    each = f"{len(folds)} folds, the first of " if len(folds) > 1 else ""
    also = f", and {folds[0].external} of {settings.use.external}" if settings.external else ""
    say(f"{settings.use.data}: {each}{cases} cases{also}; on {device}")
    problems, disk = [], 0
    with gpu_lock.if_free("plan") as (_, busy):
        for name, arm in arms.items():
            found = forecast.of_arm(arm, folds, device, process_bytes, bar(f"  {name}", "step"), busy)
            _say_arm(arm, found, settings.preset.depth, free, busy)
            disk += sum(found.disk)
            if not found.fits:
                problems.append(
                    f"the {name} arm needs {gigabytes(found.need)} of memory and there are "
                    f"{gigabytes(found.memory)}; try {planning.advice(arm, device, process_bytes, found.memory)}"
                )
    if disk > free:
        problems.append(
            f"the arms need {gigabytes(disk)} of disk and {gigabytes(free)} are free; free some, lower "
            "encoder.resolution for smaller caches, or train fewer blocks for smaller checkpoints"
        )
    if problems:
        raise UserError("it does not fit: " + "; ".join(problems))
    print("\nit fits")


def _say_arm(arm: ArmSettings, found: Forecast, depth: int, free: int, busy: str) -> None:
    """Print the lines of an arm; `depth`: blocks of the encoder, `free`: bytes of disk, `busy`: who has the device."""
    from nightshift.console.progress import gigabytes, hours, say
    from nightshift.model.kinds import prefix_of

    prefix = prefix_of(arm)
    once = f"{prefix.blocks} of {depth} blocks once per case" if prefix else f"no encoder, {arm.resolution} px"
    say(f"\n{arm.name}: {once}, {found.trained:,} parameters trained")
    say(f"  peak memory   {gigabytes(found.need)} of {gigabytes(found.memory)}")
    written = ", ".join(f"{gigabytes(size)} of {name}" for name, size in found.disk._asdict().items())
    say(f"  disk          {written}; {gigabytes(free)} free")
    if found.took:
        say(f"  time          {hours(found.seconds)}, from {found.took.measured}")
    elif found.fits:
        say(f"  time          not measured: {busy}")


def cards(changes: Sequence[str]) -> None:
    """Print for each arm, size of frame and GPU the quickest settings with which full-size SAM 3 fits, in bfloat16."""
    import torch

    from nightshift.commands import planning
    from nightshift.config import params
    from nightshift.console.progress import bar, gigabytes

    gpu = torch.device("cuda")
    full = [*changes, "use.encoder=sam3", "encoder.precision=bf16"]
    by_side = {side: params.read([*full, f"encoder.resolution={side}"]) for side in SIDES}
    for name in by_side[SIDES[0]].arms:
        print(f"\n{name}, batches of {by_side[SIDES[0]].arm(name).train.batch_size} cases\n")
        print("| Frame | " + " | ".join(f"{size} GB" for size in CARDS) + " |")
        print("|---" * (1 + len(CARDS)) + "|")
        for side, settings in by_side.items():
            needs: list[tuple[dict[str, str], int]] = []
            for keys, changed in bar(f"{name} at {side} px", "set")(planning.options(settings.arm(name))):
                needs.append((keys, planning.needed(planning.tensor_bytes(changed, gpu), gpu, 0)))
                if needs[-1][1] <= min(CARDS) * 10**9:
                    break  # the quickest settings for every card are among these
            cells = []
            for size in CARDS:
                fitting = [(keys, need) for keys, need in needs if need <= size * 10**9]
                if not fitting:
                    cells.append("does not fit")
                    continue
                keys, need = fitting[0]
                text = ", ".join(f"`{key}={value}`" for key, value in keys.items()) or "as it is"
                cells.append(f"{text} ({gigabytes(need)})")
            print(f"| {side} px | " + " | ".join(cells) + " |")
