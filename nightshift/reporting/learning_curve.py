"""From how many training patients on an arm pays, that is, has a higher Dice than the reference, if ever.

Every arm was trained on several numbers of patients, and each model tested on the same test patients. Through the mean
Dice of each arm goes a power law (power_law.py). Where the difference of two curves is above or below 0, and so where
they cross, is read off a confidence band of that difference, from the smallest number of patients to REACH times the
largest, beyond which a curve would be a guess.

The band comes from bootstrap samples, in each of which all curves are fitted anew:
- test patients are drawn with replacement, whole patients for all arms and numbers, since they are paired;
- the mean Dice of each training is shifted at random, as another seed or other training patients would shift it. By how
  much is seen in how far the trainings are from their curves, so seeds count too, and so does a law that does not fit.

It is simultaneous: with a probability of 1 - level it holds the true differences at all numbers and of all arms
together (the largest studentised deviation of a sample from the estimate, Davison & Hinkley, Bootstrap Methods, 1997,
section 4.2.4). Both kinds of variation are widened from normal to Student's t for the degrees of freedom that they are
known from.

An arm is ahead where the band is above 0, behind where it is below. The curves cross where they change from one to the
other; the interval of the crossing is all between the last number of the one and the first of the other. A crossing is
thus never claimed from a fitted curve alone, and with arms that never cross it is with a probability below `level`.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from nightshift.console.errors import UserError
from nightshift.reporting.power_law import Floats, PowerLaw, fit
from nightshift.reporting.significance import fewest_units, mean_interval, per_unit

REACH = 2  # times the largest number of patients
FEWEST_NUMBERS = 4  # of patients: a power law goes through any three points
DRAWS = 2000
STILL = 1e-6  # distance of an untrained arm's Dice, of six decimals, from its curve, at most
STEPS = 200  # numbers of patients at which the band is asked, evenly spaced on a logarithmic axis

Answer = Literal["pays from", "stops paying", "pays", "does not pay", "cannot tell"]
Range = tuple[int, int]  # numbers of patients, both ends included


@dataclass(frozen=True)
class Payoff:
    """Where an arm is ahead of the reference and where behind.

    Attributes:
        answer: `pays` and `does not pay` at every number from the smallest to REACH times the largest.
        ahead, behind: ranges in which that is known.
        crossing: the first number from which the fitted arm is ahead (`pays from`) or behind (`stops paying`).
        interval: of the crossing.
        crossed: share of the bootstrap samples in which the curves cross.
    """

    answer: Answer
    ahead: list[Range] = field(default_factory=list)
    behind: list[Range] = field(default_factory=list)
    crossing: int | None = None
    interval: Range | None = None
    crossed: float = 0.0


@dataclass(frozen=True)
class LearningCurves:
    """Curves of arms, the reference first.

    Attributes:
        points: a row per arm and number of `patients`: `dice`, mean over test patients, with Student's interval `low`
            to `high`, NaN for a single test patient.
        fitted: Dice of the fitted curves by number of patients (rows) and arm (columns), up to REACH times the largest;
            None where `why_not` says why there is none.
        band: by arm but the reference, `delta` of the fitted curves, `low` and `high`, by number of patients.
        payoffs: by arm but the reference.
        test_patients: cases without a patient id count as one each.
    """

    points: pd.DataFrame
    fitted: pd.DataFrame | None
    band: dict[str, pd.DataFrame]
    payoffs: dict[str, Payoff]
    test_patients: int
    level: float
    why_not: str = ""

    @property
    def arms(self) -> list[str]:
        """Their names."""
        return list(self.points["arm"].unique())

    @property
    def numbers(self) -> list[int]:
        """Of training patients, ascending; curves beyond the last one are extrapolated."""
        return sorted(self.points["patients"].unique().tolist())


def learning_curves(table: pd.DataFrame, reference: str, level: float = 0.05) -> LearningCurves:
    """The curves of all arms of a table, and each arm against the reference.

    Args:
        table: a row per `arm`, `patients` (that it was trained on), `seed` and test case, with `case_id`, `patient_id`
            (of the test case) and `dice`.
        reference: name of an arm.
        level: of the intervals and of the statements.

    Raises:
        UserError: an arm lacks a number of patients, or has other test patients there.
    """
    arms = [reference, *(name for name in table["arm"].unique() if name != reference)]
    dice = _by_unit(table, arms)
    numbers = np.array(dice.columns.levels[1], dtype=np.float64)
    values = dice.to_numpy().reshape(len(dice), len(arms), len(numbers))  # (test patients, arms, numbers)
    rows = []
    for (arm, patients), column in dice.items():
        low, high = mean_interval(column.to_numpy(), level) or (np.nan, np.nan)
        rows.append({"arm": arm, "patients": patients, "dice": column.mean(), "low": low, "high": high})
    points, fewest = pd.DataFrame(rows), fewest_units(level)
    if len(numbers) < FEWEST_NUMBERS:
        why = f"there are only {len(numbers)} numbers of training patients, and {FEWEST_NUMBERS} are needed"
        return LearningCurves(points, None, {}, {}, len(dice), level, why)
    if len(dice) < fewest:
        why = f"there are only {len(dice)} test patients, and {fewest} are needed"
        return LearningCurves(points, None, {}, {}, len(dice), level, why)
    grid = np.unique(np.append(numbers, np.geomspace(numbers[0], REACH * numbers[-1], STEPS).round()))
    curves = fit(numbers, values.mean(axis=0))
    samples = _samples(values, _noise_of_trainings(table, arms, numbers, curves, level), numbers, grid)
    fitted = pd.DataFrame(curves(grid).T, index=grid.astype(int), columns=arms)
    delta = curves(grid)[1:] - curves(grid)[0]
    half = _half_width(delta, samples[:, 1:] - samples[:, :1], len(dice), level)
    band, payoffs = {}, {}
    for i, arm in enumerate(arms[1:]):
        ends = {"delta": delta[i], "low": delta[i] - half[i], "high": delta[i] + half[i]}
        band[arm] = pd.DataFrame(ends, index=fitted.index)
        crossed = np.diff(samples[:, i + 1] > samples[:, 0], axis=-1).any(axis=-1).mean()
        payoffs[arm] = payoff(band[arm], float(crossed))
    return LearningCurves(points, fitted, band, payoffs, len(dice), level)


def payoff(band: pd.DataFrame, crossed: float = 0.0) -> Payoff:
    """What a band says.

    Args:
        band: `delta`, `low` and `high` by ascending number of patients.
        crossed: share of the bootstrap samples in which the curves cross.
    """
    sign = np.where(band["low"] > 0, 1, np.where(band["high"] < 0, -1, 0))
    numbers, known = band.index.to_numpy(), np.flatnonzero(sign)
    changes = np.flatnonzero(np.diff(sign[known]))
    answer: Answer = "cannot tell"
    crossing, interval = None, None
    if len(changes) == 1:
        last, first = known[changes[0]], known[changes[0] + 1]
        answer = "pays from" if sign[first] > 0 else "stops paying"
        after = last + np.argmax(band["delta"].to_numpy()[last:] * sign[first] > 0)
        crossing, interval = int(numbers[after]), (int(numbers[last]), int(numbers[first]))
    elif len(known) == len(sign) and not len(changes):
        answer = "pays" if sign[0] > 0 else "does not pay"
    return Payoff(answer, _ranges(numbers, sign > 0), _ranges(numbers, sign < 0), crossing, interval, crossed)


def _ranges(numbers: Floats, chosen: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> list[Range]:
    """First and last number of each run of chosen ones."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]])))
    return [(int(numbers[start]), int(numbers[stop - 1])) for start, stop in ends.reshape(-1, 2)]


