"""Content hashes: of names and bytes alone, and remembered until a file changes."""

import hashlib
import os
from pathlib import Path

import pytest

from nightshift.console.errors import UserError
from nightshift.core import hashing
from nightshift.core.io import read_json, write_text


@pytest.fixture
def hashed(checkout, monkeypatch) -> list[Path]:
    """The files that are really read."""
    paths, real = [], hashing.sha256

    def note(path: Path) -> str:
        paths.append(path)
        return real(path)

    monkeypatch.setattr(hashing, "sha256", note)
    return paths


def test_a_folder_is_its_names_and_contents(tmp_path):
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        write_text(folder / "x/1", "one")
        write_text(folder / "2", "two")
    os.utime(second / "2", (1, 1))
    assert hashing.hash_folder(first) == hashing.hash_folder(second) != hashing.hash_folder(first, second)
    (second / "2").rename(second / "3")
    assert hashing.hash_folder(first) != hashing.hash_folder(second)


def test_rows_are_of_content_and_a_file_is_read_once(hashed):
    write_text("set/a", "one")
    row = {"path": "set/a", "size": 3, "sha256": hashlib.sha256(b"one").hexdigest()}
    assert hashing.hash_files([Path("set/a")], iter) == [row]
    assert hashing.hash_files([Path("set/a")], iter) == [row] and len(hashed) == 1
    os.utime("set/a", (1, 1))
    assert hashing.hash_files([Path("set/a")], iter) == [row] and len(hashed) == 2
    write_text("set/a", "two")
    assert hashing.hash_files([Path("set/a")], iter)[0]["sha256"] == hashlib.sha256(b"two").hexdigest()


def test_the_main_checkout_remembers_for_a_queued_run_and_forgets_what_is_gone(hashed, checkout, monkeypatch, tmp_path):
    write_text("set/a", "one")
    write_text("set/gone", "one")
    rows = hashing.hash_files([checkout / "set/a", checkout / "set/gone"], iter)
    (checkout / "set/gone").unlink()
    copy = tmp_path / "copy"
    copy.mkdir()
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DVC_ROOT", str(checkout))
    write_text("new", "new")
    queued = hashing.hash_files([checkout / "set/a", Path("new")], iter)
    assert queued[0] == rows[0] | {"path": "set/a"} and len(hashed) == 3
    assert {Path(name).name for name in read_json(checkout / hashing.CACHE)} == {"a", "new"}


def test_a_missing_file_is_named(checkout):
    with pytest.raises(UserError, match=r"set/b: named by the data set, but there is no such file"):
        hashing.hash_files([Path("set/b")], iter)
