"""Reads every case of a data set once, and finds what is wrong with it whatever its split is."""

from dataclasses import dataclass

from nightshift.config.params import DataSet, DataSettings
from nightshift.config.presets import Coco, Dicom
from nightshift.console.errors import UserError
from nightshift.ingest import splits
from nightshift.ingest.case_check import CaseCheck, Progress, Rules, check_cases
from nightshift.ingest.record import Problem, Problems, SourceCase
from nightshift.ingest.sources import list_cases


@dataclass(frozen=True)
class CheckedSource:
    """A data set whose cases were read.

    Attributes:
        data: its preset.
        total: number of cases, with those that have a problem.
        cases: all that the source lists.
        checks: what reading each of them found, by case id.
        problems: of single cases, and between cases, but not between parts of a split.
        given: the part of each case is known: the source states the split, or the case's mask depends on it.
        rules: by which they were checked.
    """

    data: DataSet
    total: int
    cases: list[SourceCase]
    checks: dict[str, CaseCheck]
    problems: list[Problem]
    given: bool
    rules: Rules

    @property
    def readable(self) -> list[SourceCase]:
        """The cases whose frame and mask can be read, with and without problems."""
        return [case for case in self.cases if self.checks[case.case_id].frame]


def check_source(data: DataSet, settings: DataSettings, progress: Progress) -> CheckedSource:
    """Read every case of `data` and check it.

    Args:
        data: one of `settings.sets`.
        settings: whether view angles are needed, and how patients go to parts where the part decides on the mask.
        progress: wraps the loop over the cases.

    Raises:
        UserError: there is no source, or no case in it.
    """
    lines, source = Problems(), data.source
    cases = list_cases(source, lines)
    if not cases and not lines:
        raise UserError(f"{data.file}: no case in it")
    given = source.split == "given"
    if any(case.in_part for case in cases):
        cases, given = splits.placed(cases, settings.prepare, lines), True
    rules = Rules(
        name_files=not isinstance(source, Dicom),
        allow_empty=isinstance(source, Coco) and source.unannotated == "empty",
        patterns=settings.external is not None or any(not case.patient_id for case in cases),
    )
    problems = [_problem_of_line(line) for line in lines]
    problems += _without_angles(cases, data.file) if settings.view.mode != "none" else []
    checks = check_cases(cases, rules, progress)
    problems += [Problem(case.where, case.case_id, text) for case in cases for text in checks[case.case_id].mistakes]
    problems += _spelled_differently(cases) + _same_mask(cases, checks)
    return CheckedSource(data, len(cases) + len(lines), cases, checks, problems, given, rules)


def without(cases: list[SourceCase], problems: list[Problem]) -> list[SourceCase]:
    """The cases that have no problem."""
    bad = {problem.case_id for problem in problems}
    return [case for case in cases if case.case_id not in bad]


def _problem_of_line(line: str) -> Problem:
    """A reader's message, as `set/manifest.csv, line 3: case_id is empty`, as a problem without a case."""
    where, colon, what = line.partition(": ")
    return Problem(where, "", what) if colon else Problem("", "", line)


def _without_angles(cases: list[SourceCase], name: str) -> list[Problem]:
    problems = [Problem(case.where, case.case_id, "no view angles") for case in cases if case.angles is None]
    cure = "; give it angles or set view.mode=none (-S view.mode=none)"
    if problems and len(problems) == len(cases):
        return [Problem(name, "", f"no case has view angles{cure}")]
    return [Problem(problem.where, problem.case_id, problem.what + cure) for problem in problems]


def _spelled_differently(cases: list[SourceCase]) -> list[Problem]:
    """Patients whose ids differ only in blanks and capitals: they would be divided between splits as two patients."""
    first: dict[str, SourceCase] = {}
    problems = []
    for case in cases:
        other = first.setdefault(" ".join(case.patient_id.split()).casefold(), case)
        if case.patient_id != other.patient_id:
            text = f"patient '{case.patient_id}' is '{other.patient_id}' in case '{other.case_id}'"
            problems.append(Problem(case.where, case.case_id, f"{text}; write one patient in one way"))
    return problems


def _same_mask(cases: list[SourceCase], checks: dict[str, CaseCheck]) -> list[Problem]:
    """Cases with the mask of a different frame of another patient, which is a copy of the wrong file."""
    first: dict[bytes, SourceCase] = {}
    problems = []
    for case in cases:
        check = checks[case.case_id]
        if check.mistakes or not check.mask:
            continue
        other = first.setdefault(check.mask, case)
        if checks[other.case_id].frame != check.frame and splits.unit(other) != splits.unit(case):
            text = f"the very mask of case '{other.case_id}' ({other.where})"
            problems.append(Problem(case.where, case.case_id, f"{text}; give each frame its own"))
    return problems
