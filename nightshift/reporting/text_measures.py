"""Names of the measures as the report shows them."""

from nightshift.evaluation.measures import CALIBRES, DISTANCES, LOWER_IS_BETTER, MEDIUM_AND_THICK
from nightshift.reporting.summary import Comparison

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
