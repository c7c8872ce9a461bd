"""Finds frames in different parts of a split that are one picture, or that are probably of one cine or one patient."""

from collections.abc import Mapping

import numpy as np

from nightshift.core.records import SimilarCase, SimilarFrames, SimilarPair
from nightshift.data.locations import SPLITS
from nightshift.ingest import near_duplicates, similar_frames
from nightshift.ingest.case_check import CaseCheck
from nightshift.ingest.record import Problem, SourceCase
from nightshift.ingest.splits import Split, unit

SHOWN = 5  # pairs that are listed

Checks = Mapping[str, CaseCheck]
Links = list[tuple[SourceCase, SourceCase, float]]


def same_frames(split: Split, checks: Checks, name_files: bool) -> list[Problem]:
    """A problem for each case whose frame is also that of another patient in a later part of the split.

    The case in the earlier part is the one reported: with `prepare.on_problem: skip` the test case stays.
    """
    problems: list[Problem] = []
    units: dict[str, int] = {}
    for i, part in enumerate(SPLITS[:-1]):
        cases = [case for case in split[part] if checks[case.case_id].sketch is not None]
        later = [(case, name) for name in SPLITS[i + 1 :] for case in split[name]]
        later = [(case, name) for case, name in later if checks[case.case_id].sketch is not None]
        if not cases or not later:
            continue
        groups = (cases, [case for case, _ in later])
        sketches = [np.stack([checks[case.case_id].sketch for case in group]) for group in groups]  # type: ignore[misc]
        numbers = [np.array([units.setdefault(unit(case), len(units)) for case in group]) for group in groups]
        index, correlation = near_duplicates.nearest(sketches[0], sketches[1], numbers[0], numbers[1])
        for case, which, value in zip(cases, index, correlation, strict=True):
            if value >= near_duplicates.SAME:
                other, name = later[which]
                same = checks[case.case_id].frame == checks[other.case_id].frame
                file, how = case.files[0] if name_files else "frame", "the very" if same else "nearly the"
                text = f"{file}: in {part}, and {how} frame of case '{other.case_id}' in {name} ({other.where})"
                cure = "keep one of them, or both in one split, as one patient"
                problems.append(Problem(case.where, case.case_id, f"{text}; {cure}"))
    return problems


def links(cases: list[SourceCase], checks: Checks) -> Links:
    """Pairs of cases with their similarity, the most alike first, where at least one of them has no patient id.

    Not all pairs: each case with those that may be like it, whether they are or not.
    """
    compared = [case for case in cases if checks[case.case_id].pattern is not None]
    patterns = [checks[case.case_id].pattern for case in compared]
    pairs = similar_frames.similar_pairs(
        [one for one in patterns if one is not None], [unit(case) for case in compared],
        [not case.patient_id for case in compared],
    )  # fmt: skip
    return [(compared[i], compared[j], value) for i, j, value in pairs]


def groups(pairs: Links) -> dict[str, str]:
    """By unit, the name of the group that `similar_frames.together` puts it in, for pairs that are similar."""
    return similar_frames.together(
        (unit(first), unit(second)) for first, second, value in pairs if value >= similar_frames.SIMILAR
    )


def across(pairs: Links, split: Split, name_files: bool) -> SimilarFrames:
    """What is known of similar frames in different parts of the split."""
    part = {case.case_id: name for name, members in split.items() for case in members}
    pairs_across = [
        SimilarPair(correlation=value, first=_case(first, part, name_files), second=_case(second, part, name_files))
        for first, second, value in pairs
        if first.case_id in part and second.case_id in part and part[first.case_id] != part[second.case_id]
    ]
    return SimilarFrames(
        threshold=similar_frames.SIMILAR,
        cases=sum(not case.patient_id for members in split.values() for case in members),
        pairs_across=sum(pair.correlation >= similar_frames.SIMILAR for pair in pairs_across),
        most_alike=pairs_across[:SHOWN],
    )


def _case(case: SourceCase, part: Mapping[str, str], name_files: bool) -> SimilarCase:
    file = case.files[0].as_posix() if name_files and case.files else ""
    return SimilarCase(case_id=case.case_id, split=part[case.case_id], file=file)
