"""The command line of a stage page that works for one arm: `python -m stages.train lora`."""

from collections.abc import Sequence

from nightshift.config.resolved import FOLDER
from nightshift.console.errors import UserError, nearest


def arm_from(arguments: Sequence[str]) -> str:
    """The arm's name. Raises UserError where there is not exactly one, or no arm of that name is configured."""
    known = sorted(path.name for path in (FOLDER / "arms").glob("*"))
    if not known:
        raise UserError(f"{FOLDER.as_posix()}: no settings yet; `dvc repro` makes them")
    if len(arguments) != 1:
        raise UserError(f"expected the name of one arm: {' or '.join(known)}")
    if arguments[0] not in known:
        raise UserError(f"no arm '{arguments[0]}'; {nearest(arguments[0], known)}")
    return arguments[0]
