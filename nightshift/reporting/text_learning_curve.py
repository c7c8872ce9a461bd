"""What learning curves say, in sentences."""

from nightshift.reporting.learning_curve import LearningCurves, Payoff, Range
from nightshift.reporting.styles import in_words, inside, label


def sentences(curves: LearningCurves) -> list[str]:
    """Of each arm but the reference whether, and from which number of training patients on, it pays."""
    if curves.fitted is None:
        return [f"From how many patients on an arm pays cannot be told: {curves.why_not}."]
    smallest, *_, largest = curves.numbers
    span, told = f"from {smallest} to {curves.fitted.index[-1]}", []
    for name, found in curves.payoffs.items():
        claimed = [found.interval] if found.interval else [*found.ahead, *found.behind]
        beyond = any(end > largest for _, end in claimed)
        share = f"{100 * found.crossed:.0f} % of the bootstrap samples"
        crossed = f"In {share} its curve crosses that of {inside(curves.arms[0])}."
        extrapolated = f" What is said of more than {largest} is extrapolated." if beyond else ""
        told.append(f"{_answer(name, found, span, 1 - curves.level)} {crossed}{extrapolated}")
    return told


def _answer(arm: str, found: Payoff, span: str, confidence: float) -> str:
    if found.interval:
        low, high = found.interval
        verb = "pays" if found.answer == "pays from" else "stops paying"
        sure = f"({100 * confidence:g} % interval {low} to {high})"
        return f"{label(arm)} {verb} from {found.crossing} training patients on {sure}."
    if found.answer == "pays":
        return f"{label(arm)} pays at every number of training patients {span}."
    if found.answer == "does not pay":
        return f"{label(arm)} does not pay at any number of training patients {span}."
    known = " and ".join(filter(None, (_ranges("pays", found.ahead), _ranges("does not pay", found.behind))))
    which = "any other" if known else "any"
    rest = f"hese data cannot tell whether {inside(arm)} pays at {which} number of training patients {span}."
    return f"{label(arm)} {known} training patients; t{rest}" if known else f"T{rest}"


def _ranges(verb: str, ranges: list[Range]) -> str:
    """`pays at 8 to 30`, or nothing."""
    return f"{verb} at {in_words(f'{low} to {high}' for low, high in ranges)}" if ranges else ""
