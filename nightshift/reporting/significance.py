"""Whether one arm is better than another: a paired sign-flip test over patients, and its confidence interval.

Cases of one patient resemble each other, so the patient is the unit: a case's measure is averaged over seeds, then over
the patient's cases. A case without a patient id is a unit of its own. With several seeds the arms must differ for other
seeds as well: p is the larger of this test's and of that in `seeds`, and the interval reaches over both.

Test: if the arms were equal, each unit's difference d_i would be as likely to be -d_i (Fisher, The Design of
Experiments, 1935, section 21). p is the share of sign patterns whose |mean| is at least the observed one; for drawn
patterns the observed one is counted among them, so p is never 0 (Phipson & Smyth, 2010).

Interval: all shifts t for which d - t is not rejected with the same sign patterns. A pattern that flips the units F
counts against t where |mean of the flipped d - t| >= |mean of d - t|. That holds exactly between the mean of d over F
and the mean of d over the other units (the subset means of Hartigan, JASA 64, 1969). Each such stretch contains the
observed mean, so p(t) only falls on both sides of it, and the interval is read off the sorted ends.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
import pandas as pd
from scipy import stats

from nightshift.console.errors import UserError
from nightshift.data.dataset import unit_of
from nightshift.reporting.records import Interval, Verdict
from nightshift.reporting.seeds import Floats, Table, mean_over_seeds, seeds_test

EXACT_UNITS = 14  # 16384 patterns; above, DRAWS of them
DRAWS = 9999
POWER = 0.8  # of the study that `patients_needed` plans

Flips = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Paired:
    """Result of a test: mean difference, its interval (None: fewer than `fewest_units`), two-sided p."""

    delta: float
    interval: tuple[float, float] | None
    p: float


def fewest_units(level: float) -> int:
    """The number of units below which no p can be under `level`: the most extreme of 2^n patterns has p = 2 / 2^n."""
    return math.floor(math.log2(2 / level)) + 1


def sign_flip_test(differences: Floats, level: float = 0.05) -> Paired:
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


def paired_test(of: Sequence[Table], level: float = 0.05) -> Paired:
    """Test the second table minus the first for a mean of zero, by patient; for other seeds too where one has several.

    p < level exactly when the interval excludes 0.

    Args:
        of: a measure of both arms, (patients, seeds).
        level: the interval holds the true mean with a probability of at least 1 - level.
    """
    test = sign_flip_test(mean_over_seeds(of), level)
    if test.interval is None or max(table.shape[1] for table in of) == 1:
        return test
    low, high, p = seeds_test(of, level)
    ends = min(low, test.interval[0]), max(high, test.interval[1])
    return Paired(test.delta, ends, max(p, test.p))


@lru_cache(maxsize=8)
def sign_patterns(n: int) -> Flips:
    """Which of n units are flipped, (patterns, n) bool: all 2^n patterns, or the unflipped one and DRAWS others."""
    if n <= EXACT_UNITS:
        return np.asarray(np.arange(2**n)[:, None] >> np.arange(n) & 1, dtype=np.bool_)
    drawn = np.random.default_rng(0).integers(0, 2, (DRAWS, n), dtype=bool)
    return np.concatenate([np.zeros((1, n), dtype=np.bool_), drawn])


@dataclass(frozen=True)
class Difference:
    """One measure of two arms, to six decimals: means over patients, and `delta`, other - reference, with its test.

    `interval` belongs to the level that was asked for, `ci95` to 0.05. `p_holm`: corrected for several tests, or NaN.
    """

    reference: float
    other: float
    delta: float
    ci95: Interval
    interval: Interval
    p: float
    p_holm: float = math.nan


def compare(reference: pd.DataFrame, other: pd.DataFrame, measure: str, level: float = 0.05) -> Difference:
    """One measure of two arms that have the same cases (`check_same_cases`), paired by patient.

    Means are over units too, so that the difference of the means is the mean difference. A unit where the measure is
    NaN, as for vessels of a calibre that it does not show, is left out.

    Args:
        reference: rows as in evaluation's cases.csv.
        other: of the arm that is measured against it.
        measure: a column of both.
        level: of significance.
    """
    one, two = by_seed(reference, measure), by_seed(other, measure)
    known = (one.notna().all(axis=1) & two.notna().all(axis=1)).to_numpy()
    a, b = of = one.to_numpy()[known], two.to_numpy()[known]
    test = paired_test(of, level)
    usual = test if level == 0.05 else paired_test(of)
    return Difference(
        reference=round6(a.mean()),
        other=round6(b.mean()),
        delta=round6(test.delta),
        ci95=rounded(usual.interval),
        interval=rounded(test.interval),
        p=round6(test.p),
    )


def rounded(interval: tuple[float, float] | None) -> Interval:
    """To six decimals, but never onto 0: an interval that excludes it must still do so."""
    if interval is None:
        return None
    low, high = map(round6, interval)
    return [max(low, 1e-6) if interval[0] > 0 else low, min(high, -1e-6) if interval[1] < 0 else high]


def round6(value: float) -> float:
    """Rounded to six decimals, as all numbers are that are written."""
    return round(float(value), 6) + 0.0  # + 0.0: no -0.0


def verdict(delta: float, p: float, level: float = 0.05) -> Verdict:
    """Whether an arm is better or worse than the reference, from its difference of Dice and p."""
    if p >= level:
        return "undecided"
    return "better" if delta > 0 else "worse"


def holm(p: Mapping[Key, float]) -> dict[Key, float]:
    """Each p corrected for there being several (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    corrected, least = {}, 0.0
    for place, name in enumerate(sorted(p, key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - place) * p[name]))
        corrected[name] = least
    return {name: corrected[name] for name in p}


