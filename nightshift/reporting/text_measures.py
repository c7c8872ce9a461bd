"""The measures as the report shows them: their names, sentences on calibration, recall by calibre."""

from collections.abc import Mapping

from nightshift.evaluation.measures import CALIBRATION, CALIBRES, DISTANCES, LOWER_IS_BETTER, MEDIUM_AND_THICK
from nightshift.reporting.load import ArmResults
from nightshift.reporting.records import Interval
from nightshift.reporting.significance import mean_interval, per_unit
from nightshift.reporting.styles import label
from nightshift.reporting.summary import Comparison

SHARES = ("probability", "vessel")  # of a bin: what is said, and what is true
NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "cldice": "clDice",
    "hd95": "HD95",
    "precision": "Precision",
    "recall": "Recall",
    "asd": "Surface distance",
    "betti0_error": "Betti-0 error, pieces",
    "ece": "ECE",
    "brier": "Brier score",
}


def measure_name(measure: str, comparison: Comparison) -> str:
    """`HD95, px (lower is better)`, or `Recall, vessels from 10 px (5 of 9 cases)` where other cases have no such."""
    name, in_mm, _ = measure.partition("_mm")
    shown = f"Recall, vessels {calibre(measure, comparison)}" if measure in CALIBRES else NAMES[name]
    unit = f", {'mm' if in_mm else 'px'}" if name in DISTANCES else ""
    lower = " (lower is better)" if measure in LOWER_IS_BETTER else ""
    known, cases = comparison.known[measure], comparison.metrics.cases
    return f"{shown}{unit}{lower}{f' ({known} of {cases} cases)' if known < cases else ''}"


def calibre(measure: str, comparison: Comparison) -> str:
    """Diameters of the vessels of one of CALIBRES: `below 5 px`, `5 to 10 px`, `from 10 px`."""
    unit = "mm" if "hd95_mm" in comparison.measures else "px"
    medium, thick = (f"{limit:g}" for limit in MEDIUM_AND_THICK[unit])
    ranges = f"below {medium}", f"{medium} to {thick}", f"from {thick}"
    return f"{ranges[CALIBRES.index(measure)]} {unit}"


def errors(means: Mapping[str, float]) -> str:
    """`ECE 0.012, Brier score 0.034`."""
    return ", ".join(f"{NAMES[name]} {means[name]:.3f}" for name in CALIBRATION)


def calibration(arms: Mapping[str, ArmResults], comparison: Comparison) -> list[str]:
    """Per arm a sentence on how sure it is of its vessels, and how right; none where no probabilities are known."""
    if not all(len(arm.reliability) for arm in arms.values()):
        return []
    return [f"{label(name)}: {_sure(arm)}; {errors(comparison.means[name])}." for name, arm in arms.items()]


def _sure(arm: ArmResults) -> str:
    upper = arm.reliability[arm.reliability["low"] >= 0.5].dropna()
    if upper.empty:
        return "no pixel has a probability of 0.5 or more"
    said, vessel = (float((upper[name] * upper["pixels"]).sum() / upper["pixels"].sum()) for name in SHARES)
    return f"pixels of 0.5 or more have a mean probability of {said:.2f}, and {vessel:.0%} of them are vessel"


def recalls(arms: Mapping[str, ArmResults], comparison: Comparison) -> dict[str, list[tuple[float, Interval]]]:
    """Recall and its interval of each arm, by calibre, as `below 5 px, 34 of 40 cases`."""
    return {
        f"{calibre(name, comparison)}, {comparison.known[name]} of {comparison.metrics.cases} cases": [
            (comparison.means[arm][name], mean_interval(per_unit(of_arm.cases, name).dropna().to_numpy()))
            for arm, of_arm in arms.items()
        ]
        for name in CALIBRES
        if name in comparison.known
    }
