"""The numbers of a comparison: every measure of every arm against the reference, and what follows from Dice."""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TypeVar

import numpy as np
import pandas as pd

from nightshift.config.sections import Compare
from nightshift.console.errors import UserError
from nightshift.evaluation.measures import CALIBRATION, MEASURES, MILLIMETRES
from nightshift.reporting.load import ArmResults
from nightshift.reporting.records import Against, ArmDice, ExternalMetrics, Metrics
from nightshift.reporting.significance import (
    Difference,
    check_same_cases,
    compare,
    holm,
    mean_interval,
    patients_needed,
    per_unit,
    round6,
    size,
    verdict,
)
from nightshift.reporting.variation import Variation, variations

UNDECIDED = "undecided"
Key = TypeVar("Key", bound=Hashable)
COLUMNS = ["measure", "reference", "arm", "reference_mean", "arm_mean", "delta", "low", "high", "p", "p_holm"]


@dataclass(frozen=True)
class Comparison:
    """All numbers of the report.

    `means`: by arm and measure, over patients. `against`: by arm (but the reference) and measure. Measures are
    MEASURES, CALIBRATION and MILLIMETRES, as far as all arms know them in some case; `known`: in how many cases.
    `best`: the arm with the highest Dice; `from_best`: of every other arm, its Dice minus that of the best, p corrected
    for all pairs of arms, since which is the best is seen only afterwards. `variations`: as the function. `external`:
    the same numbers of a second data set, where there is one; a case counts with its mean over all models of an arm.
    """

    metrics: Metrics
    known: dict[str, int]
    means: dict[str, dict[str, float]]
    against: dict[str, dict[str, Difference]]
    best: str
    from_best: dict[str, Difference]
    variations: dict[tuple[str, ...], Variation]
    external: "Comparison | None" = None

    @property
    def not_told(self) -> list[str]:
        """The arms that are not told from the best at `metrics.level`."""
        return not_told(self.from_best, self.metrics.level)

    @property
    def measures(self) -> list[str]:
        """Names of the measures, those in millimetres last."""
        return list(self.known)

    @property
    def tested(self) -> list[str]:
        """The measures but those in millimetres, which are measures once more: p is corrected for their number."""
        return [name for name in self.known if name not in MILLIMETRES]

    @property
    def others(self) -> list[str]:
        """The arms that are measured against the reference."""
        return list(self.against)


def summarise(arms: Mapping[str, ArmResults], chosen: Compare) -> Comparison:
    """The numbers of a comparison of `arms`, of which the first is the reference.

    The verdict rests on Dice alone, which was chosen before anything was seen; so it is not corrected for the other
    measures, but for the number of arms.

    Raises:
        UserError: the arms have different cases.
    """
    reference, *others = arms
    level, cases = chosen.level, {name: arm.cases for name, arm in arms.items()}
    check_same_cases(cases)
    known = {m: _known(m, cases.values()) for m in (*MEASURES, *CALIBRATION, *MILLIMETRES)}
    known = {measure: count for measure, count in known.items() if count}
    against = {name: {m: compare(cases[reference], cases[name], m, level) for m in known} for name in others}
    dice_against = _corrected({name: of_arm["dice"] for name, of_arm in against.items()})
    dice = {name: per_unit(rows, "dice") for name, rows in cases.items()}
    best = max(dice, key=lambda name: dice[name].mean())
    pairs = combinations(sorted(cases, key=lambda name: name != best), 2)  # the best is the first of each of its pairs
    every = _corrected({(a, b): compare(cases[a], cases[b], "dice", level) for a, b in pairs})
    from_best = {other: one for (first, other), one in every.items() if first == best}
    equal = not_told(from_best, level)
    count, patients = size(cases[reference])
    metrics = Metrics(
        reference=reference,
        verdict=(UNDECIDED if equal else best) if others else None,
        recommended=recommended(best, from_best, {name: arm.seconds for name, arm in arms.items()}, chosen.margin),
        level=level,
        patients_needed=_needed(dice, best, equal, level),
        arms={n: ArmDice(dice=round6(v.mean()), ci95=mean_interval(v.to_numpy())) for n, v in dice.items()},
        against={
            name: Against(
                delta=one.delta,
                ci95=one.ci95,
                p=one.p,
                p_holm=one.p_holm,
                verdict=verdict(one.delta, one.p_holm, level),
            )
            for name, one in dice_against.items()
        },
        cases=count,
        patients=patients,
        folds=cases[reference]["fold"].nunique(),
        seeds=min(rows["seed"].nunique() for rows in cases.values()),
    )
    means = {name: {m: round6(per_unit(rows, m).mean()) for m in known} for name, rows in cases.items()}
    differences = _corrected_measures(against)
    found = Comparison(metrics, known, means, differences, best, from_best, variations(arms, level))
    return _with_external(found, arms, chosen)


