"""Finds frames in different parts of a split that are one picture, or that are probably of one cine or one patient."""

from collections.abc import Mapping

import numpy as np

from nightshift.core.records import SimilarCase, SimilarFrames, SimilarPair
from nightshift.data.locations import SPLITS
from nightshift.ingest import near_duplicates, similar_frames
from nightshift.ingest.case_check import CaseCheck
from nightshift.ingest.record import Problem, SourceCase
from nightshift.ingest.splits import Split, all_cases, unit

SHOWN = 5  # pairs that are listed

Checks = Mapping[str, CaseCheck]
Links = list[tuple[SourceCase, SourceCase, float]]


def same_frames(folds: list[Split], checks: Checks, name_files: bool) -> list[Problem]:
    """A problem for each case whose frame is also that of another patient in another part of a fold.

    Of one fold the case in the earlier part is the one reported: with `prepare.on_problem: skip` the test case stays.
    Of several folds, in which each case is tested, it is the later one of the data set.
    """
    if len(folds) > 1:
        cases = _compared(all_cases(folds), checks)
        places = {case_id: i for i, case_id in enumerate(checks)}  # in the order of the data set
        return [
            _same(case, other, None, checks, name_files)
            for case, other in _twins(cases, cases, checks)
            if places[case.case_id] > places[other.case_id]
        ]
    problems: list[Problem] = []
    (split,) = folds
    part_of = {case.case_id: part for part, members in split.items() for case in members}
    for i, part in enumerate(SPLITS[:-1]):
        later = [case for name in SPLITS[i + 1 :] for case in split[name]]
        problems += [
            _same(case, other, (part, part_of[other.case_id]), checks, name_files)
            for case, other in _twins(_compared(split[part], checks), _compared(later, checks), checks)
        ]
    return problems


def _compared(cases: list[SourceCase], checks: Checks) -> list[SourceCase]:
    return [case for case in cases if checks[case.case_id].sketch is not None]


def _twins(cases: list[SourceCase], others: list[SourceCase], checks: Checks) -> list[tuple[SourceCase, SourceCase]]:
    """Those of `cases` whose frame is that of another patient's case among `others`, each with the most alike one."""
    if not cases or not others:
        return []
    units = {name: i for i, name in enumerate(dict.fromkeys(unit(case) for case in [*cases, *others]))}
    sketches, numbers = zip(
        *(
            (np.stack([checks[case.case_id].sketch for case in group]), np.array([units[unit(case)] for case in group]))  # type: ignore[misc]
            for group in (cases, others)
        ),
        strict=True,
    )
    index, correlation = near_duplicates.nearest(*sketches, *numbers)
    return [(cases[i], others[j]) for i, j in enumerate(index) if correlation[i] >= near_duplicates.SAME]


def _same(
    case: SourceCase, other: SourceCase, parts: tuple[str, str] | None, checks: Checks, name_files: bool
) -> Problem:
    """That two cases have one frame; `parts`: in which they are, None where each is tested in another fold."""
    same = checks[case.case_id].frame == checks[other.case_id].frame
    file, how = case.files[0] if name_files and case.files else "frame", "the very" if same else "nearly the"
    text = f"{how} frame of case '{other.case_id}'"
    if parts:
        text = f"in {parts[0]}, and {text} in {parts[1]} ({other.where})"
    else:
        text = f"{text} ({other.where}), and with folds each is trained on where the other one is tested"
    return Problem(case.where, case.case_id, f"{file}: {text}; keep one of them, or both in one split, as one patient")


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


def across(pairs: Links, folds: list[Split], name_files: bool) -> SimilarFrames:
    """What is known of similar frames in different parts of a fold."""
    parts: dict[str, list[str]] = {}  # by case, in the order of the folds
    for fold in folds:
        for part, members in fold.items():
            for case in members:
                parts.setdefault(case.case_id, []).append(part)
    part_of = {case_id: of[0] if len(folds) == 1 else f"fold {of.index('test')}" for case_id, of in parts.items()}
    pairs_across = [
        SimilarPair(
            correlation=value, first=_case(first, part_of, name_files), second=_case(second, part_of, name_files)
        )
        for first, second, value in pairs
        if {first.case_id, second.case_id} <= parts.keys() and parts[first.case_id] != parts[second.case_id]
    ]
    return SimilarFrames(
        threshold=similar_frames.SIMILAR,
        cases=sum(not case.patient_id for case in all_cases(folds)),
        pairs_across=sum(pair.correlation >= similar_frames.SIMILAR for pair in pairs_across),
        most_alike=pairs_across[:SHOWN],
    )


def _case(case: SourceCase, part: Mapping[str, str], name_files: bool) -> SimilarCase:
    file = case.files[0].as_posix() if name_files and case.files else ""
    return SimilarCase(case_id=case.case_id, split=part[case.case_id], file=file)
