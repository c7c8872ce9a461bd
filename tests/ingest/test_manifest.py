"""What a user's manifest may hold: paths of another system, pixels of any kind, masks from contours."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.data import MANIFEST, fails, source_case, source_cases, write_manifest
from PIL import Image

from nightshift.config import params
from nightshift.console.errors import UserError
from nightshift.data.dataset import FIELDS, Cases
from nightshift.ingest.contours import draw_mask
from nightshift.ingest.manifest import COLUMNS
from nightshift.ingest.prepared import write_cases
from nightshift.ingest.record import Problems
from nightshift.ingest.sources import list_cases, source_files
from nightshift.ingest.windowing import to_uint8

HERE = Path("here.npy")


def test_a_manifest_from_windows(manifest, change):
    kept = ("cine_path", "vessel_mask_actual_path", "contours_path")
    write_manifest([row | {name: "D:\\angio\\" + row[name].replace("/", "\\") for name in kept} for row in manifest])
    fails(r"set/manifest.csv, line 2: 'D:\angio\p0\cine.npy' is on a Windows drive")
    Path("conf/data/mine.yaml").write_text(
        'kind: manifest\npath: set/manifest.csv\nsplit: given\nrewrite: {"D:\\\\angio": set}\nwindow: [0, 4095]\n'
    )
    change({"use.data": "mine"})
    mine = params.read().source
    assert (source_cases(mine)[1].read()[0] == 12).all()
    assert len(source_files(mine)) == 7


@pytest.mark.parametrize("window", ["[1]", "[5, 5]", "all", "[a, b]", "[1, 2, 3]"])
def test_a_bad_window_is_named(checkout, change, window):
    Path("conf/data/mine.yaml").write_text(f"kind: manifest\npath: m.csv\nsplit: given\nwindow: {window}\n")
    change({"use.data": "mine"})
    with pytest.raises(UserError, match=r"mine.yaml: window: expected own, or two grey values, black and white"):
        _ = params.read().source


def put_contours(**content) -> None:
    Path("set/p0/contours.json").write_text(json.dumps(content), encoding="utf-8-sig")


def test_angles_under_either_name(manifest):
    put_contours(view_angles={"primary": "RAO 30", "secondary_angle": -20})
    assert source_cases(MANIFEST)[0].angles == (-30, -20)
    put_contours(view_angles={"primary": 3, "primary_angle": 4, "secondary": 0})
    fails("set/manifest.csv, line 2: set/p0/contours.json: primary_angle 4 and primary 3; keep the right one")
    put_contours(view_angles=None)
    fails("no view angles in it")


@pytest.mark.parametrize(
    ("text", "angles"),
    [
        ('{"points": [[1, 2], [3, 4]], "view_angles" : {"primary": 5, "secondary": 6}, "left": {"a": [1]}}', (5, 6)),
        ('{"a": {"view_angles": {"primary": 5, "secondary": 6}}}', None),
        ('[{"view_angles": {"primary": 5, "secondary": 6}}]', None),
        ('{"a": {"view_angles": 1}, "view_angles": {"primary": 5, "secondary": 6}}', (5, 6)),
        ('{"a": "}", "view_angles": {"primary": 5, "secondary": 6}}', (5, 6)),
        ('{"view_angles": {"primary": 5, "secondary"', None),
        ('{"a": "view_angles"}', None),
        ('{"a": "view_angles", "b": {"primary": 5, "secondary": 6}}', None),
        ("", None),
    ],
)
def test_angles_are_found_without_reading_all_the_points(manifest, text, angles):
    path = Path("set/p0/contours.json")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(text, encoding=encoding)
        if angles is None:
            fails("set/manifest.csv, line 2: set/p0/contours.json: ")
            fails("no view angles in it; expected")
        else:
            assert source_cases(MANIFEST)[0].angles == angles


CINE = np.arange(2 * 6 * 9).reshape(2, 6, 9)


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int16, np.float32, np.float64])
def test_more_than_eight_bits_by_the_cines_own_range_or_a_window(dtype):
    cine = (CINE * 30).astype(dtype)
    own = to_uint8(cine[1], None, HERE, cine)
    np.testing.assert_array_equal(own, np.round(CINE[1] * 255 / 107))
    assert own.dtype == np.uint8 and own.min() > 120  # the second frame is the brighter one, and stays it
    fixed = to_uint8(cine[1], (2000, 3000), HERE, cine)
    np.testing.assert_array_equal(fixed, np.clip(np.round((CINE[1] * 30 - 2000) * 0.255), 0, 255))
    assert (to_uint8(cine[0] * 0 + 7, None, HERE) == 0).all()


def test_eight_bits_are_taken_as_they_are():
    np.testing.assert_array_equal(to_uint8(CINE[0].astype(np.uint8), (10, 20), HERE), CINE[0])


def test_colours_become_luma_as_in_pillow():
    colours = np.random.default_rng(0).integers(0, 256, (3, 6, 9, 4), dtype=np.uint8)
    luma = np.asarray(Image.fromarray(colours[1, ..., :3]).convert("L"))
    for channels in (colours, colours[..., :3]):
        np.testing.assert_array_equal(to_uint8(channels[1], None, HERE, channels), luma)
    np.testing.assert_array_equal(to_uint8(colours[1, ..., :1], None, HERE, colours[..., :1]), colours[1, ..., 0])
    wide = colours.astype(np.uint16) * 16
    wide[..., :3].flat[:2], wide[..., 3] = (0, 255 * 16), 65535  # alpha is no grey value
    np.testing.assert_array_equal(to_uint8(wide[1], None, HERE, wide), luma)


@pytest.mark.parametrize(
    ("cine", "said"),
    [
        (np.zeros((3, 6, 9, 2)), "2 channels in a frame of (6, 9, 2)"),
        (np.zeros((3, 3, 6, 9)), "9 channels"),
        (np.zeros((6, 9, 3), np.uint8), "is a mask or one frame in colour"),
        (np.zeros((3, 6, 9), bool), "is a mask or one frame in colour"),
        (np.zeros((3, 6, 9), complex), "pixels of type complex128"),
        (np.full((3, 6, 9), np.nan), "not finite"),
        (np.full((3, 6, 9), np.inf), "not finite"),
    ],
)
def test_cines_that_are_none(manifest, cine, said):
    np.save("set/p0/cine.npy", cine)
    fails(said)
    fails("set/manifest.csv, line 2: set/p0/cine.npy: ")


def test_what_only_begins_like_an_archive_is_no_array(manifest):
    Path("set/p0/cine.npy").write_bytes(b"PK\x03\x04" + bytes(40))
    fails("set/p0/cine.npy: not readable as a NumPy array")


def test_cines_of_16_bits_and_of_colours_in_a_manifest(manifest):
    np.save("set/p0/cine.npy", np.stack([np.full((6, 9), v, np.uint16) for v in (100, 200, 1100)]))
    assert (source_cases(MANIFEST)[0].read()[0] == 26).all()  # (200 - 100) * 255 / 1000
    np.save("set/p0/cine.npy", np.full((3, 6, 9, 3), 77, np.uint8))
    assert (source_cases(MANIFEST)[0].read()[0] == 77).all()


def test_masks_as_pictures_and_of_other_numbers(manifest):
    mask = np.load("set/p0/mask.npy")
    Image.fromarray(mask).save("set/p0/mask.PNG")
    write_manifest([manifest[0] | {"vessel_mask_actual_path": "p0/mask.PNG"}])
    np.testing.assert_array_equal(source_cases(MANIFEST)[0].read()[1], mask > 0)
    write_manifest(manifest)
    for dtype in (np.uint16, np.float32, np.int64):
        np.save("set/p0/mask.npy", mask.astype(dtype))
        np.testing.assert_array_equal(source_cases(MANIFEST)[0].read()[1], mask > 0)
    np.save("set/p0/mask.npy", np.where(mask, np.nan, 0))
    fails("float64 of shape (6, 9); expected numbers with 2 dimensions")


def test_the_preset_says_which_column_has_the_masks(manifest):
    np.save("set/p0/pseudo.npy", np.eye(6, 9, dtype=np.uint8))
    rows = [manifest[0] | {"vessel_mask_pseudo_path": "p0/pseudo.npy", "vessel_mask_actual_path": "gone.npy"}]
    columns = [c for c in (*COLUMNS, "vessel_mask_pseudo_path") if c != "vessel_mask_actual_path"]
    pseudo = MANIFEST.model_copy(update={"mask": "vessel_mask_pseudo_path"})
    for some in (columns, [*columns, "vessel_mask_actual_path"]):
        write_manifest(rows, some)
        (case,) = source_cases(pseudo)
        assert case.read()[1].sum() == 6 and Path("set/p0/pseudo.npy") in case.files
    fails("column no_path missing; it has patient_id, case_id,", MANIFEST.model_copy(update={"mask": "no_path"}))


LEFT, RIGHT = [[1, 1], [5, 1], [7, 1]], [[1, 3], [4, 3], [7, 3]]
BAR = np.zeros((6, 9), np.uint8)
BAR[1:4, 1:8] = 1


@pytest.mark.parametrize(
    "content",
    [
        {"left_edge": LEFT, "right_edge": RIGHT},
        {"left_edge": LEFT, "right_edge": RIGHT[::-1]},  # as a hand goes round
        {"left_edge": [LEFT[:2], LEFT[1:]], "right_edge": [[[1, 3], [5, 3]], [[5, 3], [7, 3]]]},
        {"vessels": [{"name": "LAD", "left_edge": LEFT, "right_edge": RIGHT}, {"left_edge": LEFT, "right_edge": LEFT}]},
    ],
)
def test_a_mask_is_drawn_from_the_edges_where_there_is_none(manifest, content):
    write_manifest([manifest[0] | {"vessel_mask_actual_path": ""}])
    put_contours(view_angles={"primary": 1, "secondary": 2}, **content)
    (case,) = source_cases(MANIFEST)
    frame, mask = case.read()
    assert (frame == 1).all() and mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, BAR)
    assert case.files == (Path("set/p0/cine.npy"), Path("set/p0/contours.json"))


def test_edges_beyond_the_frame_are_cut_and_bad_ones_are_named():
    far = {"left_edge": [[-9, 2], [30, 2]], "right_edge": [[-9, 3.4], [30, 3.4]]}
    np.testing.assert_array_equal(draw_mask(far, (6, 9), HERE), np.isin(np.indices((6, 9))[0], (2, 3)))
    for left, right, said in (
        (LEFT, None, "is not a list of two or more points"),
        (LEFT, [[1, 2]], "is not a list of two or more points"),
        (LEFT, [[1, 2, 3], [4, 5, 6]], "is not a list of two or more points"),
        (LEFT, [[1, 2], [3]], "is not a list of two or more points"),
        (LEFT, [[1, float("nan")], [3, 4]], "is not a list of two or more points"),
        (LEFT, [RIGHT, RIGHT], "1 segments of left_edge and 2 of right_edge"),
        ([[50, 50], [60, 50]], [[50, 60], [60, 60]], "enclose no pixel"),
    ):
        with pytest.raises(UserError, match=f"here.npy: .*{said}"):
            draw_mask({"left_edge": left, "right_edge": right}, (6, 9), HERE)


def test_a_table_out_of_excel(manifest):
    lines = [
        ";".join(COLUMNS) + ";phase",
        *(";".join(map(str, r.values())) + "; systole " for r in manifest),
        ";;;;;;;",
    ]
    Path("set/manifest.csv").write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    found = source_cases(MANIFEST)
    assert [case.groups for case in found] == [{"phase": "systole"}] * 2
    assert found[1].where.endswith("manifest.csv, line 3")


def test_every_row_with_a_mistake_is_kept_as_a_line_and_the_others_are_read(manifest):
    rows = [manifest[0], manifest[0] | {"case_id": ""}, manifest[1], manifest[0] | {"frame_index": "²"}]
    write_manifest([*rows, manifest[0] | {"case_id": "x", "spacing": "wide"}], (*COLUMNS, "spacing"))
    with Path("set/manifest.csv").open("a") as handle:
        handle.write("p,c,a,0,m,j,train,0.3,more\n")
    problems = Problems()
    assert [case.case_id for case in list_cases(MANIFEST, problems)] == ["c0", "c1"]
    assert [line.split(": ")[0][-6:] for line in problems] == ["line 3", "line 5", "line 6", "line 7"]
    assert "spacing 'wide' is not millimetres per pixel" in problems[2] and "more cells than columns" in problems[3]
    write_manifest(manifest, (*COLUMNS, "split"))
    fails("column split is there twice")


def test_further_columns_and_spacing_travel_with_the_test_cases(manifest, tmp_path):
    more = {"cass_segment": "6", "height": "tall", "spacing": "0.3", "other_path": "x"}
    write_manifest([row | more for row in manifest], (*COLUMNS, *more))
    raw = source_cases(MANIFEST)
    assert raw[0].groups == {"cass_segment": "6", "height": "tall"} and raw[0].spacing == (0.3, 0.3)
    write_cases(tmp_path, [*raw, source_case(1)], iter)
    first, _, last = Cases(tmp_path, details=True)
    assert first.groups == {"cass_segment": "6", "source_height": "tall"} and first.spacing == (0.3, 0.3)
    assert last.groups == {"cass_segment": "", "source_height": ""} and last.spacing is None
    assert tuple(Cases(tmp_path).rows[0]) == FIELDS
