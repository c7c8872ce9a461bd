"""Bad input planted into a good manifest: each mistake is one line with row and file, all of them in one run."""

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers.chain import ROOT
from helpers.data import run_check, run_stage
from PIL import Image
from scipy.ndimage import gaussian_filter

from nightshift.commands import contact_sheet, planning
from nightshift.config import params
from nightshift.console.errors import run
from nightshift.core.io import read_csv
from nightshift.core.records import Skipped
from nightshift.data.dataset import read_folds
from nightshift.ingest.case_check import Rules, check_case
from nightshift.ingest.manifest import COLUMNS
from nightshift.ingest.record import SourceCase
from nightshift.reporting import text_limits
from stages import inputs, prepare

Row = dict[str, Any]
SPLITS = ("train", "val", "test")
SIZE = (48, 40)
EMPTY = "an empty mask; draw the vessel, or take the case out"
REAL = ROOT.parent / "shared/angiograms"


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(number).standard_normal(size), 1.5)
    return np.uint8(np.interp(noise, (noise.min(), noise.max()), (20, 230)))


def good(count: int) -> list[Row]:
    """Cases in set/cN, the splits in turn, a patient each, two frames in a cine; the rows of their manifest."""
    rows = []
    for n in range(count):
        folder = Path(f"set/c{n}")
        folder.mkdir(parents=True)
        np.save(folder / "cine.npy", np.stack([picture(1000 + n), picture(n)]))
        mask = np.zeros(SIZE, np.uint8)
        mask[4:20, 3:8] = 255
        mask[30, :14] = 255 * (n >> np.arange(14) & 1)  # no two alike
        np.save(folder / "mask.npy", mask)
        (folder / "view.json").write_text('{"view_angles": {"primary_angle": -30.5, "secondary_angle": 20}}')
        values = (f"p{n}", f"c{n}", f"c{n}/cine.npy", 1, f"c{n}/mask.npy", f"c{n}/view.json", SPLITS[n % 3])
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


# A mistake changes a row, or the files that it names; `other` is a good row of the split before.
Mistake = Callable[[Row, Row], object]
CINE, MASK, VIEW = "cine_path", "vessel_mask_actual_path", "contours_path"


def cell(column: str, value: Any) -> Mistake:
    return lambda row, other: row.update({column: value(row, other) if callable(value) else value})


def gone(column: str) -> Mistake:
    return lambda row, other: Path("set", row[column]).unlink()


def array(column: str, change: Callable[[np.ndarray], Any]) -> Mistake:
    def planted(row: Row, other: Row) -> None:
        path = Path("set", row[column])
        np.save(path, change(np.load(path)))

    return planted


def content(column: str, change: Callable[[bytes], bytes]) -> Mistake:
    def planted(row: Row, other: Row) -> None:
        path = Path("set", row[column])
        path.write_bytes(change(path.read_bytes()))

    return planted


def view(text: str) -> Mistake:
    return content(VIEW, lambda old: text.encode())


def angles(text: str) -> Mistake:
    return view(f'{{"view_angles": {text}}}')


def a_folder(row: Row, other: Row) -> None:
    path = Path("set", row[CINE])
    path.unlink()
    path.mkdir()


def an_archive(row: Row, other: Row) -> None:
    path = Path("set", row[CINE])
    frames = np.load(path)
    with path.open("wb") as handle:
        np.savez(handle, frames)


def frame(change: Callable[[np.ndarray], Any]) -> Mistake:
    return array(CINE, lambda cine: np.stack([change(one) for one in cine]))


def sized(*size: int) -> Mistake:
    def planted(row: Row, other: Row) -> None:
        np.save(Path("set", row[CINE]), np.stack([picture(1, size), picture(2, size)]))
        np.save(Path("set", row[MASK]), np.uint8(np.indices(size)[0] < 5))

    return planted