def patients_needed(differences: Floats, level: float = 0.05) -> int | None:
    """Units that a study needs for a power of POWER if the true difference is the observed one; None where that is 0.

    None too for one unit, which shows no spread. It is more than these where the test of these does not reject.

    n = ((z(1 - level/2) + z(POWER)) s / d)^2 + z(1 - level/2)^2 / 2 (Guenther, The American Statistician 35, 1981).
    """
    delta, n = differences.mean(), len(differences)
    if n < 2 or round6(delta) == 0:
        return None
    sure, power = stats.norm.ppf(1 - level / 2), stats.norm.ppf(POWER)
    needed = ((sure + power) * differences.std(ddof=1) / delta) ** 2 + sure**2 / 2
    told = sign_flip_test(differences, level).p < level
    return max(math.ceil(float(needed)), fewest_units(level), 0 if told else n + 1)


def mean_interval(values: Floats, level: float = 0.05) -> Interval:
    """Student's interval of one arm's mean over units (n,), which has no sign to flip. None for one unit."""
    if len(values) < 2:
        return None
    half = stats.t.ppf(1 - level / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return [round6(values.mean() - half), round6(values.mean() + half)]


@dataclass(frozen=True)
class AblationEffect:
    """Dice under an ablation and its change, ablated - whole, means over units; `changed`: cases with another Dice."""

    dice: float
    delta: float
    interval: Interval
    p: float
    changed: int


def ablation_effect(whole: pd.DataFrame, ablated: pd.DataFrame, level: float = 0.05) -> AblationEffect | None:
    """What an ablation costs in Dice; None where it could not be made for any case.

    Args:
        whole: rows as in evaluation's cases.csv; only those count that `ablated` has, too.
        ablated: rows of one ablation as in ablations.csv.
        level: of the interval.
    """
    if ablated.empty:
        return None
    keys = ["fold", "seed", "case_id"]
    same = whole[pd.MultiIndex.from_frame(whole[keys]).isin(pd.MultiIndex.from_frame(ablated[keys]))]
    if same.empty:
        return None
    before, after = per_unit(same, "dice"), per_unit(ablated, "dice")
    test = sign_flip_test((after - before).to_numpy(), level)
    one, other = per_case(same, "dice"), per_case(ablated, "dice")
    return AblationEffect(
        dice=round6(after.mean()),
        delta=round6(test.delta),
        interval=rounded(test.interval),
        p=round6(test.p),
        changed=int((one != other.reindex(one.index)).sum()),
    )


def patients_of(cases: pd.DataFrame) -> "pd.Series[str]":
    """The unit of each row: `patient ID`, or `case ID` where there is no patient id."""
    names = [unit_of(case, patient) for case, patient in zip(cases["case_id"], cases["patient_id"], strict=True)]
    return pd.Series(names, index=cases.index, dtype=object)


def size(cases: pd.DataFrame) -> tuple[int, int]:
    """How many cases and patients; a case without a patient id counts as a patient."""
    return cases["case_id"].nunique(), patients_of(cases).nunique()


def units(cases: pd.DataFrame) -> str:
    """What is counted, as `37 patients`, `40 cases` or `35 patients and 5 cases`."""
    kinds = pd.Series(patients_of(cases).unique()).str.partition(" ")[0]
    counts = ((kind, int((kinds == kind).sum())) for kind in ("patient", "case"))
    return " and ".join(f"{n} {kind}{'s' * (n != 1)}" for kind, n in counts if n)


def per_case(cases: pd.DataFrame, measure: str) -> "pd.Series[float]":
    """Means over seeds by case id, in the order of the rows."""
    return cases.groupby("case_id", sort=False)[measure].mean()


def per_unit(cases: pd.DataFrame, measure: str) -> "pd.Series[float]":
    """Means over a unit's cases of the means over seeds, by `patients_of`, in the order of the rows."""
    means = cases.groupby([patients_of(cases), "case_id"], sort=False)[measure].mean()
    return means.groupby(level=0, sort=False).mean()


def by_seed(cases: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Means over a unit's cases, a row per unit and a column per seed, in the order of the rows."""
    return pd.concat([per_unit(rows, measure) for _, rows in cases.groupby("seed", sort=False)], axis=1)


def check_same_cases(arms: Mapping[str, pd.DataFrame]) -> None:
    """Check that every seed of all arms has the same cases, of the same patients, in the same order.

    Raises:
        UserError: naming the file, the seed and a case.
    """
    first, of = None, f"{next(iter(arms))} arm's first seed"
    for name, rows in arms.items():
        for seed, one in rows.groupby("seed", sort=False):
            cases = list(zip(one["case_id"], one["patient_id"], strict=True))
            first = first or cases
            if cases != first:
                odd = next((c for c in [*cases, *first] if (c in cases) != (c in first)), cases[0])
                raise UserError(
                    f"reports/evaluation/{name}: seed {seed} has other test cases than the {of} "
                    f"({len(cases)} against {len(first)}; see case '{odd[0]}'); run: dvc repro -f evaluate@{name}"
                )
