"""The same patients as manifest, folder, DICOM and COCO: the same frames, masks and angles."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.data import FOLDER, MANIFEST, source_cases
from helpers.dicoms import write_dicom
from PIL import Image
from pycocotools import mask as runs
from skimage.measure import find_contours

from nightshift.config.presets import Coco, Dicom
from nightshift.ingest import manifest
from nightshift.simulation import simulator
from nightshift.simulation.simulator import Simulation, simulate_case, write_dataset

TWELVE = Simulation(12, 1, 160, 4, "artery", "LAD", val=0.25, test=0.25, seed=3)
DICOM = Dicom(kind="dicom", images="dicom", masks="dicom", split="made")
COCO = Coco(kind="coco", annotations="rle.json", images="images", categories=["LAD"], split="made")


@pytest.fixture(scope="module")
def simulated():
    return [simulate_case(TWELVE, patient, 0) for patient in range(TWELVE.patients)]


@pytest.fixture
def written(checkout, simulated):
    """The twelve in set/ (manifest), images/ and masks/ (folder), dicom/, rle.json and polygons.json (images/)."""
    write_dataset(TWELVE, Path("set"))
    for folder in ("images", "masks", "dicom"):
        Path(folder).mkdir()
    both = {"rle": [], "polygons": []}
    for number, case in enumerate(simulated):
        Image.fromarray(case.cine[case.frame_index]).save(f"images/{case.case_id}.png")
        Image.fromarray(255 * case.mask).save(f"masks/{case.case_id}.png")
        Image.fromarray(255 * case.mask).save(f"dicom/{case.case_id}_f{case.frame_index}.png")
        # The C-arm turns: the angle of the frame is that of the first one and what it has moved by since.
        moved = [float(n - case.frame_index) for n in range(len(case.cine))]
        write_dicom(
            f"dicom/{case.case_id}.dcm",
            case.cine,
            PatientID=case.patient_id,
            PatientIdentityRemoved="YES",
            PositionerPrimaryAngle=f"{case.primary_angle + moved[0]:.1f}",
            PositionerPrimaryAngleIncrement=[f"{by - moved[0]:.1f}" for by in moved],
            PositionerSecondaryAngle=f"{case.secondary_angle:.1f}",
        )
        # A left and a right half, two instances: a vessel that crosses itself would have a hole, unknown to polygons.
        for cut in (slice(0, 80), slice(80, 160)):
            half = np.zeros_like(case.mask)
            half[:, cut] = case.mask[:, cut]
            if half.any():
                packed = runs.encode(np.asfortranarray(half))
                both["rle"].append((number, packed | {"counts": packed["counts"].decode()}))
                both["polygons"].append((number, polygons(half)))
    for name, shapes in both.items():
        write_coco(Path(f"{name}.json"), simulated, shapes)


def polygons(mask: np.ndarray) -> list[list[float]]:
    """Outlines as COCO has them: x, y, where the middle of the first pixel is (0.5, 0.5)."""
    found = find_contours(np.pad(mask, 1), 0.5)  # its first pixel has its middle at (1, 1)
    return [(outline[:-1, ::-1] - 0.5).ravel().tolist() for outline in found]


def write_coco(path, simulated, shapes):
    images = [
        {
            "id": number,
            "file_name": f"{case.case_id}.png",
            "height": 160,
            "width": 160,
            "patient_id": case.patient_id,
            "primary_angle": case.primary_angle,
            "secondary_angle": case.secondary_angle,
        }
        for number, case in enumerate(simulated)
    ]
    annotations = [
        {"id": i, "image_id": number, "category_id": 7, "segmentation": shape}
        for i, (number, shape) in enumerate(shapes, start=1)
    ]
    categories = [{"id": 7, "name": "LAD"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def arrays(source):
    """Of each case what is to agree, in the order of the patients."""
    cases = sorted(source_cases(source), key=lambda case: case.case_id)
    return cases, [case.read() for case in cases]


def test_four_sources_agree(written):
    cases, wanted = arrays(MANIFEST)
    assert len(cases) == 12
    assert all(0 < mask.sum() < mask.size / 4 for _, mask in wanted)
    for source in (FOLDER, DICOM, COCO):
        others, found = arrays(source)
        assert len(others) == 12
        for mine, other, one, two in zip(cases, others, wanted, found, strict=True):
            assert other.case_id.startswith(mine.case_id)
            np.testing.assert_array_equal(one, two)
            if source is not FOLDER:  # pictures alone have no angles
                assert other.angles == pytest.approx(mine.angles, abs=1e-9)
    groups = [case.patient_id for case in arrays(DICOM)[0]]
    assert len(set(groups)) == 12


def test_polygons_are_the_mask_but_for_a_fiftieth(written):
    _, wanted = arrays(MANIFEST)
    _, found = arrays(COCO.model_copy(update={"annotations": "polygons.json"}))
    for (frame, mask), (other, drawn) in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(frame, other)
        assert (mask & drawn).sum() / (mask | drawn).sum() >= 0.98


def test_the_simulator_writes_the_columns_of_a_manifest():
    assert tuple(simulator.COLUMNS) == manifest.COLUMNS