def saved_anew(row: Row, other: Row) -> None:
    """The other's frame, brighter, 2 % larger, as a JPEG."""
    old = np.load(Path("set", other[CINE]))[1]
    larger = Image.fromarray(np.uint8(np.clip(old + 5.0, 0, 255))).resize((41, 49), Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    larger.save(stream, "JPEG", quality=75)
    np.save(Path("set", row[CINE]), np.stack([np.asarray(Image.open(stream))] * 2))
    np.save(Path("set", row[MASK]), np.uint8(np.indices((49, 41))[0] < 5))


def same_frame(row: Row, other: Row) -> None:
    np.save(Path("set", row[CINE]), np.load(Path("set", other[CINE])))


def same_mask(row: Row, other: Row) -> None:
    np.save(Path("set", row[MASK]), np.load(Path("set", other[MASK])))


def in_two_splits(row: Row, other: Row) -> None:
    row["patient_id"] = other["patient_id"]


def spelled_apart(row: Row, other: Row) -> None:
    row["patient_id"] = other["patient_id"].upper()


NEST = "[" * 100_000
# What is planted, and what its line says besides the row; {row} and {other} are the numbers of the two cases.
MISTAKES: dict[str, tuple[Mistake, str]] = {
    "no cine": (gone(CINE), "set/c{row}/cine.npy: not readable"),
    "no mask": (gone(MASK), "set/c{row}/mask.npy: not readable"),
    "no contours": (gone(VIEW), "set/c{row}/view.json: no such file"),
    "a folder as cine": (a_folder, "set/c{row}/cine.npy: not readable"),
    "cine truncated": (content(CINE, lambda old: old[:-100]), "set/c{row}/cine.npy: not readable"),
    "cine empty": (content(CINE, lambda old: b""), "set/c{row}/cine.npy: not readable"),
    "cine of text": (content(CINE, lambda old: b"no array\n"), "set/c{row}/cine.npy: not readable"),
    "cine pickled": (array(CINE, lambda old: np.array([{}])), "set/c{row}/cine.npy: not readable"),
    "cine archive": (an_archive, "set/c{row}/cine.npy: an archive"),
    "cine of five dimensions": (array(CINE, lambda old: old[None, ..., None]), "set/c{row}/cine.npy: uint8 of shape"),
    "cine of no frames": (array(CINE, lambda old: old[:0]), "but set/c{row}/cine.npy has 0 frames"),
    "cine with NaN": (array(CINE, lambda old: np.where(old > 99, np.nan, old)), "set/c{row}/cine.npy: "),
    "frame out of range": (cell("frame_index", 2), "frame_index 2 but set/c{row}/cine.npy has 2 frames"),
    "frame negative": (cell("frame_index", -1), "frame_index '-1' is not a whole number"),
    "frame with a point": (cell("frame_index", "1.0"), "frame_index '1.0' is not a whole number"),
    "frame of 5,000 digits": (cell("frame_index", "9" * 5000), "frame_index '99999999999999999999' is not"),
    "frame empty": (cell("frame_index", ""), "frame_index is empty"),
    "mask truncated": (content(MASK, lambda old: old[:-1]), "set/c{row}/mask.npy: not readable"),
    "mask pickled": (array(MASK, lambda old: np.array([{}])), "set/c{row}/mask.npy: not readable"),
    "mask transposed": (array(MASK, lambda old: old.T), "set/c{row}/mask.npy: mask of (40, 48) pixels"),
    "mask of half the size": (array(MASK, lambda old: old[::2, ::2]), "set/c{row}/mask.npy: mask of (24, 20) pixels"),
    "mask in colour": (array(MASK, lambda old: np.stack([old] * 3, 2)), "set/c{row}/mask.npy: uint8 of shape (48, 40"),
    "mask of labels": (array(MASK, lambda old: np.uint8(np.indices(SIZE)[1] % 3)), "mask.npy: mask with values [0, 1"),
    "mask empty": (array(MASK, lambda old: 0 * old), "set/c{row}/mask.npy: an empty mask"),
    "mask inverted": (array(MASK, lambda old: 255 - old), "set/c{row}/mask.npy: a mask that marks 9"),
    "mask of everything": (array(MASK, lambda old: old | 255), "set/c{row}/mask.npy: a mask that marks 100%"),
    "mask of another case": (same_mask, "the very mask of case 'c{other}' (set/manifest.csv, line {other_line})"),
    "frame constant": (frame(lambda old: 0 * old + 7), "set/c{row}/cine.npy: every pixel of the frame is 7"),
    "frame nearly black": (frame(lambda old: old // 64), "set/c{row}/cine.npy: grey values from 0 to 3 only"),
    "a mask as frame": (frame(lambda old: 255 * np.uint8(old > 99)), "set/c{row}/cine.npy: a frame of nothing but 0"),
    "frame tiny": (sized(31, 200), "set/c{row}/cine.npy: a frame of 31 x 200 pixels"),
    "frame huge": (sized(40, 8193), "set/c{row}/cine.npy: a frame of 40 x 8193 pixels"),
    "contours no JSON": (view("{"), "set/c{row}/view.json: not readable as JSON"),
    "contours a list": (view("[1, 2]"), "set/c{row}/view.json: no view angles in it"),
    "contours nested deeply": (view(NEST), "set/c{row}/view.json: not readable as JSON"),
    "no angles": (view('{"contours": []}'), "set/c{row}/view.json: no view angles in it"),
    "one angle": (angles('{"primary_angle": 1}'), "set/c{row}/view.json: no view angles in it"),
    "angle null": (angles('{"primary_angle": null, "secondary_angle": 1}'), "set/c{row}/view.json: angle None is not"),
    "angle of text": (angles('{"primary_angle": "N", "secondary_angle": 1}'), "set/c{row}/view.json: angle 'N' is not"),
    "angle NaN": (angles('{"primary_angle": NaN, "secondary_angle": 1}'), "set/c{row}/view.json: angle nan is not"),
    "angle of 200": (angles('{"primary_angle": 1, "secondary_angle": 200}'), "set/c{row}/view.json: angle 200 is not"),
    "angle of 400 digits": (angles(f'{{"primary_angle": 1{"0" * 400}, "secondary_angle": 1}}'), "is not a number"),
    "no case id": (cell("case_id", ""), "case_id is empty"),
    "no patient id": (cell("patient_id", ""), "patient_id is empty"),
    "no cine path": (cell(CINE, ""), "cine_path is empty"),
    "case twice": (cell("case_id", lambda row, other: other["case_id"]), "case 'c{other}' is there twice"),
    "split unknown": (cell("split", "Train"), "split 'Train'; expected train, val, test"),
    "split empty": (cell("split", ""), "split ''; expected train, val, test"),
    "patient in two splits": (in_two_splits, "patient 'p{other}' is in {split} (case 'c{row}') and in {other_split}"),
    "patient spelled apart": (spelled_apart, "patient 'P{other}' is 'p{other}' in case 'c{other}'"),
    "path that leaves": (cell(CINE, "../set/c0/cine.npy"), "../set/c0/cine.npy leaves set"),
    "path with NUL": (cell(MASK, "c0/\0.npy"), "path 'c0/\\x00.npy' has a zero byte in it"),
    "a comma too many": (cell("split", "train,val"), "more cells than columns"),
    "frame of another split": (same_frame, "set/c{row}/cine.npy: in {split}, and the very frame of case 'c{other}' in"),
    "frame saved anew": (saved_anew, "set/c{row}/cine.npy: in {split}, and nearly the frame of case 'c{other}' in"),
}  # fmt: skip


@pytest.fixture
def mine(checkout, change, monkeypatch) -> Callable[..., None]:
    """mine(): the data set is set/manifest.csv; no contact sheet, which takes a second."""
    monkeypatch.setattr(contact_sheet, "write_contact_sheet", lambda path, cases: len(cases))
    (checkout / "conf/data/mine.yaml").write_text("kind: manifest\npath: set/manifest.csv\nsplit: given\n")
    return lambda values=None: change({"use.data": "mine"} | (values or {}))


def planted(rows: list[Row], name: str, number: int, other: int) -> tuple[int, str]:
    """Plant a mistake; the line number of its row, and what is said."""
    mistake, said = MISTAKES[name]
    facts = {"row": number, "other": other, "other_line": other + 2}
    facts |= {"split": rows[number]["split"], "other_split": rows[other]["split"]}
    mistake(rows[number], rows[other])
    return number + 2, said.format(**facts)


def write(rows: list[Row]) -> None:
    """As users' own tools write it: a comma is not quoted."""
    lines = [COLUMNS, *([str(row[column]) for column in COLUMNS] for row in rows)]
    Path("set/manifest.csv").write_bytes("".join(",".join(line) + "\n" for line in lines).encode())


def outcome(stage: Callable[[], object], capsys) -> tuple[int, list[str], str]:
    """Exit status, the lines of the table on stdout, and stderr."""
    with pytest.raises(SystemExit) as caught:
        run(stage)
    out, err = capsys.readouterr()
    return caught.value.code, [line for line in out.splitlines() if line.startswith(("set/", "conf/"))], err


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_one_line_with_its_row(mine, capsys, name):
    mine()
    rows = good(9)
    line, said = planted(rows, name, 6, 5)  # of train, the other of test
    write(rows)
    status, table, err = outcome(run_check, capsys)
    assert (status, table) == (1, []), table  # the one problem is the error, and is not said twice
    assert err.count("\n") == 1 and err.startswith(f"error: set/manifest.csv, line {line}: ") and said in err
    (problem,) = read_csv("reports/check/problems.csv")
    assert problem["where"] == f"set/manifest.csv, line {line}" and said in problem["what"]
    assert outcome(lambda: run_stage(prepare), capsys) == (1, table, err)
    assert not Path("data").exists() and not Path("reports/skipped.json").exists()


def all_planted() -> list[tuple[int, str]]:
    """One set with every mistake, each in a row of train, beside as many good cases in val and test; what is said."""
    rows = good(3 * len(MISTAKES) + 1)
    expected = [planted(rows, name, 3 * i + 3, 3 * i + 2) for i, name in enumerate(MISTAKES)]
    write(rows)
    return expected


def test_all_mistakes_in_one_set_are_reported_in_one_run(mine, capsys):
    mine()
    expected = all_planted()
    status, table, err = outcome(lambda: run_stage(prepare), capsys)
    assert status == 1 and err.count("\n") == 1 and f"the {len(MISTAKES)} problems listed above" in err
    assert len(table) == len(MISTAKES) >= 40
    for (line, said), shown in zip(expected, table, strict=True):
        assert shown.startswith(f"set/manifest.csv, line {line} ") and said in shown
    assert not Path("data").exists()
    assert outcome(run_check, capsys) == (status, table, err)
    assert len(read_csv("reports/check/problems.csv")) == len(MISTAKES)


def test_skip_leaves_out_what_is_wrong_and_the_report_says_so(mine, capsys):
    mine({"prepare.on_problem": "skip", "encoder.weights": "random"})
    count = len(MISTAKES)
    all_planted()
    run_check()
    assert f"1 train, {count} val, {count} test cases; {count} would be left out" in capsys.readouterr().out
    assert planning.fold_sizes(params.read().data)[0].val == count
    run_stage(inputs)
    run_stage(prepare)
    assert f"1 train, {count} val, {count} test cases, {count} left out" in capsys.readouterr().out
    assert read_folds().folds[0].train == ["c0"]
    (said,) = text_limits.left_out(Skipped.read(Path("reports/skipped.json")))
    first = "set/manifest.csv, line 5: set/c3/cine.npy: not readable as a NumPy array"
    assert f"Of {3 * count + 1} cases" in said and first in said and f"{count - 3} more in reports/skipped.json" in said
    (said,) = text_limits.left_out(Skipped.read(Path("reports/skipped.json")), named=False)
    assert said == f"Cases with problems were left out ({count} problems), which can bias a comparison."
    assert text_limits.left_out(Skipped(total=3, skipped=[])) == []


def test_an_empty_split_is_a_problem_of_the_whole(mine, capsys):
    rows = good(9)
    for on_problem in ("stop", "skip"):
        mine({"prepare.on_problem": on_problem})
        write([row for row in rows if row["split"] != "val"])
        status, table, err = outcome(lambda: run_stage(prepare), capsys)
        assert (status, table) == (1, []) and "conf/data/mine.yaml: no case in val" in err
        write([])
        assert outcome(lambda: run_stage(prepare), capsys)[2] == "error: conf/data/mine.yaml: no case in it\n"


def test_angles_are_asked_for_where_they_are_used(mine, pictures, change, capsys):
    change({"images": "images", "masks": "masks"}, "conf/data/angiograms.yaml")
    for name in "abcd":
        Image.fromarray(picture(ord(name))).save(f"images/{name}.png")
        Image.fromarray(np.uint8(255 * (np.indices(SIZE)[1] < ord(name) - 90))).save(f"masks/{name}.png")
    asked = ["use.data=angiograms"]
    status, table, err = outcome(lambda: run_check(*asked), capsys)
    assert (status, table) == (1, []) and "no case has view angles" in err and "-S view.mode=none" in err
    run_check(*asked, "view.mode=none")
    assert "2 train, 1 val, 1 test cases; nothing is wrong" in capsys.readouterr().out


def test_frames_of_one_patient_and_of_one_split_may_be_alike(mine, capsys):
    mine()
    rows = good(12)
    for row in (rows[3], rows[6]):  # two frames of the first patient's cine, and the same frame of another in one split
        same_frame(row, rows[0])
        row["frame_index"] = 0 if row is rows[3] else 1
    rows[3]["patient_id"] = "p0"
    write(rows)
    run_check()
    assert "nothing is wrong" in capsys.readouterr().out


@pytest.mark.slow
def test_ten_thousand_rows_are_checked_in_a_minute_and_in_a_gigabyte(mine):
    mine()
    write(good(10_000))
    start, most = time.monotonic(), 0
    with subprocess.Popen(
        [sys.executable, "-m", "nightshift", "check"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    ) as done:
        while done.poll() is None:
            most = max(most, psutil.Process(done.pid).memory_info().rss)
            time.sleep(0.05)
        said = done.stdout.read().decode()
    seconds = time.monotonic() - start
    print(f"10,000 rows: {seconds:.1f} s, {most / 1e9:.2f} GB")
    assert "3334 train, 3333 val, 3333 test cases; nothing is wrong" in said
    assert seconds < 60 and most < 1e9


def test_where_the_preset_says_that_there_is_nothing_to_see_an_empty_mask_is_none_to_draw(tmp_path):
    """COCO's `unannotated: empty`; two such images are not copies of one mask either."""
    frame = picture(1)
    case = SourceCase("c", "p", None, "", (tmp_path / "a.png",), lambda: (frame, np.zeros(SIZE, np.uint8)))
    assert check_case(case, Rules()).mistakes == [f"{tmp_path / 'a.png'}: {EMPTY}"]
    allowed = check_case(case, Rules(allow_empty=True))
    assert not allowed.mistakes and not allowed.mask and allowed.frame
