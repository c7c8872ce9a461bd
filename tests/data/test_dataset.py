"""Prepared cases and their shards: what was written is read again."""

import numpy as np
from helpers.data import source_case, written

from nightshift.data import shards


def test_prepared_cases_keep_native_sizes_values_and_angles(tmp_path):
    raw = [source_case(1, "p"), source_case(30, angles=None)]
    prepared = written(tmp_path / "train", raw)
    for i, one in enumerate(raw):
        frame, mask = one.read()
        np.testing.assert_array_equal(prepared[i].frame, frame)
        np.testing.assert_array_equal(prepared[i].mask, mask)
        assert all(getattr(prepared[i], name) == getattr(one, name) for name in ("case_id", "patient_id", "angles"))
    assert [r["width"] for r in prepared.rows] == ["41", "70"]


def test_shards_over_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "LIMIT", 100)
    arrays = {f"a{n}": np.full((n, 2), n, np.float32) for n in (5, 6, 7, 20, 1)} | {"b": np.ones((3, 5), np.uint8).T}
    with shards.shard_writer(tmp_path / "s") as add:
        for name, array in arrays.items():
            add(name, array)
    found = shards.Shards(tmp_path / "s")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    index = {name: int(file[6:11]) for name, file in found.index.items()}
    assert index == {"a5": 0, "a6": 0, "a7": 1, "a20": 2, "a1": 3, "b": 3}  # 88 bytes, then 56, 160, and 23
    with shards.shard_writer(tmp_path / "none"):
        pass
    assert shards.Shards(tmp_path / "none").index == {}
