"""What both arms will take on this machine, before anything starts: memory, disk, hours, and whether it fits.

No stage of the pipeline: it writes nothing. With --cards, the settings for GPUs of several sizes.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from nightshift.commands import planning
from nightshift.config import params as settings
from nightshift.engine.device import device as chosen_device
from nightshift.engine.device import seed_everything
from nightshift.backbone.encoder import count_parameters
from nightshift.console.errors import UserError, run
from nightshift.console.progress import bar, gigabytes, hours, say
from nightshift.config.params import Settings

ARMS = {"frozen": "Frozen", "lora": "LoRA"}
CARDS, SIDES = (8, 12, 24, 80), (504, 672, 1008)  # GB, pixels


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.plan", description=__doc__)
    parser.add_argument("-S", action="append", default=[], metavar="KEY=VALUE", help="with this setting changed")
    parser.add_argument("--cards", action="store_true", help="print the settings for GPUs of 8, 12, 24 and 80 GB")
    chosen = parser.parse_args(arguments)
    if chosen.cards:
        cards(chosen.S)
    else:
        plan(settings.read(chosen.S))


def plan(chosen: Settings) -> None:
    """Print the plan. Raises UserError, with what to set instead, where an arm does not fit."""
    seed_everything(0)
    device, process = chosen_device(), psutil.Process().memory_info().rss
    disk = shutil.disk_usage(Path.cwd()).free
    cases = planning.counts(chosen)
    grid, depth = chosen.resolution // chosen.preset.patch_size, chosen.preset.depth
    tokens = f"{grid} x {grid} = {grid**2} tokens per case"
    say(f"{chosen.use.encoder} at {chosen.resolution} px: {tokens}, {chosen.encoder.precision}")
    say(f"{chosen.use.data}: " + ", ".join(f"{n} {name}" for name, n in cases.items()) + f" cases; on {device}")
    problems, cached = [], 0
    for name, label in ARMS.items():
        trained = count_parameters(planning.new_arm(name, chosen, "meta"))
        found = planning.forecast(name, chosen, device, process, bar(f"  {name}", "step"))
        start = planning.start_of(name, chosen)
        say(f"\n{label}: {start} of {depth} blocks once per case, {trained:,} parameters trained")
        say(f"  peak memory   {gigabytes(found.need)} of {gigabytes(found.memory)}")
        say(f"  cache on disk {gigabytes(found.kept)} of {gigabytes(disk)} free")
        if found.took:
            measured = f"from {found.took.measured}, {found.took.step:.2f} s per batch"
            say(f"  time          {hours(found.seconds)}, {measured}")
        else:
            problems.append(
                f"the {name} arm needs {gigabytes(found.need)} of memory and there are {gigabytes(found.memory)}; try "
                f"{planning.advice(name, chosen, device, process, found.memory)}"
            )
        cached += found.kept
    if cached > disk:
        problems.append(
            f"the caches need {gigabytes(cached)} of disk and {gigabytes(disk)} are free; free some, or lower "
            "encoder.resolution"
        )
    if problems:
        raise UserError("it does not fit: " + "; ".join(problems))
    print("\nit fits")


def cards(changes: Sequence[str]) -> None:
    """Print, for each size of GPU and of frame, the mildest settings with which full-size LoRA fits in bfloat16."""
    full = [*changes, "use.encoder=sam3", "encoder.precision=bf16"]
    chosen = settings.read(full)
    print(
        f"LoRA of rank {chosen.lora.rank} in blocks {chosen.lora.blocks}, batches of {chosen.train.batch_size} cases\n"
    )
    print("| Frame | " + " | ".join(f"{size} GB" for size in CARDS) + " |")
    print("|---" * (1 + len(CARDS)) + "|")
    for side in SIDES:
        rows = list(planning.options("lora", settings.read([*full, f"encoder.resolution={side}"])))
        needs = [
            planning.needed(planning.tensors("lora", s), torch.device("cuda"), 0)
            for _, s in bar(f"{side} px", "set")(rows)
        ]
        cells = []
        for size in CARDS:
            fitting = ((told, need) for (told, _), need in zip(rows, needs, strict=True) if need <= size * 10**9)
            told, need = next(fitting, (None, 0))
            what = "does not fit" if told is None else ", ".join(f"`{k}={v}`" for k, v in told.items()) or "as it is"
            cells.append(what + (f" ({gigabytes(need)})" if need else ""))
        print(f"| {side} px | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run(main)
