"""What a user can cause is one line on stderr and exit status 1; a bug keeps its traceback."""

import errno
import shutil
import subprocess
import sys

import pytest

from nightshift.console import errors
from nightshift.console.errors import UserError, nearest


def ends(main, capsys) -> str:
    """What `errors.run` prints before it exits with status 1."""
    with pytest.raises(SystemExit) as caught:
        errors.run(main)
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def failing(error):
    def main():
        raise error

    return main


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        errors.run(lambda: 1 / 0)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("a.csv: row 3:\n  no mask"), "error: a.csv: row 3: no mask\n"),
        (KeyboardInterrupt(), "error: stopped\n"),
        (OSError(errno.ENOSPC, "x", "models/x"), "error: models/x: no space left; free some and run the same command "),
        (OSError(errno.EFBIG, "x", "out/model.onnx"), "error: out/model.onnx: is larger than a file may be there; "),
        (PermissionError(errno.EACCES, "x", "out"), "error: out: cannot be written; change its permissions\n"),
        (NotADirectoryError(errno.ENOTDIR, "x", "out"), "error: out: is a file where a folder belongs; move it away\n"),
        (RuntimeError("No space left on device (os error 28)"), "error: the disk: no space left; free some"),
        (
            shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
            "error: the disk: no space left; free ",
        ),
        (MemoryError(), "error: out of memory: lower encoder.resolution, or see what fits: nightshift plan\n"),
    ],
)
def test_what_a_user_can_correct_is_one_line(capsys, error, line):
    assert ends(failing(error), capsys).startswith(line)


def test_an_error_of_the_system_that_no_user_corrects_is_a_bug():
    with pytest.raises(OSError, match="pipe"):
        errors.run(failing(OSError(errno.EPIPE, "pipe")))


@pytest.mark.parametrize("lines", [1, 10_000])  # fewer than a buffer holds are written only at the end
@pytest.mark.parametrize("end", ["", ", sys.exit(0)"])
def test_output_that_nothing_reads_ends_without_a_traceback(lines, end):
    code = f"import sys; from nightshift.console.errors import run; run(lambda: (print('line\\n' * {lines}){end}))"
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    started.stdout.close()
    with started.stderr:
        assert started.stderr.read() == b""
    assert started.wait() == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [("epoch", "did you mean 'epochs'?"), ("epochs", "did you mean 'epochs'?"), ("q", "valid: epochs, warmup")],
)
def test_nearest_names_the_closest_or_all(name, hint):
    assert nearest(name, ["warmup", "epochs"]) == hint
