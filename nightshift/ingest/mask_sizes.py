"""Finds columns of masks that mark different things, such as the whole tree in one and one segment in another."""

from collections.abc import Mapping
from statistics import median

from nightshift.config.presets import BySplit
from nightshift.ingest.case_check import CaseCheck
from nightshift.ingest.splits import Split

FACTOR = 2.0  # between the medians of two columns; a pseudo-label that is a pixel too wide comes near it
FEW = 5  # cases; fewer have no median to speak of


def size_warning(columns: BySplit, split: Split, checks: Mapping[str, CaseCheck]) -> str:
    """One line where the masks of one column mark far more of their frames than those of another; else empty."""
    shares: dict[str, list[float]] = {}
    for part, cases in split.items():
        shares.setdefault(getattr(columns, part), []).extend(checks[case.case_id].share for case in cases)
    medians = sorted((median(of_column), name) for name, of_column in shares.items() if len(of_column) >= FEW)
    if not medians or medians[-1][0] < FACTOR * medians[0][0]:
        return ""
    (small, low), (large, high) = medians[0], medians[-1]
    return (
        f"masks of {high} mark {large:.1%} of their frame, those of {low} {small:.1%} (medians): make sure that both "
        "mark the same vessels"
    )
