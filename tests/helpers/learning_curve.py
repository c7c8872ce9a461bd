"""Planted learning curves, and the results of test patients that they would give."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

NUMBERS = (8, 16, 32, 64, 128)
BETWEEN_PATIENTS, OF_THE_DIFFERENCE, OF_A_TRAINING = 0.08, 0.04, 0.005  # standard deviations of Dice
Curve = Callable[[np.ndarray], np.ndarray]  # Dice at numbers of training patients


def law(a: float, b: float, c: float) -> Curve:
    """An inverse power law, b below a at 8 patients."""
    return lambda n: a - b * (n / 8) ** -c


def planted(
    curves: Mapping[str, Curve],
    patients: int,
    random: np.random.Generator,
    numbers: Sequence[int] = NUMBERS,
    seeds: int = 1,
    training: float = OF_A_TRAINING,
) -> pd.DataFrame:
    """A table of results: half of what varies of a patient's difference is the same at all numbers of patients."""
    easy = random.normal(0, BETWEEN_PATIENTS, patients)
    sd = OF_THE_DIFFERENCE / 2  # four terms: two of each of two arms
    rows = []
    for arm, curve in curves.items():
        own = random.normal(0, sd, patients)
        for n in numbers:
            here = curve(np.array(n)) + easy + own + random.normal(0, sd, patients)
            for seed in range(seeds):
                dice = np.clip(here + random.normal(0, training), 0, 1)
                rows.append(pd.DataFrame({"arm": arm, "patients": n, "seed": seed, "dice": dice}))
    table = pd.concat(rows)
    table["case_id"] = table["patient_id"] = [f"P{i}" for i in table.index]
    return table.reset_index(drop=True)
