"""Options that several commands have."""

import argparse


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
