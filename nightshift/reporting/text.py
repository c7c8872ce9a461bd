"""The answer in words, and other sentences of the report: each is written from the data, none is in every report."""

from collections.abc import Mapping, Sequence

import pandas as pd

from nightshift.core.records import Cost
from nightshift.reporting.load import ArmResults
from nightshift.reporting.numbers import duration, interval, millions, p_value, ratio
from nightshift.reporting.records import Metrics
from nightshift.reporting.significance import units
from nightshift.reporting.styles import in_words, inside, label, subject
from nightshift.reporting.summary import UNDECIDED, Comparison

MANY = 10_000  # patients; a number above is not shown, only that it is more


def answer(comparison: Comparison, arms: Mapping[str, ArmResults], margin: float) -> tuple[str, str]:
    """The report's first line: the verdict, and the rest of the sentence with how much, how sure and at what cost.

    Args:
        comparison: the numbers.
        arms: the results, the reference first.
        margin: Dice that a recommended arm may lose against the best, compare.margin.
    """
    return _of_two(comparison, arms) if len(arms) == 2 else _of_many(comparison, arms, margin)


def _of_two(comparison: Comparison, arms: Mapping[str, ArmResults]) -> tuple[str, str]:
    (_, one), (name, other) = arms.items()
    dice, metrics = comparison.against[name]["dice"], comparison.metrics
    shown = f" {interval(dice.interval)}" if dice.interval else ""
    parts = [f"{label(name)} {dice.delta:+.3f} Dice{shown}", p_value(dice.p)]
    if one.seconds is not None and other.seconds is not None:
        parts.append(f"{ratio(one.seconds, other.seconds)} the time to encode and train")
        parts.append(_more_parameters(one.costs, other.costs))
    text = f"{', '.join(parts)}; {dice.other:.3f} against {dice.reference:.3f}, {units(one.cases)}."
    if metrics.verdict == UNDECIDED:
        return "Undecided", f"{text} {needed_patients(dice.delta, metrics)}"
    return f"{label(comparison.best)} is better", text


def _of_many(comparison: Comparison, arms: Mapping[str, ArmResults], margin: float) -> tuple[str, str]:
    """Also of a single arm, of which only its Dice can be said."""
    metrics, best, reference = comparison.metrics, comparison.best, comparison.metrics.reference
    dice, cases = metrics.arms[best], arms[best].cases
    shown = f" {interval(dice.ci95)}" if dice.ci95 else ""
    if not comparison.others:
        return "Nothing to compare", f"{label(best)} {dice.dice:.3f} Dice{shown}; {units(cases)}."
    similar = comparison.not_told
    if len(similar) == len(comparison.from_best):
        told = "not told from any other arm"
    else:
        told = f"not told from {in_words(map(inside, similar))}" if similar else "told from every other arm"
    text = f"{label(best)} has the highest Dice of {len(arms)} arms, {dice.dice:.3f}{shown}, {told}; {units(cases)}."
    if best != reference:
        one = comparison.against[best]["dice"]
        shown = f" {interval(one.interval)}" if one.interval else ""
        p = p_value(metrics.against[best].p_holm)
        text += f" Against {inside(reference)} it is {one.delta:+.3f} Dice{shown}, {p} after Holm."
    if metrics.recommended is not None:
        text += _cost(best, reference, arms) + _recommended(metrics.recommended, best, margin)
    if metrics.verdict == UNDECIDED:
        equal = metrics.patients_needed is None and metrics.patients > 1
        return "Undecided", f"{text} {needed_patients(0.0 if equal else 1.0, metrics)}"
    return f"{label(best)} is best", text


def _cost(best: str, reference: str, arms: Mapping[str, ArmResults]) -> str:
    """A sentence on the time of the best arm, beside that of the reference."""
    seconds, usual = arms[best].seconds or 0.0, arms[reference].seconds or 0.0
    text = f" It takes {duration(seconds)} to encode and train"
    if best == reference or not usual:
        return f"{text}."
    more = _more_parameters(arms[reference].costs, arms[best].costs)
    return f"{text}, {ratio(usual, seconds)} the time of {inside(reference)}, with {more}."


