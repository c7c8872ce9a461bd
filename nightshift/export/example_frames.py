"""Frames that a bundle is checked by: simulated ones, which may be shared, or test cases of the project."""

import numpy as np

from nightshift.carm import Angles
from nightshift.console.errors import UserError
from nightshift.data.dataset import data_hash, open_part
from nightshift.data.locations import FOLDS, PREPARED
from nightshift.data.samples import angles_of
from nightshift.model.card import Card
from nightshift.simulation.simulator import Simulation, simulate_case

COUNT = 6
Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
Example = tuple[Pixels, Angles]
# Heights and widths: square ones, upright ones and wide ones, smaller and larger than the squares that models see.
SIZES = ((192, 192), (133, 304), (192, 130), (256, 256), (331, 277), (400, 512))


def simulated() -> list[Example]:
    """COUNT frames (H, W) uint8 of COUNT simulated patients, one of each of SIZES, and their angles in degrees."""
    examples = []
    for patient, (height, width) in enumerate(SIZES):
        simulation = Simulation(
            patients=COUNT,
            views=1,
            size=max(height, width),
            frames=2,
            target="tree",
            artery="LAD",
            val=0.2,
            test=0.2,
            seed=1,
        )
        case = simulate_case(simulation, patient, 0)
        frame = case.cine[case.frame_index, :height, :width].copy()
        examples.append((frame, (case.primary_angle, case.secondary_angle)))
    return examples


def of_cases(card: Card) -> list[Example]:
    """The first COUNT test cases of the model's fold, of the project in the current folder.

    Raises UserError where its prepared data are not those that the model was trained with.
    """
    if not (PREPARED / FOLDS).is_file() or data_hash() != card.data_hash:
        raise UserError(
            f"--with-cases: {PREPARED.as_posix()} is not what this model was trained on; go to its project and run "
            "`dvc repro prepare`, or leave --with-cases out"
        )
    cases = open_part(card.fold, "test")
    first = [cases[i] for i in range(min(COUNT, len(cases)))]
    return [(np.array(case.frame), angles_of(case, card.settings.view.mode)) for case in first]
