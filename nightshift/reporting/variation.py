"""Where the variation of Dice comes from, and an interval that holds for other seeds too, not only other patients.

Model: Dice of a patient, with a seed, in a fold = mean + patient + training (a seed in a fold) + fold + rest, each of
them random. Variances by the method of moments: mean squares are set equal to their expectations, and what comes out
negative is 0 (Searle, Casella & McCulloch, Variance Components, 1992, chapter 4). It is the model of studies with many
readers and many cases (Hillis, Statistics in Medicine 26, 2007), with seeds as readers.

Interval: Student's, with the variances of the mean that are due to patients and to seeds added, and the degrees of
freedom of such a sum (Satterthwaite, Biometrics Bulletin 2, 1946). The seeds of two arms are taken to be independent:
what the same seed may have in common in both would only make the interval too wide.

A bootstrap that draws patients and seeds has the same aim, but few seeds are too few for it: the means of drawn seeds
lie between the lowest and the highest, and the true mean of three lies outside them in 1 of 4 cases. In simulations
with 40 patients and 3 seeds (tests/reporting/test_variation.py) it covers the true difference in 84 to 94 %, this
interval in 95 to 96 %; in 93 % where the seeds of one arm alone vary, and more than patients.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from nightshift.reporting.load import ArmResults
from nightshift.reporting.records import Interval
from nightshift.reporting.significance import Floats, mean_interval, patients_of, per_unit, round6

Table = np.ndarray[tuple[int, int], np.dtype[np.float64]]  # Dice (patients, seeds)
Labels = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Variation:
    """Of an arm's Dice, or of a difference: standard deviations between patients, seeds and folds, and an interval.

    `seeds`, `interval`: None without several seeds. `folds`: None without several folds. `interval` is that of the
    mean with other patients and other seeds. With one seed, chance in training is a part of the two others.
    """

    patients: float
    seeds: float | None
    folds: float | None
    interval: Interval


def variations(arms: Mapping[str, ArmResults], level: float) -> dict[tuple[str, ...], Variation]:
    """By (arm,) that of its Dice, and by (reference, arm) that of the difference, arm - reference.

    Empty with one seed and one fold, and with one patient. An arm that nothing is trained of has one seed, and nothing
    varies with it; seeds count as several only where every other arm has several.

    Args:
        arms: the results, the reference first; all have the same cases (`check_same_cases`).
        level: of the intervals, which hold the true mean with a probability of 1 - level.
    """
    tables = {name: by_seed(arm.cases) for name, arm in arms.items()}
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
        ends = seeds_interval(of, level)
        found[names] = Variation(
            patients, seeds if several_seeds else None, between_folds, ends if several_seeds else None
        )
    return found


def by_seed(cases: pd.DataFrame) -> Table:
    """Dice (patients, seeds), mean over a patient's cases, in the order of the rows of evaluation's cases.csv."""
    return np.stack([per_unit(rows, "dice").to_numpy() for _, rows in cases.groupby("seed", sort=False)], axis=1)


def _folds(cases: pd.DataFrame) -> Labels:
    """The fold that tests each patient, (patients,)."""
    folded = cases.assign(fold=cases.get("fold", 0))  # masks that another script made have none
    return folded.groupby(patients_of(cases), sort=False)["fold"].first().to_numpy()


def _mean(of: Sequence[Table]) -> Floats:
    """Means over seeds (patients,): of the one arm, or of the second minus those of the first."""
    first, *second = (table.mean(axis=1) for table in of)
    return second[0] - first if second else first


def _squares(table: Table) -> tuple[float, float]:
    """Mean squares of (patients, seeds), per value: between the means of seeds, and of the rest; 0 for one seed."""
    patients, seeds = table.shape
    if seeds == 1:
        return 0.0, 0.0
    of_seeds = table.mean(axis=0)
    rest = table - table.mean(axis=1, keepdims=True) - of_seeds + table.mean()
    return float(of_seeds.var(ddof=1)), float((rest**2).sum() / ((patients - 1) * (seeds - 1)))


def deviations(of: Sequence[Table], folds: Labels) -> tuple[float, float, float | None]:
    """Standard deviations between patients of a fold, between seeds of a training, and between folds.

    The last is None for one fold, and where a fold has a single patient, whose variation is not told from the fold's.

    Args:
        of: Dice (patients, seeds) of an arm; or of two, for the difference of the second to the first.
        folds: of each patient, (patients,).
    """
    means, parts = _mean(of), [folds == fold for fold in np.unique(folds)]
    sizes = np.array([np.count_nonzero(part) for part in parts])
    if sizes.min() < 2:
        return deviations(of, np.zeros_like(folds))
    within = np.array([means[part].var(ddof=1) for part in parts])
    seeds = chance = rest = 0.0  # chance, rest: their variance in a mean over seeds
    for table in of:
        between, of_rest = np.array([_squares(table[part]) for part in parts]).T
        variance = max(float((between - of_rest / sizes).mean()), 0.0)
        seeds += variance
        chance += variance / table.shape[1]
        rest += float(of_rest.mean()) / table.shape[1]
    patients = math.sqrt(max(float(within.mean()) - rest, 0.0))
    if len(parts) == 1:
        return patients, math.sqrt(seeds), None
    of_folds = np.array([means[part].mean() for part in parts]).var(ddof=1) - (within / sizes).mean() - chance
    return patients, math.sqrt(seeds), math.sqrt(max(float(of_folds), 0.0))


def seeds_interval(of: Sequence[Table], level: float = 0.05) -> Interval:
    """The interval of a mean, or of a difference of means, for other patients and other seeds.

    A seed counts as one training, also where it is one in each fold: the same seed starts all of them.

    Args:
        of: Dice (patients, seeds) of an arm; or of two, for the difference of the second to the first.
        level: it holds the true mean with a probability of 1 - level.
    """
    means = _mean(of)
    patients = len(means)
    terms = [(means.var(ddof=1) / patients, patients - 1)]  # variances of the mean, and their degrees of freedom
    for table in of:
        (between, rest), seeds = _squares(table), table.shape[1]
        if between > rest / patients:  # the rest is in the first term already
            terms += [(between / seeds, seeds - 1), (-rest / (patients * seeds), (patients - 1) * (seeds - 1))]
    variance = sum(one for one, _ in terms)
    if not variance:
        return mean_interval(means, level)
    freedom = variance**2 / sum(one**2 / count for one, count in terms)
    half = stats.t.ppf(1 - level / 2, freedom) * math.sqrt(variance)
    return [round6(means.mean() - half), round6(means.mean() + half)]


def widening(arms: Mapping[str, ArmResults]) -> float:
    """By how much to widen an interval for k folds that share their training patients: sqrt(1 + k n_test / n_train).

    Over k independent folds a variance falls by 1/k; Nadeau & Bengio (Machine Learning 52, 2003) put 1/k + n_test /
    n_train for it. A rule of thumb: no estimate of that variance is free of bias (Bengio & Grandvalet, JMLR 5, 2004).
    """
    tested = next(iter(arms.values())).cases["case_id"].nunique()  # each once: k n_test
    return math.sqrt(1 + tested / np.mean([card.cases["train"] for arm in arms.values() for card in arm.cards]))
