"""What both arms will take on this machine, before anything starts: memory, disk, hours, and whether it fits.

No stage of the pipeline: it writes nothing. With --cards, the settings for GPUs of several sizes.
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil
import torch

from nightshift import planning, settings
from nightshift.compute import device as chosen_device
from nightshift.compute import seed_everything
from nightshift.encoder import count_parameters
from nightshift.errors import UserError, run
from nightshift.progress import bar, say
from nightshift.settings import Settings

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
    memory = memory_of(device)
    disk = shutil.disk_usage(Path.cwd()).free
    cases = planning.counts(chosen)
    grid, depth = chosen.resolution // chosen.preset.patch_size, chosen.preset.depth
    tokens = f"{grid} x {grid} = {grid**2} tokens per case"
    say(f"{chosen.use.encoder} at {chosen.resolution} px: {tokens}, {chosen.encoder.precision}")
    say(f"{chosen.use.data}: " + ", ".join(f"{n} {name}" for name, n in cases.items()) + f" cases; on {device}")
    problems, cached = [], 0
    for name, label in ARMS.items():
        start = planning.start_of(name, chosen)
        trained = count_parameters(planning.new_arm(name, chosen, "meta"))
        kept = planning.disk_bytes(name, chosen, cases)
        peak = planning.needed(planning.tensors(name, chosen), device, process)
        say(f"\n{label}: {start} of {depth} blocks once per case, {trained:,} parameters trained")
        say(f"  peak memory   {_gb(peak)} of {_gb(memory)}")
        say(f"  cache on disk {_gb(kept)} of {_gb(disk)} free")
        if peak > memory:
            need = (
                (told, planning.needed(planning.tensors(name, s), device, process))
                for told, s in planning.options(name, chosen)
            )
            told = next((told for told, size in need if size <= memory), None)
            advice = (
                " ".join(f"-S {key}={value}" for key, value in told.items()) if told else "a smaller encoder.resolution"
            )
            problems.append(f"the {name} arm needs {_gb(peak)} of memory and there are {_gb(memory)}; try {advice}")
        else:
            took = planning.measure(name, chosen, device, bar(f"  {name}", "step"))
            total = planning.total_seconds(name, chosen, cases, took)
            say(f"  time          {_time(total)}, from {took.measured}, {took.step:.2f} s per batch")
        cached += kept
    if cached > disk:
        problems.append(
            f"the caches need {_gb(cached)} of disk and {_gb(disk)} are free; free some, or lower encoder.resolution"
        )
    if problems:
        raise UserError("it does not fit: " + "; ".join(problems))
    print("\nit fits")


def memory_of(device: torch.device) -> int:
    """Bytes that the device has, in use or not."""
    return (
        torch.cuda.get_device_properties(device).total_memory
        if device.type == "cuda"
        else psutil.virtual_memory().total
    )


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
            cells.append(what + (f" ({_gb(need)})" if need else ""))
        print(f"| {side} px | " + " | ".join(cells) + " |")


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def _time(seconds: float) -> str:
    if seconds > 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


if __name__ == "__main__":
    run(main)
