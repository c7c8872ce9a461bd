"""Is one arm better? A paired sign-flip test over patients, and the confidence interval that belongs to it.

Cases of one patient resemble each other, so the patient is the unit: a case's measure is averaged over seeds, then over
the patient's cases. A case without a patient id is a unit of its own.

Test: if the arms were equal, each unit's difference d_i would be as likely to be -d_i (Fisher, The Design of
Experiments, 1935, section 21). p is the share of sign patterns whose |mean| is at least the observed one; for drawn
patterns the observed one is counted among them, so p is never 0 (Phipson & Smyth, 2010).

Interval: all shifts t for which d - t is not rejected with the same sign patterns. A pattern that flips the units F
counts against t where |mean of the flipped d - t| >= |mean of d - t|. That holds exactly between the mean of d over F
and the mean of d over the other units (the subset means of Hartigan, JASA 64, 1969). Each such stretch contains the
observed mean, so p(t) only falls on both sides of it, and the interval is read off the sorted ends.
"""

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from nightshift.console.errors import UserError

EXACT_UNITS = 14  # 16384 patterns; above, DRAWS of them
DRAWS = 9999
POWER = 0.8  # of the study that `patients_needed` plans

Row = dict[str, Any]


@dataclass(frozen=True)
class Paired:
    """Mean difference, its interval (None: unbounded, fewer than `fewest_units`) and the two-sided p."""

    delta: float
    interval: tuple[float, float] | None
    p: float


def fewest_units(level: float) -> int:
    """Below, even the most extreme of the 2^n patterns has p = 2 / 2^n >= level."""
    return math.floor(math.log2(2 / level)) + 1


def sign_flip_test(differences: np.ndarray, level: float = 0.05) -> Paired:
    """Test `differences` (n,), one per unit, for a mean of zero; p < level exactly when the interval excludes 0.

    The interval holds the true mean with a probability of 1 - level.

    scipy.stats.permutation_test(permutation_type="samples") gives the same p, but not its sign patterns: an interval
    would be a search with one call per shift tried.
    """
    n, flips = len(differences), sign_patterns(len(differences))
    flipped, count = flips @ differences, flips.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.stack([flipped / count, (differences.sum() - flipped) / (n - count)])
    ends[:, count % n == 0] = [[-np.inf], [np.inf]]  # flips none or all: never rejects
    slack = 1e-12 * np.abs(differences).max()  # ties must not be decided by how a processor rounds a sum
    low, high = ends.min(axis=0) - slack, ends.max(axis=0) + slack
    total = len(flips)
    p = np.count_nonzero((low <= 0) & (high >= 0)) / total
    rejecting = np.count_nonzero(np.arange(1, total + 1) / total < level)  # this many patterns are still too few
    last = total - 1 - rejecting
    interval = float(np.partition(low, rejecting)[rejecting]), float(np.partition(high, last)[last])
    return Paired(float(differences.mean()), interval if np.isfinite(interval).all() else None, p)


