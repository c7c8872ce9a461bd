"""Records: what is written is read as the same, and what is not ours is one line."""

import pytest

from nightshift.console.errors import UserError
from nightshift.core.io import read_json, write_text
from nightshift.core.records import ArmVerdict, Cost, Prefix


def test_a_record_is_read_as_it_was_written(tmp_path):
    verdict = ArmVerdict(ok=False, cause="a", cure="b", prefix=Prefix(blocks=3, output="levels"))
    verdict.write(tmp_path / "a.json")
    assert ArmVerdict.read(tmp_path / "a.json") == verdict
    assert read_json(tmp_path / "a.json")["prefix"] == {"blocks": 3, "output": "levels"}


def test_what_is_not_known_is_no_key(tmp_path):
    values = {"stage": "evaluate@lora", "seconds": 1.5, "peak_memory_bytes": 1, "peak_device_memory_bytes": 0,
              "threads": 2, "machine": {"gpu": "none"}, "revision": "unknown"}  # fmt: skip
    Cost(**values).write(tmp_path / "a.json")
    assert read_json(tmp_path / "a.json") == values
    assert Cost.read(tmp_path / "a.json") == Cost(**values)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"cause": "x"}', "ok: Field required"),
        ('{"ok": 1, "prefix": {"blocks": 3}}', "ok: Input should be a valid boolean"),
        ('{"ok": true, "prefix": {"blocks": 3, "x": 1}}', "prefix.x: Extra inputs are not permitted"),
        ("[]", "the file: Input should be a valid dictionary"),
        ("{", "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
def test_another_file_is_one_line(tmp_path, text, told):
    path = tmp_path / "a.json"
    if isinstance(text, bytes):
        path.write_bytes(text)
    else:
        write_text(path, text)
    with pytest.raises(UserError) as caught:
        ArmVerdict.read(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: {told}") and line.endswith("; `dvc repro` makes it anew")


def test_a_record_that_is_not_there_yet(tmp_path):
    with pytest.raises(UserError, match="no such file yet; `dvc repro` makes it"):
        ArmVerdict.read(tmp_path / "a.json")
