"""The second data set: all cases of it are test cases, and none may be known from the first one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from nightshift.config.params import DataSet, DataSettings
from nightshift.config.presets import BySplit, Dicom, Manifest
from nightshift.core.records import BetweenSets, SimilarCase, SimilarFrames, SimilarPair
from nightshift.ingest import near_duplicates, similar_frames
from nightshift.ingest.case_check import Floats, Progress
from nightshift.ingest.leaks import SHOWN
from nightshift.ingest.record import Problem, SourceCase
from nightshift.ingest.source_check import CheckedSource, check_source, without


@dataclass(frozen=True)
class External:
    """What `check_external` found; the defaults are those of no second set.

    Attributes:
        total: number of cases, with those that have a problem.
        problems: all of them.
        cases: those without a problem.
        between: what may connect them with the first set.
    """

    total: int = 0
    problems: list[Problem] = field(default_factory=list)
    cases: list[SourceCase] = field(default_factory=list)
    between: BetweenSets = field(default_factory=BetweenSets)


@dataclass(frozen=True)
class KnownFrame:
    """A frame that no test case may have: its sketch (1024,), its digest, and how a message names its case."""

    sketch: Floats
    digest: bytes
    name: str


def check_external(
    settings: DataSettings, first: CheckedSource, used: Sequence[SourceCase], progress: Progress
) -> External:
    """Read every case of the second data set, and compare it with the first one.

    Args:
        settings: as for `check_source`.
        first: the first set.
        used: its cases without a problem.
        progress: wraps the loop over the cases.

    Raises:
        UserError: there is no such set, or no case in it.
    """
    if settings.external is None:
        return External()
    second = check_source(all_tested(settings.external), settings, progress)
    known = [_known(first, case) for case in used]
    problems = [*second.problems, *known_frames(second, [one for one in known if one is not None])]
    cases = without(second.cases, problems)
    if not cases:
        problems.append(Problem(second.data.file, "", "no case is left; put right what is wrong, or use.external=none"))
    between = BetweenSets(
        first=first.data.name,
        second=second.data.name,
        patients=sorted(_people(first, used) & _people(second, cases)),
        similar=_similar(first, used, second, cases),
    )
    return External(second.total, problems, cases, between)


def all_tested(data: DataSet) -> DataSet:
    """The data set without its split, each case with the mask that it has as a test case."""
    changes: dict[str, object] = {"split": "made"}
    if isinstance(data.source, Manifest) and isinstance(data.source.mask, BySplit):
        changes["mask"] = data.source.mask.test
    return data.model_copy(update={"source": data.source.model_copy(update=changes)})


def known_frames(second: CheckedSource, others: Sequence[KnownFrame]) -> list[Problem]:
    """A problem for each case whose frame is one of `others`, too, whatever the ids of the patients are."""
    sketched = [(case, check) for case in second.cases if (check := second.checks[case.case_id]).sketch is not None]
    if not sketched or not others:
        return []
    sketches = np.stack([check.sketch for _, check in sketched if check.sketch is not None])
    index, correlation = near_duplicates.nearest(
        sketches,
        np.stack([one.sketch for one in others]),
        np.zeros(len(sketched), np.intp),
        np.ones(len(others), np.intp),
    )
    problems = []
    for (case, check), i, value in zip(sketched, index, correlation, strict=True):
        if value >= near_duplicates.SAME:
            file = case.files[0] if second.rules.name_files and case.files else "frame"
            text = (
                f"{file}: {'the very' if check.frame == others[i].digest else 'nearly the'} frame of case "
                f"{others[i].name}, a leak: nothing may be tested that was trained on; take it out of one of the sets"
            )
            problems.append(Problem(case.where, case.case_id, text))
    return problems


def _known(first: CheckedSource, case: SourceCase) -> KnownFrame | None:
    """The frame of a case of the first set; None where it cannot be compared."""
    check = first.checks[case.case_id]
    name = f"'{case.case_id}' of {first.data.name} ({case.where})"
    return None if check.sketch is None else KnownFrame(check.sketch, check.frame, name)


def _people(of: CheckedSource, cases: Sequence[SourceCase]) -> set[str]:
    """Ids of the patients; those of DICOM files without their number in the order of the files."""
    known = {case.patient_id for case in cases} - {""}
    return {one.partition("-")[2] for one in known} if isinstance(of.data.source, Dicom) else known


def _similar(
    first: CheckedSource, used: Sequence[SourceCase], second: CheckedSource, cases: Sequence[SourceCase]
) -> SimilarFrames:
    """How alike frames of the two sets are, also of patients with ids: two sources may name one patient differently."""
    both = [(of, case) for of, some in ((first, used), (second, cases)) for case in some]
    patterns = [pattern for of, case in both if (pattern := of.checks[case.case_id].pattern) is not None]  # all have
    pairs = similar_frames.similar_pairs(patterns, [of.data.name for of, _ in both], [True] * len(both))
    most_alike = [
        SimilarPair(correlation=value, first=_case(*both[i]), second=_case(*both[j])) for i, j, value in pairs[:SHOWN]
    ]
    return SimilarFrames(
        threshold=similar_frames.SIMILAR,
        cases=len(cases),
        pairs_across=sum(value >= similar_frames.SIMILAR for *_, value in pairs),
        most_alike=most_alike,
    )


def _case(of: CheckedSource, case: SourceCase) -> SimilarCase:
    file = case.files[0].as_posix() if of.rules.name_files and case.files else ""
    return SimilarCase(case_id=case.case_id, split=of.data.name, file=file)
