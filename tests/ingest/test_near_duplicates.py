"""Frames that are saved twice are found; those of other patients are not taken for one."""

import io

import numpy as np
import pytest
import yaml
from helpers.chain import ROOT
from PIL import Image

from nightshift.ingest import near_duplicates
from nightshift.simulation.simulator import Simulation, simulate_case

REAL = ROOT.parent / "shared/angiograms"


def twins(frame: np.ndarray) -> dict[str, np.ndarray]:
    """The same picture, as it comes to be in a data set twice."""

    def jpeg(array: np.ndarray) -> np.ndarray:
        stream = io.BytesIO()
        Image.fromarray(array).save(stream, "JPEG", quality=75)
        return np.asarray(Image.open(stream))

    def resized(array: np.ndarray, scale: float) -> np.ndarray:
        size = [round(side * scale) for side in array.shape[::-1]]
        return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BICUBIC))

    brighter = np.uint8(np.clip(frame + 5.0, 0, 255))
    larger, (height, width) = resized(frame, 1.02), frame.shape
    return {
        "jpeg": jpeg(frame),
        "brighter": brighter,
        "scaled": resized(frame, 1.02),
        "half": resized(frame, 0.5),
        "zoomed": larger[larger.shape[0] // 100 :, larger.shape[1] // 100 :][:height, :width],
        "all": jpeg(resized(brighter, 1.02)),
    }


def found_and_false(frames: list[np.ndarray], patients: list[int]) -> tuple[float, float]:
    """The least correlation of a frame with a twin of it, and the greatest with a frame of another patient."""
    sketches, units = np.stack([near_duplicates.sketch(frame) for frame in frames]), np.array(patients)
    _, false = near_duplicates.nearest(sketches, sketches, units, units)
    found = [
        float(near_duplicates.sketch(twin) @ sketch)
        for frame, sketch in zip(frames[:100], sketches, strict=False)
        for twin in twins(frame).values()
    ]
    return min(found), float(false.max())


@pytest.mark.parametrize("patients", [20, pytest.param(350, marks=pytest.mark.slow)])
def test_twins_are_found_and_others_are_not_among_simulated_frames(patients):
    source = yaml.safe_load((ROOT / "conf/data/synthetic.yaml").read_text(encoding="utf-8"))
    simulation = Simulation(**{key: source[key] for key in source if key not in ("kind", "split")})
    cases = [simulate_case(simulation, patient, view) for patient in range(patients) for view in range(3)]
    frames = [case.cine[case.frame_index] for case in cases]
    found, false = found_and_false(frames, [int(case.patient_id[1:]) for case in cases])
    assert found > near_duplicates.SAME + 0.1 and false < near_duplicates.SAME - 0.15


@pytest.mark.skipif(not REAL.is_dir(), reason="the 40 real angiograms are not here")
def test_twins_are_found_and_others_are_not_among_real_frames():
    frames = [np.asarray(Image.open(path).convert("L")) for path in sorted((REAL / "images").iterdir())]
    found, false = found_and_false(frames, list(range(len(frames))))
    assert found > near_duplicates.SAME + 0.1 and false < near_duplicates.SAME - 0.15
