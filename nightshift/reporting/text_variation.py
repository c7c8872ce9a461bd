"""Where the variation of Dice comes from, as a table and in sentences; nothing of it with one seed and one fold."""

from collections.abc import Mapping

from nightshift.reporting.load import ArmResults
from nightshift.reporting.numbers import interval
from nightshift.reporting.records import Interval
from nightshift.reporting.significance import mean_interval, per_unit
from nightshift.reporting.styles import inside, label
from nightshift.reporting.summary import UNDECIDED, Comparison
from nightshift.reporting.text_tables import Row
from nightshift.reporting.variation import widening


def variation_rows(comparison: Comparison, arms: Mapping[str, ArmResults]) -> list[Row]:
    """Standard deviations of Dice, and intervals of its mean; of all arms, and of their differences."""
    found = list(comparison.variations.values())
    if not found:
        return []
    intervals = {
        "other patients": [
            *(mean_interval(per_unit(arm.cases, "dice").to_numpy(), comparison.metrics.level) for arm in arms.values()),
            *(measures["dice"].interval for measures in comparison.against.values()),
        ]
    }
    if found[0].seeds is not None:
        intervals["other patients and seeds"] = [one.interval for one in found]
    if comparison.metrics.folds > 1:
        name, ends = list(intervals.items())[-1]
        intervals[f"{name}, widened"] = [_widened(one, widening(arms)) for one in ends]
    shown = {
        "Standard deviation between patients": [f"{one.patients:.3f}" for one in found],
        "Standard deviation between seeds": [f"{one.seeds:.3f}" for one in found if one.seeds is not None],
        "Standard deviation between folds": [f"{one.folds:.3f}" for one in found if one.folds is not None],
        **{f"Interval, {name}": [interval(one) for one in ends] for name, ends in intervals.items()},
    }
    return [Row(name, texts[: len(arms)], texts[len(arms) :]) for name, texts in shown.items() if texts]


def _widened(ends: Interval, by: float) -> Interval:
    """An interval about the same middle."""
    if ends is None:
        return None
    middle, half = sum(ends) / 2, by * (ends[1] - ends[0]) / 2
    return [middle - half, middle + half]


def variation_words(comparison: Comparison, arms: Mapping[str, ArmResults]) -> list[str]:
    """Which question each interval of `variation_rows` answers, and why folds make them too narrow."""
    found, sentences = list(comparison.variations.values()), []
    if found and found[0].seeds is not None:
        sentences += [
            "The interval for other patients, and the verdict, answer: would these trained models differ on other "
            "patients? That for other patients and seeds: would training again with other seeds, and testing on other "
            "patients, still give this difference?"
        ]
    if found and comparison.metrics.folds > 1:
        sentences += [
            f"The trainings of the {comparison.metrics.folds} folds share patients, so their results are not "
            "independent, and the intervals are somewhat too narrow (Bengio and Grandvalet, 2004): the last one is "
            f"widened {widening(arms):.2f} times, by the rule of thumb of Nadeau and Bengio (2003)."
        ]
    return sentences


def not_with_other_seeds(comparison: Comparison) -> list[str]:
    """A sentence on each arm with a verdict that may be due to its seeds."""
    metrics, sentences = comparison.metrics, []
    for name, one in metrics.against.items():
        found = comparison.variations.get((metrics.reference, name))
        if one.verdict != UNDECIDED and found and found.interval and found.interval[0] <= 0 <= found.interval[1]:
            sentences.append(
                f"{label(name)} is {one.verdict} than {inside(metrics.reference)} as trained here, but with other "
                f"seeds it may not be: the interval for other patients and seeds is {interval(found.interval)}."
            )
    return sentences
