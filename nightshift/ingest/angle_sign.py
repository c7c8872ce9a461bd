"""Finds primary angles with the wrong sign: views of the right coronary artery that lie mostly in RAO.

Of the usual views of the right coronary artery three are LAO (45, cranial and lateral) and one is RAO (Di Mario and
Sutaria, Heart 2005, 91:968); the left one is taken from both sides and tells nothing. Which artery a case shows is
read from a further column of the user's table, such as `vessel_name` with RCA, LAD and LCX, `vessel_pattern` with
MID_RCA, or `cass_segment` with numbers.
"""

import re
from collections.abc import Iterable

from scipy.stats import binomtest

from nightshift.ingest.record import SourceCase
from nightshift.ingest.splits import unit

AP = 10.0  # degrees; a view that is nearer to AP is on neither side
LEVEL = 0.05  # of a one-sided binomial test against as many views in RAO as in LAO; takes five views at least
# Words that name an artery, such as RCA, mid_RCA, pLAD; p, m, d: proximal, middle, distal.
RIGHT, LEFT = re.compile(r"[pmd]?rca"), re.compile(r"[pmd]?(?:lad|lcx|cx|lca)|lm|lmca")
NUMBERED = re.compile(r"(?:cass|syntax).*segment")  # columns of segments by number
RIGHT_SEGMENTS = re.compile(r"0*[1-4](?:\.0*)?")  # proximal, middle, distal and PDA, in CASS and in SYNTAX


def sign_warning(cases: list[SourceCase]) -> str:
    """One line with the counts where most views of the right coronary artery are RAO; else empty.

    Several cases of one patient with the same angles, such as frames of one cine, are one view. Nothing is said where
    no column names arteries, or where there are too few views.
    """
    names = dict.fromkeys(name for case in cases for name in case.groups)
    of_right = {name: list(_of_right(cases, name)) for name in names}
    column = max(of_right, key=lambda name: len(of_right[name]), default="")
    views = {(unit(case), case.angles) for case in of_right.get(column, ()) if case.angles}
    primary = [angles[0] for _, angles in views if abs(angles[0]) >= AP]
    rao = sum(angle < 0 for angle in primary)
    if not primary or binomtest(rao, len(primary), alternative="greater").pvalue >= LEVEL:
        return ""
    return (
        f"{rao} of {len(primary)} views of the right coronary artery (by the column {column}) have a negative primary "
        "angle, RAO, but it is mostly taken in LAO: check the sign; LAO is positive"
    )


def _of_right(cases: list[SourceCase], column: str) -> Iterable[SourceCase]:
    """The cases of the right coronary artery; none where fewer than half of the column's cells name an artery."""
    filled = [case for case in cases if case.groups.get(column)]
    if NUMBERED.search(column.casefold()):
        return [case for case in filled if RIGHT_SEGMENTS.fullmatch(case.groups[column])]
    words = {case.case_id: re.findall("[a-z]+", case.groups[column].casefold()) for case in filled}
    right, left = (
        {case_id for case_id, found in words.items() if any(name.fullmatch(word) for word in found)}
        for name in (RIGHT, LEFT)
    )
    return [case for case in filled if case.case_id in right - left] if 2 * len(right ^ left) >= len(filled) else []
