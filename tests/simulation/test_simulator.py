import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt
from skimage.morphology import skeletonize

from nightshift.simulation.anatomy import Vessel
from nightshift.simulation.projection import CArm, vessel_shadow
from nightshift.simulation.simulator import (
    ANGLE_JITTER,
    COLUMNS,
    VIEWS,
    SimulatedCase,
    Simulation,
    path_length,
    simulate_case,
    simulate_patient,
    split_patients,
    write_dataset,
)

SMALL = Simulation(patients=8, views=2, size=64, frames=3, target="artery", artery="LAD", val=0.125, test=0.25, seed=0)
FULL = replace(SMALL, size=192, frames=6)


@pytest.fixture(scope="module")
def cases() -> list[SimulatedCase]:
    """Full-size cases of every artery and of whole trees."""
    kinds = [("artery", "LAD"), ("artery", "LCX"), ("artery", "RCA"), ("tree", "LAD")]
    return [
        simulate_case(replace(FULL, target=target, artery=artery), patient, view)
        for target, artery in kinds
        for patient in range(3)
        for view in range(2)
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written")
    write_dataset(SMALL, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_same_settings_same_bytes_and_another_seed_other_bytes(written: Path, tmp_path: Path) -> None:
    seen = []
    write_dataset(SMALL, tmp_path / "again", progress=lambda patients: (seen.append(p) or p for p in patients))
    assert contents(tmp_path / "again") == contents(written)
    assert len(seen) == SMALL.patients
    write_dataset(replace(SMALL, seed=1), tmp_path / "other")
    other = contents(tmp_path / "other")
    assert all(other[name] != data for name, data in contents(written).items() if name.startswith("cines/"))


def test_a_case_hangs_on_seed_patient_and_view_only(written: Path) -> None:
    alone = simulate_case(replace(SMALL, patients=1, views=2), 5, 1)
    assert np.array_equal(np.load(written / "cines" / f"{alone.case_id}.npy"), alone.cine)


def test_written_schema(written: Path) -> None:
    text = (written / "manifest.csv").read_bytes()
    assert text.splitlines()[0].decode() == ",".join(COLUMNS)
    assert b"\r" not in text and b"\\" not in text
    assert len(rows(written)) == SMALL.patients * SMALL.views
    assert len({row["case_id"] for row in rows(written)}) == SMALL.patients * SMALL.views
    for row in rows(written):
        cine = np.load(written / row["cine_path"])
        mask = np.load(written / row["vessel_mask_actual_path"])
        assert cine.dtype == mask.dtype == np.uint8
        assert cine.shape == (SMALL.frames, SMALL.size, SMALL.size) and mask.shape == cine.shape[1:]
        assert 0 <= int(row["frame_index"]) < SMALL.frames
        contours = json.loads((written / row["contours_path"]).read_text(encoding="utf-8"))
        assert list(contours) == ["view_angles"] and list(contours["view_angles"]) == [
            "primary_angle",
            "secondary_angle",
        ]
        for angle in contours["view_angles"].values():
            assert angle == round(angle, 1)


def test_split_is_by_patient_and_of_the_asked_size(written: Path) -> None:
    split = {}
    for row in rows(written):
        assert split.setdefault(row["patient_id"], row["split"]) == row["split"]
    assert sorted(split.values()) == ["test"] * 2 + ["train"] * 5 + ["val"]
    assert split_patients(replace(SMALL, val=0.0, test=0.0)) == ["train"] * SMALL.patients


def test_mask_is_binary_not_empty_and_in_the_open_field(cases: list[SimulatedCase]) -> None:
    for case in cases:
        assert set(np.unique(case.mask)) == {0, 1}
        assert 150 < case.mask.sum() < 0.12 * case.mask.size
        # Below 20 are only the pixels behind the collimator.
        assert case.cine[:, case.mask == 1].min() >= 20


def test_one_frame_is_enough() -> None:
    case = simulate_case(replace(SMALL, frames=1), 0, 0)
    assert case.frame_index == 0 and case.mask.any()


def test_angle_convention() -> None:
    """Seen from the detector, LAO brings what is behind the heart (the spine) to the right, RAO to the left; cranial
    brings it up and what is in front of the heart (the LAD) down."""
    spine, front = np.array([[0.0, 75.0, 0.0]]), np.array([[0.0, -40.0, 0.0]])

    def move(point: np.ndarray, primary: float, secondary: float) -> np.ndarray:
        at_ap, _ = CArm(0, 0, 0.7, (0, 0), 192).project(point)
        there, _ = CArm(primary, secondary, 0.7, (0, 0), 192).project(point)
        return (there - at_ap)[0]

    row, column = move(spine, 40, 0)
    assert column > 30 and abs(row) < 1e-9
    assert move(spine, -40, 0)[1] < -30
    row, column = move(spine, 0, 30)
    assert row < -30 and abs(column) < 1e-9
    assert move(spine, 0, -30)[0] > 30
    assert move(front, 0, 30)[0] > 15
    # At AP the patient's left is at the right of the picture and the head is up.
    left_up, _ = CArm(0, 0, 0.7, (0, 0), 192).project(np.array([[10.0, 0.0, 20.0]]))
    assert left_up[0, 1] > 96 and left_up[0, 0] < 96


def test_axes_are_right_handed_and_a_source_side_point_is_magnified() -> None:
    c_arm = CArm(45, 25, 0.7, (0, 0), 192)
    assert np.allclose(c_arm.axes @ c_arm.axes.T, np.eye(3)) and np.isclose(np.linalg.det(c_arm.axes), 1)
    _, magnification = c_arm.project(np.stack([-50 * c_arm.axes[2], 0 * c_arm.axes[2], 50 * c_arm.axes[2]]))
    assert magnification[0] > 1 == magnification[1] > magnification[2]


def test_beer_lambert() -> None:
    """A straight vessel across the ray has the chord of its diameter; two of them square its transmission."""
    line = np.stack([np.arange(-20, 20, 0.3), np.zeros(134), np.zeros(134)], axis=1)
    vessel = Vessel("LAD", line, np.full(134, 2.0), np.arange(134) * 0.3)
    shadow = vessel_shadow(vessel, CArm(0, 0, 0.2, (0, 0), 128))
    full = [np.ones((1, 134))]
    one = path_length([shadow], full, 128)
    two = path_length([shadow, shadow], full * 2, 128)
    assert one.max() == pytest.approx(4.0, rel=0.01)
    assert np.allclose(np.exp(-0.07 * two), np.exp(-0.07 * one) ** 2)
    assert np.allclose(path_length([shadow], [np.full((1, 134), 0.5)], 128), one / 2)
    # Along the vessel the mean chord across it is that of a circle, pi / 4 of the diameter.
    across = one[0, :, 64]
    assert across.sum() * 0.2 == pytest.approx(np.pi * 2.0**2, rel=0.02)
    # Seen at 60 degrees from its side, the same vessel is crossed over twice the length.
    oblique = path_length([vessel_shadow(vessel, CArm(60, 0, 0.2, (0, 0), 128))], full, 128)
    assert oblique[0, 64, 64] == pytest.approx(8.0, rel=0.05)


def test_contrast_fills_over_the_frames(cases: list[SimulatedCase]) -> None:
    for case in cases:
        vessel = case.mask == 1
        grey = case.cine[:, vessel].astype(float).mean(axis=1)
        assert grey[case.frame_index] < grey[0] - 3
        assert np.all(np.diff(grey[: case.frame_index + 1]) < 1)


def test_vessels_darken_what_is_around_them_a_little(cases: list[SimulatedCase]) -> None:
    contrast = []
    for case in cases:
        frame = case.cine[case.frame_index].astype(float)
        away = distance_transform_edt(case.mask == 0)
        contrast.append(1 - frame[case.mask == 1].mean() / frame[(away > 3) & (away < 9) & (frame >= 20)].mean())
    assert 0.08 < np.median(contrast) < 0.3


def test_the_tree_holds_the_artery() -> None:
    for patient in range(4):
        tree = replace(FULL, target="tree")
        vessels, _ = simulate_patient(tree, patient, 0)
        whole = simulate_case(tree, patient, 1)
        part = simulate_case(replace(FULL, artery="LAD" if vessels[0].name == "LM" else "RCA"), patient, 1)
        assert np.array_equal(whole.cine, part.cine)
        assert np.all(whole.mask >= part.mask) and whole.mask.sum() > part.mask.sum()


def test_vessel_widths(cases: list[SimulatedCase]) -> None:
    widths = []
    for case in cases:
        widths.append(2 * distance_transform_edt(case.mask)[skeletonize(case.mask == 1)] - 0.5)
    low, high = np.percentile(np.concatenate(widths), [5, 95])
    assert low >= 1.4 and high <= 6.5


def test_views_of_a_patient_show_one_tree_at_different_angles() -> None:
    tree, first = simulate_patient(SMALL, 3, 0)
    same, second = simulate_patient(SMALL, 3, 1)
    assert first != second
    assert all(np.array_equal(a.points, b.points) for a, b in zip(tree, same, strict=True))
    another, _ = simulate_patient(SMALL, 4, 0)
    assert not np.array_equal(tree[0].points, another[0].points)
    for view, nominal in enumerate([first, second]):
        case = simulate_case(SMALL, 3, view)
        assert abs(case.primary_angle - nominal[0]) <= ANGLE_JITTER + 0.05
        assert abs(case.secondary_angle - nominal[1]) <= ANGLE_JITTER + 0.05


def test_left_trees_are_balanced_and_begin_at_the_ostium() -> None:
    """LAD and LCX must not be told apart by their calibre or their length."""
    lengths, calibres = {"LAD": [], "LCX": []}, {"LAD": [], "LCX": []}
    for patient in range(40):
        tree, _ = simulate_patient(FULL, patient, 0)
        assert tree[0].name == "LM" and tree[0].distance[0] == 0
        for vessel in tree:
            if vessel.name in lengths:
                lengths[vessel.name].append(vessel.distance[-1] - vessel.distance[0])
                calibres[vessel.name].append(2 * vessel.radii[0])
    assert np.mean(lengths["LAD"]) == pytest.approx(np.mean(lengths["LCX"]), rel=0.12)
    assert np.mean(calibres["LAD"]) == pytest.approx(np.mean(calibres["LCX"]), rel=0.05)


def test_the_lad_changes_sides_with_the_view() -> None:
    """On the mean of its course the LAD is left of the LCX in LAO cranial and right of it in RAO caudal."""
    for patient in range(10):
        tree, _ = simulate_patient(FULL, patient, 0)
        named = {vessel.name: vessel.points for vessel in tree}
        for angles, sign in [((45, 25), -1), ((-25, -25), 1)]:
            c_arm = CArm(*angles, 0.65, (0, 0), 192)
            lad, lcx = (c_arm.project(named[name])[0][:, 1].mean() for name in ("LAD", "LCX"))
            assert sign * (lad - lcx) > 0
    assert {(45, 25), (-25, -25)} <= set(VIEWS["left"])
