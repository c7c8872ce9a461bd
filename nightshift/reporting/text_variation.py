"""Where the variation of Dice comes from, as a table and in sentences; nothing of it with one seed and one fold."""

from collections.abc import Mapping

from nightshift.reporting.load import ArmResults
from nightshift.reporting.numbers import interval
from nightshift.reporting.records import Interval
from nightshift.reporting.summary import Comparison
from nightshift.reporting.text_tables import Row
from nightshift.reporting.variation import widening


def variation_rows(comparison: Comparison, arms: Mapping[str, ArmResults]) -> list[Row]:
    """Standard deviations of Dice, and intervals of its mean; of all arms, and of their differences."""
    found = list(comparison.variations.values())
    if not found:
        return []
    intervals = {"other patients": [one.interval for one in found]}
    if found[0].seeds is not None:
        intervals["other patients and seeds"] = [one.with_seeds for one in found]
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
            "The interval for other patients answers: would these trained models differ on other patients? That for "
            "other patients and seeds, which the verdict rests on: would training again with other seeds, and testing "
            "on other patients, still give this difference?"
        ]
    if found and comparison.metrics.folds > 1:
        sentences += [
            f"The trainings of the {comparison.metrics.folds} folds share patients, so their results are not "
            "independent, and the intervals are somewhat too narrow (Bengio and Grandvalet, 2004): the last one is "
            f"widened {widening(arms):.2f} times, by the rule of thumb of Nadeau and Bengio (2003)."
        ]
    return sentences
