"""A user's mistake ends in one line and exit status 1; a traceback is for bugs."""

import sys
from collections.abc import Callable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, and what to do."""


def run(main: Callable[[], object]) -> None:
    """Run a stage's `main`; print a `UserError` as one line on stderr and exit with status 1."""
    try:
        main()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)


def nearest(name: str, valid: list[str]) -> str:
    """`; did you mean X?` with the closest of `valid`, or the whole list where nothing is close."""
    match = get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"valid: {', '.join(sorted(valid))}"
