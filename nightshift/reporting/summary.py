"""The numbers of a comparison: every measure of every arm against the reference, and what follows from Dice."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nightshift.config.sections import Compare
from nightshift.evaluation.measures import CALIBRATION, MEASURES, MILLIMETRES
from nightshift.reporting.load import ArmResults
from nightshift.reporting.records import Against, ArmDice, Metrics
from nightshift.reporting.significance import (
    Difference,
    check_same_cases,
    compare,
    holm,
    mean_interval,
    patients_needed,
    per_unit,
    round6,
    sign_flip_test,
    size,
    verdict,
)

UNDECIDED = "undecided"
FOLDS = 1  # the cases are split once
COLUMNS = ["measure", "reference", "arm", "reference_mean", "arm_mean", "delta", "low", "high", "p", "p_holm"]


@dataclass(frozen=True)
class Comparison:
    """All numbers of the report.

    `means`: by arm and measure, over patients. `against`: by arm (but the reference) and measure. Measures are
    MEASURES, CALIBRATION and MILLIMETRES, as far as all arms know them in some case; `known`: in how many cases.
    `best`: the arm with the highest Dice; `not_told`: the arms that are not told from it at `metrics.level`.
    """

    metrics: Metrics
    known: dict[str, int]
    means: dict[str, dict[str, float]]
    against: dict[str, dict[str, Difference]]
    best: str
    not_told: list[str]

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
    corrected = holm({name: of_arm["dice"].p for name, of_arm in against.items()})
    dice = {name: per_unit(rows, "dice") for name, rows in cases.items()}
    best, not_told = ranked(dice, level)
    count, patients = size(cases[reference])
    metrics = Metrics(
        reference=reference,
        verdict=best if others and not not_told else UNDECIDED,
        recommended=recommended(dice, {name: arm.seconds for name, arm in arms.items()}, chosen),
        level=level,
        patients_needed=_needed(dice, best, not_told, level),
        arms={n: ArmDice(dice=round6(v.mean()), ci95=mean_interval(v.to_numpy())) for n, v in dice.items()},
        against={
            name: Against(
                delta=of_arm["dice"].delta,
                ci95=of_arm["dice"].ci95,
                p=of_arm["dice"].p,
                p_holm=round6(corrected[name]),
                verdict=verdict(of_arm["dice"].delta, corrected[name], level),
            )
            for name, of_arm in against.items()
        },
        cases=count,
        patients=patients,
        folds=FOLDS,
        seeds=min(rows["seed"].nunique() for rows in cases.values()),
    )
    means = {name: {m: round6(per_unit(rows, m).mean()) for m in known} for name, rows in cases.items()}
    return Comparison(metrics, known, means, _corrected(against), best, not_told)


def _known(measure: str, arms: Iterable[pd.DataFrame]) -> int:
    """In how many cases all arms know a measure: not where no probabilities are, nor vessels of a calibre."""
    return min(rows["case_id"][rows[measure].notna()].nunique() if measure in rows else 0 for rows in arms)


def ranked(dice: Mapping[str, "pd.Series[float]"], level: float) -> tuple[str, list[str]]:
    """The arm with the highest mean, and those that are not told from it (paired sign-flip test, p after Holm).

    Args:
        dice: by arm and unit, as `significance.per_unit`.
        level: of significance.
    """
    best = max(dice, key=lambda name: dice[name].mean())
    p = {name: sign_flip_test((dice[best] - d).to_numpy(), level).p for name, d in dice.items() if name != best}
    return best, [name for name, value in holm(p).items() if value >= level]


def recommended(
    dice: Mapping[str, "pd.Series[float]"], seconds: Mapping[str, float | None], chosen: Compare
) -> str | None:
    """The cheapest arm of those that are not worse than the best by more than chosen.margin; None without costs.

    That is, whose paired interval of arm - best lies above -margin. The best always is one of them.

    Args:
        dice: by arm and unit, as `significance.per_unit`.
        seconds: to encode and train, by arm.
        chosen: level of the interval, and margin.
    """
    best = max(dice, key=lambda name: dice[name].mean())
    known = {name: cost for name, cost in seconds.items() if cost is not None}
    if len(known) < len(dice):
        return None

    def is_close(name: str) -> bool:
        interval = sign_flip_test((dice[name] - dice[best]).to_numpy(), chosen.level).interval
        return interval is not None and interval[0] > -chosen.margin

    close = [name for name in dice if name == best or is_close(name)]
    return min(close, key=lambda name: (known[name], -dice[name].mean()))


def _needed(dice: Mapping[str, "pd.Series[float]"], best: str, not_told: list[str], level: float) -> int | None:
    """Patients that would tell the best arm from all others; None where it is told, or no number would."""
    each = [patients_needed((dice[best] - dice[name]).to_numpy(), level / (len(dice) - 1)) for name in not_told]
    return None if None in each else max(filter(None, each), default=None)


def _corrected(against: dict[str, dict[str, Difference]]) -> dict[str, dict[str, Difference]]:
    """With `p_holm` for there being several measures and arms; none in millimetres, which are measures once more."""
    p = {(name, m): one.p for name, of_arm in against.items() for m, one in of_arm.items() if m not in MILLIMETRES}
    corrected = holm(p)
    return {
        name: {
            m: replace(one, p_holm=round6(corrected[name, m])) if (name, m) in p else one for m, one in of_arm.items()
        }
        for name, of_arm in against.items()
    }


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
            "p_holm": np.nan if one.p_holm is None else one.p_holm,
        }
        for measure in comparison.measures
        for name, one in ((name, measures[measure]) for name, measures in comparison.against.items())
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