def _with_external(found: Comparison, arms: Mapping[str, ArmResults], chosen: Compare) -> Comparison:
    """With the numbers of a second data set. Raises UserError as `summarise` does."""
    lacking = [name for name, arm in arms.items() if arm.external.empty]
    if len(lacking) == len(arms):
        return found
    if lacking:
        where = f"reports/evaluation/{lacking[0]}/external.csv"
        raise UserError(f"{where}: no rows, as other arms have; run: dvc repro -f evaluate@{lacking[0]}")
    there = summarise({n: replace(arm, cases=arm.external, external=pd.DataFrame()) for n, arm in arms.items()}, chosen)
    of_it = ExternalMetrics(**{key: getattr(there.metrics, key) for key in ExternalMetrics.model_fields})
    return replace(found, metrics=found.metrics.model_copy(update={"external": of_it}), external=there)


def _known(measure: str, arms: Iterable[pd.DataFrame]) -> int:
    """In how many cases all arms know a measure: not where no probabilities are, nor vessels of a calibre."""
    return min(rows["case_id"][rows[measure].notna()].nunique() if measure in rows else 0 for rows in arms)


def _corrected(differences: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """With `p_holm` for there being several."""
    corrected = holm({key: one.p for key, one in differences.items()})
    return {key: replace(one, p_holm=round6(corrected[key])) for key, one in differences.items()}


def _corrected_measures(against: dict[str, dict[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """For there being several measures and arms; none in millimetres, which are measures once more."""
    every = {(name, m): one for name, of_arm in against.items() for m, one in of_arm.items()}
    corrected = _corrected({key: one for key, one in every.items() if key[1] not in MILLIMETRES})
    return {name: {m: corrected.get((name, m), one) for m, one in of_arm.items()} for name, of_arm in against.items()}


def not_told(from_best: Mapping[str, Difference], level: float) -> list[str]:
    """The arms that are not told from the best, by p after Holm."""
    return [name for name, one in from_best.items() if one.p_holm >= level]


def recommended(
    best: str, from_best: Mapping[str, Difference], seconds: Mapping[str, float | None], margin: float
) -> str | None:
    """The cheapest arm that is not worse than the best by more than `margin`; None without costs.

    That is, whose paired interval of arm - best lies above -margin, or the best itself. Of equally cheap arms the
    better one.

    Args:
        best: the arm with the highest Dice.
        from_best: of all others.
        seconds: to encode and train, by arm.
        margin: of Dice.
    """
    known = {name: cost for name, cost in seconds.items() if cost is not None}
    if len(known) < len(seconds):
        return None
    close = {name: one.delta for name, one in from_best.items() if one.interval and one.interval[0] > -margin}
    close[best] = 0.0
    return min(close, key=lambda name: (known[name], -close[name]))


def _needed(dice: Mapping[str, "pd.Series[float]"], best: str, not_told: list[str], level: float) -> int | None:
    """Patients that would tell the best arm from all others; None where it is told, or no number would."""
    corrected = level / max(math.comb(len(dice), 2), 1)
    each = [patients_needed((dice[best] - dice[name]).to_numpy(), corrected) for name in not_told]
    return None if None in each else max(filter(None, each), default=None)


def measures_table(comparison: Comparison) -> pd.DataFrame:
    """A row per measure and arm but the reference: means of both, difference, its interval at `level`, p, p by Holm."""
    rows = [
        {
            "measure": measure,
            "reference": comparison.metrics.reference,
            "arm": name,
            "reference_mean": one.reference,
            "arm_mean": one.other,
            "delta": one.delta,
            "low": (one.interval or [np.nan, np.nan])[0],
            "high": (one.interval or [np.nan, np.nan])[1],
            "p": one.p,
            "p_holm": one.p_holm,
        }
        for measure in comparison.measures
        for name, one in ((name, measures[measure]) for name, measures in comparison.against.items())
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
