"""Where the variation of Dice comes from: patients, seeds and folds.

Model: Dice of a patient, with a seed, in a fold = mean + patient + training (a seed in a fold) + fold + rest, each of
them random; variances as in `seeds`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nightshift.reporting.load import ArmResults
from nightshift.reporting.records import Interval
from nightshift.reporting.seeds import Table, mean_over_seeds, mean_squares, seeds_test
from nightshift.reporting.significance import by_seed, mean_interval, paired_test, patients_of, rounded, sign_flip_test

Labels = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Variation:
    """Of an arm's Dice, or of a difference: standard deviations between patients, seeds and folds, and two intervals.

    `seeds`, `with_seeds`: None without several seeds. `folds`: None without several folds. `interval` is that of the
    mean with other patients, `with_seeds` that with other seeds too. With one seed, chance in training is a part of the
    two others.
    """

    patients: float
    seeds: float | None
    folds: float | None
    interval: Interval
    with_seeds: Interval


def variations(arms: Mapping[str, ArmResults], level: float) -> dict[tuple[str, ...], Variation]:
    """By (arm,) that of its Dice, and by (reference, arm) that of the difference, arm - reference.

    Empty with one seed and one fold, and with one patient. An arm that nothing is trained of has one seed, and nothing
    varies with it; seeds count as several only where every other arm has several.

    Args:
        arms: the results, the reference first; all have the same cases (`check_same_cases`).
        level: of the intervals, which hold the true mean with a probability of 1 - level.
    """
    tables = {name: by_seed(arm.cases, "dice").to_numpy() for name, arm in arms.items()}
    reference, *others = tables
    folds = _folds(arms[reference].cases)
    varied = [table.shape[1] for name, table in tables.items() if arms[name].trained or table.shape[1] > 1]
    several_seeds = min(varied, default=1) > 1
    if len(folds) < 2 or not (several_seeds or len(np.unique(folds)) > 1):
        return {}
    found = {}
    for names in [*((name,) for name in tables), *((reference, name) for name in others)]:
        of = [tables[name] for name in names]
        patients, seeds, between_folds = deviations(of, folds)
        found[names] = Variation(
            patients=patients,
            seeds=seeds if several_seeds else None,
            folds=between_folds,
            interval=_interval(of, level),
            with_seeds=_with_seeds(of, level) if several_seeds else None,
        )
    return found


def _interval(of: Sequence[Table], level: float) -> Interval:
    """For other patients, of an arm's mean or of a difference."""
    means = mean_over_seeds(of)
    return mean_interval(means, level) if len(of) == 1 else rounded(sign_flip_test(means, level).interval)


def _with_seeds(of: Sequence[Table], level: float) -> Interval:
    """For other patients and other seeds."""
    return rounded(seeds_test(of, level)[:2] if len(of) == 1 else paired_test(of, level).interval)


def _folds(cases: pd.DataFrame) -> Labels:
    """The fold that tests each patient, (patients,)."""
    folded = cases.assign(fold=cases.get("fold", 0))  # masks that another script made have none
    return folded.groupby(patients_of(cases), sort=False)["fold"].first().to_numpy()


def deviations(of: Sequence[Table], folds: Labels) -> tuple[float, float, float | None]:
    """Standard deviations between patients of a fold, between seeds of a training, and between folds.

    The last is None for one fold, and where a fold has a single patient, whose variation is not told from the fold's.

    Args:
        of: Dice (patients, seeds) of an arm; or of two, for the difference of the second to the first.
        folds: of each patient, (patients,).
    """
    means, parts = mean_over_seeds(of), [folds == fold for fold in np.unique(folds)]
    sizes = np.array([np.count_nonzero(part) for part in parts])
    if sizes.min() < 2:
        return deviations(of, np.zeros_like(folds))
    within = np.array([means[part].var(ddof=1) for part in parts])
    seeds = chance = rest = 0.0  # chance, rest: their variance in a mean over seeds
    for table in of:
        between, of_rest = np.array([mean_squares(table[part]) for part in parts]).T
        variance = max(float((between - of_rest / sizes).mean()), 0.0)
        seeds += variance
        chance += variance / table.shape[1]
        rest += float(of_rest.mean()) / table.shape[1]
    patients = math.sqrt(max(float(within.mean()) - rest, 0.0))
    if len(parts) == 1:
        return patients, math.sqrt(seeds), None
    of_folds = np.array([means[part].mean() for part in parts]).var(ddof=1) - (within / sizes).mean() - chance
    return patients, math.sqrt(seeds), math.sqrt(max(float(of_folds), 0.0))


def widening(arms: Mapping[str, ArmResults]) -> float:
    """By how much to widen an interval for k folds that share their training patients: sqrt(1 + k n_test / n_train).

    Over k independent folds a variance falls by 1/k; Nadeau & Bengio (Machine Learning 52, 2003) put 1/k + n_test /
    n_train for it. A rule of thumb: no estimate of that variance is free of bias (Bengio & Grandvalet, JMLR 5, 2004).
    """
    tested = next(iter(arms.values())).cases["case_id"].nunique()  # each once: k n_test
    return math.sqrt(1 + tested / np.mean([card.cases["train"] for arm in arms.values() for card in arm.cards]))
