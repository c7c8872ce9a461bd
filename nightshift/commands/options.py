"""Options that several commands have."""

import argparse
from collections.abc import Callable, Sequence

from nightshift.console.errors import UserError, nearest


def add_changes(parser: argparse.ArgumentParser) -> None:
    """Add `-S KEY=VALUE`, any number of times; `arguments.changes` is their list, as `params.read` takes it."""
    parser.add_argument(
        "-S",
        "--set-param",
        dest="changes",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="with this key of params.yaml changed, as `dvc exp run -S` takes it; may be given several times",
    )


def some_of(known: Sequence[str], option: str) -> Callable[[str], list[str]]:
    """What reads names with commas between them, in the order of `known`; it raises UserError for any other name."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise UserError(f"{option} {unknown[0]}: {nearest(unknown[0], known)}")
        return [name for name in known if name in names]

    return read
