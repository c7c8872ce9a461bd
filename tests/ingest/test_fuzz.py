"""Whatever is in a manifest and its JSON, checking it ends in a list of problems or in one line: never a traceback."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nightshift.config.params import read
from nightshift.console.errors import UserError
from nightshift.ingest import integrity
from nightshift.ingest.manifest import COLUMNS

USUAL = ["", " ", "0", "1", "-1", "1e3", "٣", "9" * 5000, "p", "a", "train", "val", "test", "../a.npy", "/", ".", "\0"]
PATHS = ["a.npy", "mask.npy", "a.json", "not.npy", "a" * 300, "a.npy/a", "C:a.npy", "~", "\ufeffa.npy", "sub/../a.npy"]
cell = st.one_of(st.sampled_from(USUAL + PATHS), st.text(max_size=20))
right = st.tuples(
    st.sampled_from(["p", "q", "P "]), cell, st.just("a.npy"), st.sampled_from("012"),
    st.sampled_from(["mask.npy", ""]), st.just("a.json"), st.sampled_from(["train", "val", "test"]),
)  # fmt: skip
row = st.one_of(right.map(list), st.lists(cell, max_size=9), st.tuples(*[cell] * len(COLUMNS)).map(list))
number = st.one_of(st.integers(), st.floats(), st.integers(10**300, 10**400))
scalar = st.one_of(st.none(), st.booleans(), number, st.text(max_size=5))
value = st.recursive(scalar, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner)))
good = st.just({"primary_angle": 30, "secondary_angle": -20.5})
angles = st.one_of(good, st.fixed_dictionaries({}, optional={"primary_angle": value, "secondary_angle": value}))
points = st.lists(st.lists(st.one_of(st.floats(-50, 50), number), min_size=2, max_size=2), min_size=2, max_size=5)
edge = st.one_of(points, value, st.lists(points, max_size=2))
edges = {"left_edge": edge, "right_edge": edge}  # from which a mask may be drawn
view = st.one_of(value, st.fixed_dictionaries({"view_angles": st.one_of(angles, value)}, optional=edges))
contours = st.one_of(view.map(lambda one: json.dumps(one).encode()), st.binary(max_size=30), st.just(b"[" * 10**5))
plain = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}


@pytest.fixture
def chosen(checkout, change):
    """A manifest set whose files may be as bad as anyone likes; a.npy is a cine of three frames."""
    (checkout / "conf/data/mine.yaml").write_text("kind: manifest\npath: set/manifest.csv\nsplit: given\n")
    change({"use.data": "mine"})
    Path("set").mkdir()
    np.save("set/a.npy", np.random.default_rng(0).integers(0, 256, (3, 40, 40), np.uint8))
    np.save("set/mask.npy", np.uint8(np.indices((40, 40))[0] < 5))
    return read().data


def survives(chosen, header: list[str], rows: list[list[str]], of_view: bytes) -> None:
    with Path("set/manifest.csv").open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows([header, *rows])
    Path("set/a.json").write_bytes(of_view)
    try:
        found = integrity.check(chosen, iter)
        integrity.usable(found, "skip")
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert all(one.where and one.what and "\n" not in one.where + one.what for one in found.problems)


def fuzz(chosen, examples: int) -> None:
    @settings(max_examples=examples, **plain)
    @given(
        header=st.one_of(st.just(list(COLUMNS)), st.permutations(COLUMNS)), rows=st.lists(row, max_size=4), of=contours
    )
    def tried(header, rows, of):
        survives(chosen, header, rows, of)

    tried()


def test_no_manifest_ends_in_a_traceback(chosen):
    fuzz(chosen, 200)


@pytest.mark.slow
def test_no_manifest_of_two_thousand_ends_in_a_traceback(chosen):
    fuzz(chosen, 2000)


@settings(max_examples=100, **plain)
@given(of=st.binary(max_size=300))
def test_no_bytes_for_a_manifest_end_in_a_traceback(chosen, of):
    Path("set/manifest.csv").write_bytes(",".join(COLUMNS).encode() + b"\n" + of)
    try:
        integrity.check(chosen, iter)
    except UserError as error:
        assert "\n" not in str(error)


@settings(max_examples=100, **plain)
@given(
    at=st.integers(0, 200),
    of=st.binary(min_size=1, max_size=8),
    kind=st.sampled_from(["npy", "png", "jpg", "tif", "bmp", "pgm"]),
)
def test_no_damaged_picture_or_array_ends_in_a_traceback(chosen, at, of, kind):
    """The head of a file, where formats keep what they are, overwritten."""
    from PIL import Image

    from nightshift.ingest.images import picture, read_array

    frame, path = np.load("set/a.npy")[0], Path(f"set/damaged.{kind}")
    np.save(path, frame) if kind == "npy" else Image.fromarray(frame).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + of + whole[at + len(of) :])
    try:
        read_array(path) if kind == "npy" else picture(path)
    except UserError as error:
        assert "\n" not in " ".join(str(error).split())
