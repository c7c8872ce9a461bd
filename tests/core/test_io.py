"""Files are replaced as a whole or not at all, and have the same bytes on every system."""

import math
import os
import subprocess
import sys

import pytest

from nightshift.console.errors import UserError
from nightshift.core import io


@pytest.mark.parametrize("folder", [False, True])
def test_an_exception_leaves_what_was_there(tmp_path, folder):
    path = tmp_path / "out"
    io.write_text(path / "a" if folder else path, "old")
    with pytest.raises(ZeroDivisionError), io.replacing(path) as temporary:
        io.write_text(temporary / "a" if folder else temporary, "new")
        raise ZeroDivisionError
    assert (path / "a" if folder else path).read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_folder_replaces_a_folder_and_a_link_to_one(tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "out"
    io.write_text(cache / "a", "in DVC's cache")
    out.symlink_to(cache)
    for content in ("1", "2"):
        with io.replacing(out) as temporary:
            io.write_text(temporary / "b", content)
        assert not out.is_symlink() and [entry.name for entry in out.iterdir()] == ["b"]
        assert (out / "b").read_text() == content
    assert (cache / "a").read_text() == "in DVC's cache"


def test_a_file_is_never_written_through_a_link(tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "out"
    io.write_text(cache, "in DVC's cache")
    os.link(cache, out)
    io.write_text(out, "new")
    assert (cache.read_text(), out.read_text()) == ("in DVC's cache", "new")


def test_what_a_killed_process_left_is_removed_and_a_living_one_keeps_its_own(tmp_path):
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    dead, living = tmp_path / f".out.{done.pid}.tmp", tmp_path / f".out.{os.getppid()}.tmp"
    dead.mkdir()
    living.write_text("x")
    io.write_text(tmp_path / "out", "new")
    assert not dead.exists() and living.exists()


def test_remove_takes_whatever_is_there(tmp_path):
    io.write_text(tmp_path / "folder/a", "x")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    io.remove(tmp_path / "link")
    assert (tmp_path / "folder/a").exists()
    for name in ("folder", "folder"):
        io.remove(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_json_is_text_of_one_form_without_nan(tmp_path):
    io.write_json(tmp_path / "a.json", {"ä": 1.5})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "ä": 1.5\n}\n'.encode()
    assert io.read_json(tmp_path / "a.json") == {"ä": 1.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.write_json(tmp_path / "a.json", {"ä": math.nan})
    assert io.read_json(tmp_path / "a.json") == {"ä": 1.5}


def test_csv_has_exactly_the_columns_and_six_decimals(tmp_path):
    io.write_csv(tmp_path / "a.csv", ("n", "x", "text"), [{"n": 1, "x": 2 / 3, "text": "a, b"}, {"n": 2}])
    assert (tmp_path / "a.csv").read_bytes() == b'n,x,text\n1,0.666667,"a, b"\n2,,\n'
    assert io.read_csv(tmp_path / "a.csv") == [
        {"n": "1", "x": "0.666667", "text": "a, b"},
        {"n": "2", "x": "", "text": ""},
    ]
    with pytest.raises(ValueError, match="fields not in"):
        io.write_csv(tmp_path / "a.csv", ("n",), [{"m": 1}])


@pytest.mark.parametrize("read", [io.read_json, io.read_csv])
def test_a_file_that_no_stage_has_written_yet(tmp_path, read):
    with pytest.raises(UserError, match=r"a: no such file yet; `dvc repro` makes it"):
        read(tmp_path / "a")