def _by_unit(table: pd.DataFrame, arms: list[str]) -> pd.DataFrame:
    """Dice by test patient (rows) and (arm, number of patients). Raises UserError where one is missing."""
    groups = dict(list(table.groupby(["arm", "patients"], sort=False)))
    every = pd.MultiIndex.from_product([arms, sorted(table["patients"].unique())], names=["arm", "patients"])
    columns = {}
    for arm, patients in every:
        if (arm, patients) not in groups:
            raise UserError(
                f"no result of the {arm} arm with {patients} training patients; `nightshift curve` makes it"
            )
        columns[arm, patients] = per_unit(groups[arm, patients], "dice")
    found = pd.DataFrame(columns).reindex(columns=every)
    if (odd := found.columns[found.isna().any()]).size:
        arm, patients = odd[0]
        raise UserError(f"the {arm} arm with {patients} training patients has other test patients than the others")
    return found


def _noise_of_trainings(
    table: pd.DataFrame, arms: list[str], numbers: Floats, curves: PowerLaw, level: float
) -> Floats:
    """Standard deviation (arms, numbers) of a mean over an arm's trainings, by their distance from the curves.

    An arm that never leaves its curve is not trained: it has none, and says nothing of that of the others.
    """
    grouped = table.groupby(["arm", "patients", "seed"])
    trainings = grouped[["case_id", "patient_id", "dice"]].apply(lambda rows: per_unit(rows, "dice").mean())
    expected = pd.DataFrame(curves(numbers), index=arms, columns=numbers).stack()
    cell = pd.MultiIndex.from_arrays([trainings.index.get_level_values(i) for i in (0, 1)])
    residuals = pd.Series(trainings.to_numpy() - expected.reindex(cell).to_numpy(), index=cell)
    trained = (residuals.abs().groupby(level=0).max() > STILL).reindex(arms).to_numpy()
    residuals = residuals[residuals.index.isin(np.array(arms)[trained], level=0)]
    if residuals.empty:
        return np.zeros((len(arms), len(numbers)))
    freedom = len(residuals) - 3 * trained.sum()
    sure = 1 - level / 2
    sigma = np.sqrt((residuals**2).sum() / freedom) * stats.t.ppf(sure, freedom) / stats.norm.ppf(sure)
    counts = trainings.groupby(level=[0, 1]).size().reindex(expected.index).to_numpy()
    return trained[:, None] * sigma / np.sqrt(counts.reshape(len(arms), len(numbers)))


def _samples(values: Floats, noise: Floats, numbers: Floats, grid: Floats) -> Floats:
    """Fitted curves (DRAWS, arms, grid) of bootstrap samples; `values` (test patients, arms, numbers)."""
    random, n = np.random.default_rng(0), len(values)
    weights = random.multinomial(n, np.full(n, 1 / n), DRAWS) / n
    means = (weights @ values.reshape(n, -1)).reshape(DRAWS, *noise.shape)
    return fit(numbers, means + noise * random.normal(size=means.shape))(grid)


def _half_width(delta: Floats, samples: Floats, units: int, level: float) -> Floats:
    """Of the simultaneous band of `delta` (arms, grid), from `samples` of it (DRAWS, arms, grid)."""
    spread = samples.std(axis=0)
    deviations = np.abs(samples - delta) / np.where(spread > 0, spread, np.inf)
    normal = np.quantile(deviations.max(axis=(1, 2)), 1 - level)
    t = stats.t.isf(stats.norm.sf(normal), units - 1)
    return t * spread * np.sqrt(units / (units - 1))
