"""Errors that a user can cause: one line on stderr and exit status 1. A traceback is for bugs."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import NoReturn

DISK = {  # what to do, by number of the system's error
    errno.ENOSPC: "no space left; free some and run the same command again",
    errno.EDQUOT: "the quota is used up; free some space and run the same command again",
    errno.EFBIG: "is larger than a file may be there; write elsewhere, or raise the limit",
    errno.EACCES: "cannot be written; change its permissions",
    errno.EPERM: "cannot be written; change its permissions",
    errno.EROFS: "is on a disk that is read-only",
    errno.EEXIST: "is a file where a folder belongs; move it away",
    errno.ENOTDIR: "is a file where a folder belongs; move it away",
}

OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


class UserError(Exception):
    """A mistake that the user can correct: one line with what is wrong, where (file, row, key), and what to do."""


def run(main: Callable[[], object]) -> None:
    """Run a stage's `main`; print an error that the user can correct as one line on stderr, and exit with status 1.

    These are `UserError`, Ctrl-C, too little memory, a full disk, and a file or folder that cannot be written.
    Where nothing reads what is printed (`nightshift queue status | head -1`), only the status says so.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name of a case that Windows' code page does not have is no error
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
        _exit_where_nothing_reads()
    except SystemExit:  # of --help
        _exit_where_nothing_reads()
        raise
    except BrokenPipeError:
        _exit_where_nothing_reads("\n")  # without a buffer nothing is left that would show it
        raise
    except UserError as error:
        _exit(str(error))
    except KeyboardInterrupt:
        _exit("stopped")
    except Exception as error:
        if is_out_of_memory(error):
            _exit("out of memory: lower encoder.resolution, or see what fits: nightshift plan")
        reason = next((text for number, text in DISK.items() if _has_number(error, number)), None)
        if reason is None:
            raise
        _exit(f"{getattr(error, 'filename', None) or 'the disk'}: {reason}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: Python's error, torch's on a GPU or on the CPU, or that of a library of CUDA.

    torch's class is compared by name: torch takes seconds to import, and most stages do without it.
    """
    name, text = type(error).__name__, str(error)
    return isinstance(error, MemoryError) or name == "OutOfMemoryError" or any(said in text for said in OUT_OF_MEMORY)


def _has_number(error: Exception, number: int) -> bool:
    """Whether this is the system's error `number`.

    Rust's libraries have it in the text alone, `... (os error 28)`, and `shutil.copytree` in a list of texts.
    """
    text = str(error)
    return getattr(error, "errno", None) == number or f"(os error {number})" in text or f"[Errno {number}]" in text


def _exit_where_nothing_reads(text: str = "") -> None:
    """Exit with status 1 if nothing reads our output any more, as writing `text` and what is left to it shows."""
    try:
        print(end=text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more when it ends
        sys.exit(1)


def _exit(line: str) -> NoReturn:
    print(f"error: {' '.join(line.split())}", file=sys.stderr)
    _exit_where_nothing_reads()
    sys.exit(1)


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean 'X'?` with the closest of `valid`, or all of them where none is close: `valid: X, Y`."""
    names = sorted(valid)
    match = get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"valid: {', '.join(names)}"
