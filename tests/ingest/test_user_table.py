"""Cells of a user's table: paths of any system, angles as text, the size of a pixel."""

from pathlib import Path, PurePosixPath

import pytest

from nightshift.carm import view, view_or_none
from nightshift.console.errors import UserError
from nightshift.ingest.paths import resolved
from nightshift.ingest.user_table import frame_index, is_index, spacing

MOVED = {r"D:\angio": Path("/mnt/a"), r"D:\angio\new": Path("/mnt/b"), "/data/set/": Path("c"), r"\\nas\x": Path("/n")}


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ("p1/cine.npy", "set/p1/cine.npy"),
        (r"p1\cine.npy", "set/p1/cine.npy"),
        (r"..\set2/../set/ü 1.npy", None),
        (r"p0\..\p1/ü 1.npy", "set/p0/../p1/ü 1.npy"),
        ("/elsewhere/x.npy", "/elsewhere/x.npy"),
        (r"D:\angio\p1\cine.npy", "/mnt/a/p1/cine.npy"),
        ("d:/Angio/p1/Cine.npy", "/mnt/a/p1/Cine.npy"),  # Windows' names in any case, what follows as it is
        (r"D:\angio\new\cine.npy", "/mnt/b/cine.npy"),  # the longest
        (r"D:\angio\newer\cine.npy", "/mnt/a/newer/cine.npy"),  # whole names only
        ("/data/set/x.npy", "c/x.npy"),
        ("/data/Set/x.npy", "/data/Set/x.npy"),
        ("/data/settings/x.npy", "/data/settings/x.npy"),
        (r"\\NAS\x\y.npy", "/n/y.npy"),
    ],
)
def test_paths_of_any_system(cell, found):
    if found is None:
        with pytest.raises(UserError, match="leaves set; give an absolute path"):
            resolved(cell, Path("set"), MOVED)
        return
    assert resolved(cell, Path("set"), MOVED).as_posix() == PurePosixPath(found).as_posix()


@pytest.mark.parametrize("cell", [r"E:\x\cine.npy", "D:/angiograms/cine.npy", r"\\nas\xy\cine.npy", r"\x\cine.npy"])
def test_a_windows_drive_that_is_not_here_is_an_error(cell):
    with pytest.raises(UserError, match="is on a Windows drive; say where that is now: rewrite"):
        resolved(cell, Path("set"), MOVED)


@pytest.mark.parametrize(
    ("primary", "secondary", "degrees"),
    [
        (-30.5, 20, (-30.5, 20)),
        ("RAO 30", "CAUDAL 25", (-30, -25)),
        ("LAO 12.5", "CRA 10", (12.5, 10)),
        ("30 rao", "25° cau", (-30, -25)),
        ("30° LAO", "10,5 Cranial", (30, 10.5)),
        (" lao: 5 deg ", "cran 5", (5, 5)),
        ("rao30", "caud0", (-30, 0)),
        ("-30", "+20.0", (-30, 20)),
        ("AP", "cranial 30 degrees", (0, 30)),
        ("30 deg", "5 º", (30, 5)),
    ],
)
def test_angles_as_people_write_them(primary, secondary, degrees):
    assert view(primary, secondary) == degrees


@pytest.mark.parametrize(
    "text", ["CRA 30", "LAO", "LAO 30 RAO", "30 30", "LAO 30 CRA 20", "north 3", "LAO 200", "AP 3", "", "1e1", None]
)
def test_what_is_no_angle(text):
    with pytest.raises(UserError, match="is not a number of degrees from -180 to 180, nor as LAO 30 or RAO 30"):
        view(text, 0)
    with pytest.raises(UserError, match="nor as CRANIAL 30 or CAUDAL 30"):
        view(0, "AP")


def test_a_side_and_a_sign_and_one_of_two_angles():
    with pytest.raises(UserError, match="angle 'RAO -30' has a side and a sign"):
        view("RAO -30", 0)
    with pytest.raises(UserError, match="one of two angles"):
        view_or_none("3", "")
    assert view_or_none("", "") is None


def test_spacing_of_a_pixel():
    cells = ("", "0.3", "0.3 0.25", r"0.3\0.25", "[0.3, 0.25]", "0.3x0.25")
    assert [spacing(cell) for cell in cells] == [None, (0.3, 0.3), *[(0.3, 0.25)] * 4]
    for cell in ("0", "-1", "0,3", "1 2 3", "nan", "x"):
        with pytest.raises(UserError, match="is not millimetres"):
            spacing(cell)


@pytest.mark.parametrize("cell", ["", "-1", "1.0", "²", "٣", "1 2", "9" * 10])
def test_a_frame_index_is_ascii_digits_wherever_it_stands(cell):
    with pytest.raises(UserError, match="is not a whole number from 0"):
        frame_index(cell)
    assert not is_index(cell) and frame_index("007") == 7
