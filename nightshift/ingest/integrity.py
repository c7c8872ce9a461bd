"""Finds everything that is wrong with a data set in one reading of it, case by case and between cases."""

import re
from dataclasses import dataclass

from nightshift.config.params import DataSettings
from nightshift.config.presets import BySplit, Coco, Dicom, Manifest
from nightshift.console.errors import UserError
from nightshift.console.progress import say
from nightshift.core.records import SimilarFrames
from nightshift.data.locations import SPLITS
from nightshift.ingest import leaks, splits
from nightshift.ingest.angle_sign import sign_warning
from nightshift.ingest.case_check import CaseCheck, Progress, Rules, check_cases
from nightshift.ingest.mask_sizes import size_warning
from nightshift.ingest.record import Problem, Problems, SourceCase
from nightshift.ingest.sources import list_cases


@dataclass(frozen=True)
class Checked:
    """What `check` found.

    Attributes:
        name: the preset's file.
        total: number of cases in the source, with those that have a problem.
        problems: all of them, by place.
        split: the cases without a problem.
        readable: the cases whose frame and mask can be read, with and without problems.
        similar: how alike frames in different parts of the split are, where patient ids are missing.
        warnings: a line each on what is probably wrong, but no problem of single cases.
    """

    name: str
    total: int
    problems: list[Problem]
    split: splits.Split
    readable: list[SourceCase]
    similar: SimilarFrames
    warnings: list[str]


def check(settings: DataSettings, progress: Progress) -> Checked:
    """Read every case of a source once and check it.

    Leaks are looked for between the parts of the split that is given, or that is made: of the cases without a problem,
    or of all cases where the part decides which mask is read.

    Args:
        settings: the data preset, how it is split, and whether view angles are needed.
        progress: wraps the loop over the cases, as `nightshift.console.progress.bar` does.

    Raises:
        UserError: there is no source, or no case in it.
    """
    lines, name, source = Problems(), f"conf/data/{settings.name}.yaml", settings.source
    cases = list_cases(source, lines)
    if not cases and not lines:
        raise UserError(f"{name}: no case in it")
    given = source.split == "given"
    if any(case.in_part for case in cases):
        cases, given = splits.placed(cases, settings.prepare, lines), True
    rules = Rules(
        name_files=not isinstance(source, Dicom),
        allow_empty=isinstance(source, Coco) and source.unannotated == "empty",
        patterns=any(not case.patient_id for case in cases),
    )
    problems = [_problem_of_line(line) for line in lines]
    problems += _without_angles(cases, name) if settings.view.mode != "none" else []
    checks = check_cases(cases, rules, progress)
    problems += [Problem(case.where, case.case_id, text) for case in cases for text in checks[case.case_id].mistakes]
    problems += _spelled_differently(cases) + _same_mask(cases, checks)
    if given:
        problems += [Problem(case.where, case.case_id, why) for case, why in splits.misplaced(cases)]
    good = _without(cases, problems)
    links = leaks.links(cases, checks)
    split = {part: [case for case in good if case.split == part] for part in SPLITS}
    compared = {part: [case for case in cases if case.split == part] for part in SPLITS}  # also those with a bad mask
    if not given:
        groups = leaks.groups(links) if settings.prepare.group_similar else {}
        compared = split = splits.made_split(good, settings.prepare, groups)
    try:
        splits.filled(compared)
    except UserError as error:
        problems.append(Problem(name, "", str(error)))
    problems += leaks.same_frames(compared, checks, rules.name_files)
    split = {part: _without(members, problems) for part, members in split.items()}
    similar = leaks.across(links, split, rules.name_files)
    columns = source.mask if isinstance(source, Manifest) and isinstance(source.mask, BySplit) else None
    sizes = size_warning(columns, split, checks) if columns else ""
    return Checked(
        name=name,
        total=len(cases) + len(lines),
        problems=sorted(problems, key=_place),
        split=split,
        readable=[case for case in cases if checks[case.case_id].frame],
        similar=similar,
        warnings=[warning for warning in (_similar_warning(similar), sign_warning(cases), sizes) if warning],
    )


def usable(checked: Checked, on_problem: str) -> splits.Split:
    """The split to go on with. Prints a table of the problems, unless the only one is the error.

    Raises:
        UserError: there are problems and `on_problem` is stop; something is wrong with the source as a whole; too
            little is left without the cases that have a problem.
    """
    problems = checked.problems
    stop = on_problem == "stop" or any(problem.where == checked.name for problem in problems)
    if problems and stop and len(problems) == 1:
        raise UserError(f"{problems[0].where}: {problems[0].what}")
    if problems:
        say(_table(problems))
    if problems and stop:
        raise UserError(
            f"{checked.name}: the {len(problems)} problems listed above; put them right, or leave those cases out "
            "with prepare.on_problem: skip"
        )
    return splits.filled(checked.split)


def similar_text(similar: SimilarFrames) -> str:
    """What `similar` says, for people: a sentence, and a line for each pair; empty where nothing was compared."""
    if not similar.most_alike:
        return ""
    lines = [
        f"{pair.correlation:.2f}  "
        + "  ".join(
            f"{case.split} {case.case_id}{f' ({case.file})' if case.file else ''}" for case in (pair.first, pair.second)
        )
        for pair in similar.most_alike
    ]
    head = (
        f"{similar.cases} cases have no patient id. Frames in different parts of the split that are most alike "
        f"(correlation; from {similar.threshold} on probably of one cine or one patient):"
    )
    return "\n".join([head, *lines])


def _similar_warning(similar: SimilarFrames) -> str:
    """One line for frames that are probably of one patient and in different parts; empty where there are none."""
    if not similar.pairs_across:
        return ""
    pairs = (
        "1 pair of similar frames is"
        if similar.pairs_across == 1
        else f"{similar.pairs_across} pairs of similar frames are"
    )
    return (
        f"{pairs} in different parts of the split, so Dice may be too high; give patient ids, or keep similar frames "
        "together with prepare.group_similar: true (for split: made)"
    )


def _table(problems: list[Problem]) -> str:
    rows = [("where", "case", "what is wrong, and what to do"), *((p.where, p.case_id, p.what) for p in problems)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{where:{widths[0]}}  {case:{widths[1]}}  {what}" for where, case, what in rows)


def _place(problem: Problem) -> list[str | int]:
    """A key to sort by that puts line 9 before line 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", problem.where))]


def _problem_of_line(line: str) -> Problem:
    """A reader's message, as `set/manifest.csv, line 3: case_id is empty`, as a problem without a case."""
    where, colon, what = line.partition(": ")
    return Problem(where, "", what) if colon else Problem("", "", line)


def _without(cases: list[SourceCase], problems: list[Problem]) -> list[SourceCase]:
    bad = {problem.case_id for problem in problems}
    return [case for case in cases if case.case_id not in bad]


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
