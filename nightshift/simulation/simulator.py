"""Simulated coronary angiograms with C-arm angles, for trying the pipeline where no patient data may go.

A picture is Beer-Lambert attenuation, exp(-mu L), through the contrast-filled lumen (projection.py) of a random
coronary tree (anatomy.py), over a background of soft tissue and bone, with quantum noise.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter

from nightshift.config.hardware import hardware
from nightshift.console.progress import Progress
from nightshift.core.io import write_csv, write_json
from nightshift.simulation.anatomy import Array, Vessel, coronary_tree
from nightshift.simulation.projection import CArm, Shadow, sub_pixel_zeros, to_pixels, tube_shadow, vessel_shadow

# Those of a user's manifest; nightshift/ingest/manifest.py reads them (a test compares both).
COLUMNS = ["patient_id", "case_id", "cine_path", "frame_index", "vessel_mask_actual_path", "contours_path", "split"]
# The usual views (primary, secondary angle). The left ones show the LAD now left, now right of the LCX.
VIEWS = {
    "left": [(-30, 25), (-25, -25), (45, 25), (45, -25)],
    "right": [(45, 0), (-30, 0), (30, 25), (0, 30), (85, 0)],
}
ANGLE_JITTER = 6.0  # degrees
LEAST_CALIBRE = 1.4  # mm, thinner lumen is not in the mask
FIELD = 118.0  # mm at the isocentre, the usual side of the picture


@dataclass(frozen=True)
class Simulation:
    """What to simulate.

    `target` is "artery" (the trunk of the one in `artery`: LAD, LCX or RCA) or "tree" (every artery; patients are then
    left or right trees at random). `size` is the side of the square frames in pixels and `frames` the cine's length.
    `val` and `test` are fractions of the patients; the rest is for training.
    """

    patients: int
    views: int
    size: int
    frames: int
    target: str
    artery: str
    val: float
    test: float
    seed: int


@dataclass(frozen=True)
class SimulatedCase:
    """One cine (T, H, W) uint8 and the mask (H, W) uint8, 0 or 1, of frame `frame_index`; angles in degrees."""

    patient_id: str
    case_id: str
    cine: Array
    frame_index: int
    mask: Array
    primary_angle: float
    secondary_angle: float


def simulate_case(simulation: Simulation, patient: int, view: int) -> SimulatedCase:
    """One view of one patient; the result depends on the settings and these two numbers only."""
    tree, nominal = simulate_patient(simulation, patient, view)
    rng = np.random.default_rng([simulation.seed, patient, 2 + view])
    primary, secondary = np.round(np.add(nominal, rng.uniform(-ANGLE_JITTER, ANGLE_JITTER, 2)), 1)
    c_arm = _place(rng, tree, float(primary), float(secondary), simulation.size)

    shadows = [vessel_shadow(vessel, c_arm) for vessel in tree]
    frame_index = int(rng.integers(simulation.frames // 2, simulation.frames))
    filling = [_filling(tree, vessel, simulation.frames, frame_index) for vessel in tree]
    length = path_length(shadows, filling, simulation.size)
    length += _catheter(rng, tree[0], c_arm)
    transmission = np.exp(-rng.uniform(0.045, 0.12) * length)

    open_field = _collimator(rng, simulation.size)
    light = _background(rng, c_arm) * transmission
    cine = _detect(rng, light, open_field)

    wanted = [v for v in range(len(tree)) if simulation.target == "tree" or tree[v].name == simulation.artery]
    mask = _lumen([(tree[v], shadows[v], filling[v][frame_index]) for v in wanted], simulation.size) & open_field
    patient_id = f"P{patient:04d}"
    return SimulatedCase(
        patient_id,
        f"{patient_id}_V{view}",
        cine,
        frame_index,
        mask.astype(np.uint8),
        c_arm.primary_angle,
        c_arm.secondary_angle,
    )


def simulate_patient(simulation: Simulation, patient: int, view: int) -> tuple[list[Vessel], tuple[int, int]]:
    """The tree, the same in every view, and the nominal angles of one view; more views than VIEWS has repeat them."""
    rng = np.random.default_rng([simulation.seed, patient, 1])
    side = ["left", "right"][rng.integers(2)]
    if simulation.target == "artery":
        side = "right" if simulation.artery == "RCA" else "left"
    order = rng.permutation(len(VIEWS[side]))
    return coronary_tree(rng, side), VIEWS[side][order[view % len(order)]]


def path_length(shadows: list[Shadow], filling: list[Array], size: int) -> Array:
    """Path (T, H, W) of the rays through contrast in mm: the sum of the chords of all vessels, weighted by filling.

    Args:
        shadows: of each vessel.
        filling: (T, points of the vessel) of each vessel, the share of contrast in its blood.
        size: H and W.
    """
    total = sub_pixel_zeros(len(filling[0]), size)
    for shadow, fill in zip(shadows, filling, strict=True):
        total[:, shadow.index] += shadow.chord * fill[:, shadow.sample]
    return to_pixels(total, size)


def _place(rng: np.random.Generator, tree: list[Vessel], primary: float, secondary: float, size: int) -> CArm:
    """A C-arm that aims at the middle of the projected tree, missed by a random table shift, with a random zoom."""
    pitch = FIELD * rng.uniform(0.88, 1.12) / size
    aimed = CArm(primary, secondary, pitch, (0.0, 0.0), size)
    position = np.concatenate([aimed.project(vessel.points)[0] for vessel in tree])
    middle = (position.min(axis=0) + position.max(axis=0)) / 2 - size / 2
    miss = rng.uniform(-9, 9, 2)
    shift = (miss[0] - middle[1] * pitch, miss[1] + middle[0] * pitch)
    return CArm(primary, secondary, pitch, shift, size)


def _filling(tree: list[Vessel], vessel: Vessel, frames: int, frame_index: int) -> Array:
    """Share of contrast (T, points): the front starts at the ostium and has filled the whole tree at `frame_index`."""
    front_width = 25.0  # mm over which contrast mixes with blood
    reach = max(v.distance[-1] for v in tree) + front_width
    front = reach * (1 + (np.arange(frames) - frame_index) / max(frame_index, 1))
    return np.asarray(np.clip((front[:, None] - vessel.distance) / front_width, 0, 1))


def _catheter(rng: np.random.Generator, trunk: Vessel, c_arm: CArm) -> Array:
    """Path (H, W) in mm through a contrast-filled catheter that comes from above and ends at the ostium.

    It is drawn in the plane of the picture: from a catheter in space a network could learn the view.
    """
    position, magnification = c_arm.project(trunk.points[:1])
    ostium = position[0]
    above = ostium[0] + 0.15 * c_arm.size
    side = rng.uniform(-1, 1, 3) * c_arm.size * [0.04, 0.12, 0.2]
    knots = ostium + np.stack([-above * np.array([0, 0.25, 0.6, 1.0]), [0, *side]], axis=1)
    line = CubicSpline(np.linspace(0, 1, 4), knots)(np.linspace(0, 1, 4 * c_arm.size))
    radius = np.full(len(line), rng.uniform(1.0, 1.7))
    shadow = tube_shadow(line, radius * magnification / c_arm.pitch, radius, c_arm.size)
    return np.asarray(path_length([shadow], [np.ones((1, len(line)))], c_arm.size)[0])


def _lumen(parts: list[tuple[Vessel, Shadow, Array]], size: int) -> Array:
    """Pixels (H, W) of which filled lumen of at least the least calibre covers half or more."""
    covered = sub_pixel_zeros(1, size)
    for vessel, shadow, fill in parts:
        visible = (fill >= 0.5) & (2 * vessel.radii >= LEAST_CALIBRE)
        covered[0, shadow.index[visible[shadow.sample]]] = 1
    return np.asarray(to_pixels(covered, size)[0] >= 0.5)


def _background(rng: np.random.Generator, c_arm: CArm) -> Array:
    """Light (H, W), relative to the open beam, behind soft tissue, lung, ribs, spine and diaphragm."""
    size = c_arm.size
    y, x = np.mgrid[0:size, 0:size] / size - 0.5
    density = 0.8 + x * rng.normal(0, 0.25) + y * rng.normal(0, 0.25)
    density += rng.uniform(0.08, 0.16) * _tissue(rng, size)

    def edge(distance: Array, width: float) -> Array:
        return np.asarray(1 / (1 + np.exp(-np.clip(distance / width, -30, 30))))

    # The heart's border against the lung, on either side.
    turn = rng.uniform(-0.6, 0.6) + np.pi * rng.integers(2)
    border = x * np.cos(turn) + y * np.sin(turn) - rng.uniform(0.2, 0.55)
    density -= rng.uniform(0.1, 0.5) * edge(
        border + rng.uniform(-0.5, 0.5) * (y - x * 0.3) ** 2, rng.uniform(0.01, 0.06)
    )
    # Ribs: faint bent bands, denser at both edges (cortical bone).
    for _ in range(rng.integers(1, 5)):
        tilt, bend, at = rng.uniform(-0.7, 0.7), rng.uniform(-0.5, 0.5), rng.uniform(-0.6, 0.6)
        across = y - at - tilt * x - bend * x**2
        half = rng.uniform(0.02, 0.045)
        band = edge(half - np.abs(across), 0.006)
        density += rng.uniform(0.02, 0.08) * band * (0.6 + 0.4 * np.abs(across) / half)
    # The spine is 75 mm behind the heart and 20 mm to its right, so it goes to the right of the picture in LAO; the
    # patient's place on the table is unknown, or it would give the view away.
    place = np.array([[-20 + rng.normal(0, 20), 75 + rng.normal(0, 12), 0.0]])
    spine = c_arm.project(place)[0][0, 1] / size - 0.5 + rng.uniform(-0.25, 0.25)
    half = rng.uniform(0.1, 0.15)
    discs = 1 + 0.25 * np.cos(2 * np.pi * (y / rng.uniform(0.18, 0.26) + rng.uniform()))
    density += rng.uniform(0.0, 0.22) * edge(half - np.abs(x - spine - rng.uniform(-0.15, 0.15) * y), 0.012) * discs
    # The dome of the diaphragm, a dark edge low in the picture or below it.
    dome = np.hypot((x - rng.uniform(-0.4, 0.4)) / rng.uniform(1.0, 1.8), y - rng.uniform(0.75, 1.15))
    density += rng.uniform(0.1, 0.5) * edge(0.5 - dome, rng.uniform(0.006, 0.02))
    return np.asarray(np.exp(-density))


def _tissue(rng: np.random.Generator, size: int) -> Array:
    """Soft-tissue texture (H, W) of mean 0 and standard deviation 1: noise whose amplitude falls with frequency."""
    # The transform's texture repeats itself, so only a quarter of a larger one is taken.
    side = 2 * size
    cycles = side * np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    spectrum = np.fft.rfft2(rng.standard_normal((side, side))) / (4 + cycles) ** 2.4
    texture = np.fft.irfft2(spectrum, (side, side))[:size, :size]
    return np.asarray((texture - texture.mean()) / texture.std())


def _collimator(rng: np.random.Generator, size: int) -> Array:
    """The open field (H, W) bool: a round image intensifier behind four shutters."""
    y, x = np.mgrid[0:size, 0:size] / size + 0.5 / size - 0.5
    radius = rng.uniform(0.54, 0.75)
    top, bottom, left, right = rng.uniform(-0.03, 0.05, 4)
    shutters = (y > top - 0.5) & (y < 0.5 - bottom) & (x > left - 0.5) & (x < 0.5 - right)
    return np.asarray((np.hypot(y, x) < radius) & shutters)


def _detect(rng: np.random.Generator, light: Array, open_field: Array) -> Array:
    """Grey values (T, H, W) uint8 of `light`: quantum noise, the blur of the detector, exposure, the dark border."""
    photons = rng.uniform(400, 1500)  # per pixel at the mean of the first frame
    mean = light[0][open_field].mean()
    counts = rng.poisson(light * (photons / mean)) / photons
    sharpness = rng.uniform(0.5, 0.8)
    grey = rng.uniform(95, 150) * gaussian_filter(counts, (0, sharpness, sharpness))
    return np.where(open_field, np.clip(np.round(grey), 20, 255), rng.integers(5, 18)).astype(np.uint8)


def split_patients(simulation: Simulation) -> list[str]:
    """The split of each patient: `val` and `test` of them at random, the others for training.

    Numbers are rounded half to even, those of `nightshift.ingest.splits.made_split` half up (22 and 23 for 0.15 of
    150): another rule would change every simulated data set.
    """
    order = np.random.default_rng([simulation.seed]).permutation(simulation.patients)
    val = round(simulation.val * simulation.patients)
    test = round(simulation.test * simulation.patients)
    split = np.full(simulation.patients, "train")
    split[order[:val]] = "val"
    split[order[val : val + test]] = "test"
    return split.tolist()


def write_dataset(simulation: Simulation, folder: Path, progress: Progress = iter) -> None:
    """Write manifest.csv, cines/, masks/ and contours/ into `folder`; `progress` wraps the loop over patients.

    In `threads` of hardware.yaml: NumPy computes most of a case without Python's lock.
    """
    for name in ("cines", "masks", "contours"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    split, rows = split_patients(simulation), []
    with ThreadPoolExecutor(hardware().threads) as pool:
        results = pool.map(partial(_write_patient, simulation, folder), range(simulation.patients), split)
        try:
            for _, written in zip(progress(split), results, strict=True):
                rows += written
        except BaseException:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for the others
            raise
    write_csv(folder / "manifest.csv", COLUMNS, rows)


def _write_patient(simulation: Simulation, folder: Path, patient: int, split: str) -> list[dict[str, object]]:
    """Write all views of a patient; a row of the manifest for each."""
    rows: list[dict[str, object]] = []
    for view in range(simulation.views):
        case = simulate_case(simulation, patient, view)
        paths = [f"cines/{case.case_id}.npy", f"masks/{case.case_id}.npy", f"contours/{case.case_id}.json"]
        np.save(folder / paths[0], case.cine)
        np.save(folder / paths[1], case.mask)
        angles = {"primary_angle": case.primary_angle, "secondary_angle": case.secondary_angle}
        write_json(folder / paths[2], {"view_angles": angles})
        values = [case.patient_id, case.case_id, paths[0], case.frame_index, *paths[1:], split]
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows
