"""What the report says of a second data set, on which nothing was trained or chosen; nothing where there is none."""

from collections.abc import Mapping, Sequence

import pandas as pd

from nightshift.core.records import BetweenSets
from nightshift.reporting.load import ArmResults
from nightshift.reporting.numbers import interval, p_value
from nightshift.reporting.significance import mean_interval, per_unit
from nightshift.reporting.styles import inside, label
from nightshift.reporting.summary import Comparison
from nightshift.reporting.text_tables import Row


def external_rows(comparison: Comparison, arms: Mapping[str, ArmResults], sets: BetweenSets) -> list[Row]:
    """Dice on the first set and on the second, each with its interval; of all arms, and of their differences."""
    if comparison.external is None:
        return []
    return [
        _row(sets.first, comparison, [arm.cases for arm in arms.values()]),
        _row(sets.second, comparison.external, [arm.external for arm in arms.values()]),
    ]


def _row(name: str, comparison: Comparison, tables: Sequence[pd.DataFrame]) -> Row:
    dice = [per_unit(table, "dice").to_numpy() for table in tables]
    level, differences = comparison.metrics.level, [of["dice"] for of in comparison.against.values()]
    return Row(
        name,
        [f"{one.mean():.3f} {interval(mean_interval(one, level))}" for one in dice],
        [f"{one.delta:+.3f} {interval(one.interval)}" for one in differences],
    )


def external_words(comparison: Comparison, arms: Mapping[str, ArmResults], sets: BetweenSets) -> list[str]:
    """How the second set was predicted, what each arm does there, and what may connect it with the first."""
    there = comparison.external
    if there is None:
        return []
    models = {len(arm.cards) for arm in arms.values()}
    by = f"all {models.pop()} models" if len(models) == 1 and models != {1} else "the models"
    corrected = " after Holm" if len(there.metrics.against) > 1 else ""
    sentences = [
        f"Nothing was trained or chosen on {sets.second}. Each of its {there.metrics.cases} cases is predicted by "
        f"{by} of an arm, each at its own threshold, and counts with the mean of them."
    ]
    for name, one in there.metrics.against.items():
        difference = there.against[name]["dice"]
        sentences.append(
            f"{label(name)} against {inside(comparison.metrics.reference)}: {one.verdict}, {one.delta:+.3f} Dice "
            f"{interval(difference.interval)}, {p_value(one.p_holm)}{corrected}; on {sets.first} it is "
            f"{comparison.metrics.against[name].verdict}."
        )
    return sentences + sets.warnings()
