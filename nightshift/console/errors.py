"""A user's mistake ends in one line and exit status 1; a traceback is for bugs."""

import errno
import sys
from collections.abc import Callable
from difflib import get_close_matches

DISK = {
    errno.ENOSPC: "no space left; free some and run the same command again",
    errno.EDQUOT: "the quota is used up; free some space and run the same command again",
    errno.EACCES: "cannot be written; change its permissions",
    errno.EPERM: "cannot be written; change its permissions",
    errno.EROFS: "is on a disk that is read-only",
    errno.EEXIST: "is a file where a folder belongs; move it away",
    errno.ENOTDIR: "is a file where a folder belongs; move it away",
}


class UserError(Exception):
    """Something the user can put right: one line that says what is wrong, where, and what to do."""


def run(main: Callable[[], object]) -> None:
    """Run a stage's `main`; print a `UserError` as one line on stderr and exit with status 1.

    A disk that is full, a place that cannot be written and too little memory are the user's to put right, too.
    """
    try:
        main()
    except UserError as error:
        _end(str(error))
    except KeyboardInterrupt:
        _end("stopped")
    except Exception as error:
        if is_out_of_memory(error):
            _end("out of memory: lower encoder.resolution, or see what fits: python -m stages.plan")
        reason = next((text for number, text in DISK.items() if _is(error, number)), None)
        if reason is None:
            raise
        _end(f"{getattr(error, 'filename', None) or 'the disk'}: {reason}")


def is_out_of_memory(error: Exception) -> bool:
    """Python's own, torch's on a GPU (a class of torch, which is not imported for this) or torch's on the CPU."""
    name, text = type(error).__name__, str(error)
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or "DefaultCPUAllocator: can't allocate" in text


def _is(error: Exception, number: int) -> bool:
    """Rust's libraries put the number into the text: `No space left on device (os error 28)`."""
    return getattr(error, "errno", None) == number or f"(os error {number})" in str(error)


def _end(line: str) -> None:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(1)


def nearest(name: str, valid: list[str]) -> str:
    """`; did you mean X?` with the closest of `valid`, or the whole list where nothing is close."""
    match = get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"valid: {', '.join(sorted(valid))}"