@lru_cache(maxsize=8)
def sign_patterns(n: int) -> np.ndarray:
    """Which of n units are flipped, (patterns, n) bool, the unflipped one first: all 2^n, or that one and DRAWS."""
    if n <= EXACT_UNITS:
        return (np.arange(2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    drawn = np.random.default_rng(0).integers(0, 2, (DRAWS, n), dtype=bool)
    return np.concatenate([np.zeros((1, n), dtype=bool), drawn])


def compare(frozen: list[Row], lora: list[Row], measure: str, level: float = 0.05) -> dict[str, Any]:
    """Means over units, LoRA's difference, interval and p, to six decimals; rows as in evaluation's cases.csv.

    Means are over units too, so that the difference of the means is the mean difference. `interval` belongs to `level`,
    `ci95` is the one at 0.05. Raises UserError if the arms do not have the same cases.
    """
    check_same_cases(frozen, lora)
    a, b = per_unit(frozen, measure), per_unit(lora, measure)
    test = sign_flip_test(b - a, level)
    numbers = {"frozen": a.mean(), "lora": b.mean(), "delta": test.delta}
    usual = test if level == 0.05 else sign_flip_test(b - a)
    intervals = {"ci95": _ends(usual.interval), "interval": _ends(test.interval)}
    return {name: six(value) for name, value in numbers.items()} | intervals | {"p": six(test.p)}


def _ends(interval: tuple[float, float] | None) -> list[float] | None:
    """Rounded, but never onto 0: an interval that excludes it must still do so."""
    if interval is None:
        return None
    low, high = map(six, interval)
    return [max(low, 1e-6) if interval[0] > 0 else low, min(high, -1e-6) if interval[1] < 0 else high]


def six(value: float) -> float:
    """Rounded to six decimals, as all numbers are that are written."""
    return round(float(value), 6) + 0.0  # + 0.0: no -0.0


def verdict(dice: dict[str, Any], level: float = 0.05) -> str:
    """`lora`, `frozen` or `undecided` from what `compare` gives for Dice."""
    if dice["p"] >= level:
        return "undecided"
    return "lora" if dice["delta"] > 0 else "frozen"


def holm(p: dict[str, float]) -> dict[str, float]:
    """p by measure, corrected for there being several (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected, least = {}, 0.0
    for place, name in enumerate(sorted(p, key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - place) * p[name]))
        corrected[name] = least
    return {name: corrected[name] for name in p}


def patients_needed(differences: np.ndarray, level: float = 0.05) -> int | None:
    """Units for a power of POWER if the true difference is the observed one; None where that is 0, and for one unit.

    n = ((z(1 - level/2) + z(POWER)) s / d)^2 + z(1 - level/2)^2 / 2 (Guenther, The American Statistician 35, 1981).
    """
    delta, n = differences.mean(), len(differences)
    if n < 2 or six(delta) == 0:
        return None
    sure, power = stats.norm.ppf(1 - level / 2), stats.norm.ppf(POWER)
    needed = ((sure + power) * differences.std(ddof=1) / delta) ** 2 + sure**2 / 2
    return max(math.ceil(needed), fewest_units(level))


def mean_interval(values: np.ndarray, level: float = 0.05) -> list[float] | None:
    """Student's interval of one arm's mean over units (n,), which has no sign to flip. None for one unit."""
    if len(values) < 2:
        return None
    half = stats.t.ppf(1 - level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return [six(values.mean() - half), six(values.mean() + half)]


def loss(whole: list[Row], ablated: list[Row], level: float = 0.05) -> dict[str, Any] | None:
    """What an ablation costs in Dice: mean over units of ablated - whole, interval and p; None where it has no case.

    Only cases count that the ablation could be made for; `changed`: for how many of them Dice is another one.
    """
    there = {(row["seed"], row["case_id"]) for row in ablated}
    same = [row for row in whole if (row["seed"], row["case_id"]) in there]
    if not same:
        return None
    before, after = per_unit(same, "dice"), per_unit(ablated, "dice")
    test = sign_flip_test(after - before, level)
    numbers = {"dice": after.mean(), "delta": test.delta, "p": test.p}
    kept = {name: six(value) for name, value in numbers.items()}
    one, other = per_case(same, "dice"), per_case(ablated, "dice")
    return kept | {"interval": _ends(test.interval), "changed": sum(one[case] != other[case] for case in one)}


def unit(row: Row) -> tuple[str, str]:
    """The patient of a row, the case where it has none."""
    return ("patient", row["patient_id"]) if row["patient_id"] else ("case", row["case_id"])


def size(rows: list[Row]) -> dict[str, int]:
    """How many cases and patients; a case without a patient id counts as a patient."""
    return {"cases": len({row["case_id"] for row in rows}), "patients": len({unit(row) for row in rows})}


def units(rows: list[Row]) -> str:
    """What is counted, as `37 patients`, `40 cases` or `35 patients and 5 cases`."""
    kinds = Counter(kind for kind, _ in {unit(row) for row in rows})
    return " and ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in sorted(kinds.items(), reverse=True))


def per_case(rows: list[Row], measure: str) -> dict[str, float]:
    """Means over seeds by case id, in the order of the rows."""
    values: dict[str, list[float]] = {}
    for row in rows:
        values.setdefault(row["case_id"], []).append(row[measure])
    return {case: fmean(v) for case, v in values.items()}


def by_unit(rows: list[Row], measure: str) -> dict[tuple[str, str], float]:
    """Means over a unit's cases of the means over seeds, in the order of the rows."""
    of_case = {row["case_id"]: unit(row) for row in rows}
    values: dict[tuple[str, str], list[float]] = {}
    for case, mean in per_case(rows, measure).items():
        values.setdefault(of_case[case], []).append(mean)
    return {one: fmean(v) for one, v in values.items()}


def per_unit(rows: list[Row], measure: str) -> np.ndarray:
    """`by_unit` as an array, (units,)."""
    return np.array(list(by_unit(rows, measure).values()))


def check_same_cases(frozen: list[Row], lora: list[Row]) -> None:
    """Raises UserError unless every seed of both arms has the same cases, of the same patients, in the same order."""
    first = None
    for arm, rows in (("frozen", frozen), ("lora", lora)):
        for seed in dict.fromkeys(row["seed"] for row in rows):
            cases = [(row["case_id"], row["patient_id"]) for row in rows if row["seed"] == seed]
            first = first or cases
            if cases != first:
                odd = next((c for c in [*cases, *first] if (c in cases) != (c in first)), cases[0])
                raise UserError(
                    f"reports/evaluation/{arm}/cases.csv: seed {seed} has other test cases than the frozen arm's first "
                    f"seed ({len(cases)} against {len(first)}; see case '{odd[0]}'); run: dvc repro -f evaluate_{arm}"
                )
