"""The console script: finds the command's module, reads its arguments and runs it.

Only the module of the chosen command is imported, and what takes seconds to import (torch) only once it runs.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn, Protocol, cast

from nightshift.console.errors import UserError, run

COMMANDS = ("probe", "check", "plan", "queue", "predict", "export", "compare", "leaderboard", "curve", "watch")
OVERVIEW = """usage: nightshift COMMAND ...

SAM 3's frozen encoder against trained ones, on coronary angiograms. The pipeline itself runs with `dvc repro`.

commands:
{commands}

`nightshift COMMAND --help` shows the arguments of a command, and an example."""


class Command(Protocol):
    """What the module nightshift/commands/NAME.py has. EXAMPLE: one or more command lines, one per line."""

    HELP: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's own arguments."""

    def main(self, arguments: argparse.Namespace) -> None:
        """Run the command. Raises UserError for what the user can correct."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are UserErrors: one line and exit status 1, as all errors of users."""

    def error(self, message: str) -> NoReturn:
        """Raises UserError with the message and the command that explains the arguments."""
        raise UserError(f"{message}; see {self.prog} --help")


def command(name: str) -> Command:
    """The module of a command."""
    return cast(Command, import_module(f"nightshift.commands.{name}"))


def overview() -> str:
    """What `nightshift --help` prints: all commands, a line each."""
    return OVERVIEW.format(commands="\n".join(f"  {name:12} {command(name).HELP}" for name in COMMANDS))


def parser_of(name: str) -> Parser:
    """The parser of a command's arguments."""
    module = command(name)
    lines = module.EXAMPLE.strip().splitlines()
    parser = Parser(
        prog=f"nightshift {name}",
        description=module.HELP,
        epilog="\n".join([f"example{'s' if len(lines) > 1 else ''}:", *(f"  {line.strip()}" for line in lines)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    return parser


def dispatch(arguments: Sequence[str]) -> None:
    """Run the command that `arguments` name, or print the overview. Raises UserError for an unknown command."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    name, *rest = arguments
    if name not in COMMANDS:
        raise UserError(f"no command '{name}'; valid: {', '.join(COMMANDS)}")
    command(name).main(parser_of(name).parse_args(rest))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `nightshift ARGUMENTS`, by default those of the command line. Errors of users are one line and status 1."""
    run(lambda: dispatch(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    main()
