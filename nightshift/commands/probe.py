"""Which sizes, adapters and wrappers run into SAM 3's RoPE assertion: in any folder, beside torch and sam3 alone."""

import argparse
from importlib.util import find_spec
from pathlib import Path

from nightshift.console.errors import UserError
from nightshift.probe.names import ADAPTERS, WRAPPERS

HELP = "which frame sizes, adapters and wrappers run into SAM 3's RoPE assertion, and what to do"
EXAMPLE = "nightshift probe --sides 512 1008 1024 --adapters none lora_by_hand --wrappers none replica_installed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --sides, --adapters, --wrappers and --weights."""
    parser.add_argument(
        "--sides",
        type=_size,
        nargs="+",
        metavar="PIXELS",
        help="run frames of these sizes through full-size SAM 3: 1008, or height x width as 768x1024",
    )
    parser.add_argument("--adapters", nargs="+", choices=ADAPTERS, default=["none"], help="with these adapters")
    parser.add_argument("--wrappers", nargs="+", choices=WRAPPERS, default=["none"], help="in these wrappers")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="say what the position tables in it are made for")


def main(arguments: argparse.Namespace) -> None:
    """Print what --weights and --sides ask for. Raises UserError for a file that is none, and where peft is missing."""
    if not arguments.weights and not arguments.sides:
        raise UserError("probe: give --sides PIXELS or --weights FILE; the whole study is `dvc repro probe`")
    if find_spec("peft") is None and any(name.startswith("peft") for name in arguments.adapters):
        raise UserError("probe: --adapters peft_...: peft is not installed; run: python -m pip install peft")
    from nightshift.backbone.full_size import FULL_SIZE
    from nightshift.backbone.rope import SAM3
    from nightshift.backbone.state_dict import grids_of_file
    from nightshift.probe.cases import combinations
    from nightshift.probe.text import causes, resizes, table

    if arguments.weights:
        for grid, blocks in grids_of_file(arguments.weights).items():
            pixels = grid * FULL_SIZE.patch_size
            print(f"{arguments.weights}: the tables of {blocks} blocks are for {grid} x {grid} tokens, {pixels} px")
    if arguments.sides:
        cases = combinations(arguments.sides, arguments.adapters, arguments.wrappers)
        print(table(cases))
        for line in (*causes(cases), *resizes(arguments.sides, FULL_SIZE.patch_size)):
            print(line)
    print(f"tested: {SAM3}")


def _size(text: str) -> tuple[int, int]:
    """`1008` or `768x1024` as height and width in pixels."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() and int(part) >= 14 for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}': expected pixels, 14 or more, as 1024 or 768x1024")
    return int(parts[0]), int(parts[-1])