def _recommended(name: str, best: str, margin: float) -> str:
    if name == best:
        return f" It is recommended: no cheaper arm is shown to lose at most {margin:g} Dice against it."
    return f" Recommended is {inside(name)}, the cheapest arm that is sure to lose at most {margin:g} Dice against it."


def random_weights(arms: Mapping[str, ArmResults]) -> str:
    """A sentence on the arms whose encoder has random weights; empty where none has."""
    of_random = [name for name, arm in arms.items() if any(card.weights["path"] == "random" for card in arm.cards)]
    return of_random_weights(of_random, len(arms)) if of_random else ""


def of_random_weights(names: Sequence[str], arms: int) -> str:
    """A sentence on the arms, of so many, whose encoder has random weights."""
    which = "This encoder" if len(names) == arms else f"The encoder of {in_words(map(inside, names))}"
    return f"{which} has random weights."


def rope_answers(arms: Mapping[str, ArmResults]) -> list[tuple[str, str]]:
    """(arms, whether SAM 3's encoder runs as they use it), those with the same answer together."""
    by_answer: dict[str, list[str]] = {}
    for name, arm in arms.items():
        if arm.probe is None or arm.probe.prefix is None:
            answer = "not asked, the encoder is not used."
        elif arm.probe.ok:
            answer = "yes, it runs as configured."
        else:
            answer = f"no. {arm.probe.cause} {arm.probe.cure}".strip()
        by_answer.setdefault(answer, []).append(name)
    return [(subject(names), answer) for answer, names in by_answer.items()]


def not_trained(arms: Mapping[str, ArmResults]) -> str:
    """A sentence on the arms that have no curves; empty where all have them."""
    names = [name for name, arm in arms.items() if not arm.trained]
    return f"{subject(names)}: nothing is trained, so there is no curve." if names else ""


def _more_parameters(reference: Mapping[str, Cost], other: Mapping[str, Cost]) -> str:
    """`0.15 M more parameters trained`."""
    more = (other["train"].parameters_trained or 0) - (reference["train"].parameters_trained or 0)
    return f"{millions(abs(more))} {'more' if more >= 0 else 'fewer'} parameters trained"


def wins(reference: str, other: str, dice: Mapping[str, "pd.Series[float]"]) -> str:
    """A sentence on how often which of two arms is ahead.

    Args:
        reference: name of an arm.
        other: of the arm measured against it.
        dice: by arm and case.
    """
    gain = dice[other] - dice[reference]
    more, less = int((gain > 0).sum()), int((gain < 0).sum())
    first = f"{label(other)} has the higher Dice in {more} of {len(gain)} test cases"
    return f"{first}, the {inside(reference)} arm in {less}."


def needed_patients(delta: float, metrics: Metrics) -> str:
    """What a next study would need, in a sentence."""
    needed, level = metrics.patients_needed, metrics.level
    if delta == 0:
        return "The arms do not differ: no number of patients would tell them apart."
    if needed is None:
        return "How many patients would decide it cannot be told from a single one."
    if needed <= metrics.patients:
        return "These models differ on these patients, but other seeds may change that: more seeds would decide it."
    count = f"About {needed:,}" if needed <= MANY else f"More than {MANY:,}"
    return f"{count} patients would decide it at p < {level:g}, if the true difference is the one seen (power 80 %)."


def title(names: list[str]) -> str:
    """What is compared, for the line above the answer."""
    if set(names) == {"frozen", "lora"}:
        return "a frozen SAM 3 encoder against LoRA on coronary angiograms."
    reference, *others = names
    against = f" against {inside(reference)}" if others else ""
    return f"{in_words(map(inside, others or [reference]))}{against} on coronary angiograms."
