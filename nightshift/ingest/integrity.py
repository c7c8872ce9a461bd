"""Finds everything that is wrong with a data set in one reading of it, case by case and between cases."""

import re
from dataclasses import dataclass

from nightshift.config.params import DataSettings
from nightshift.config.presets import BySplit, Manifest
from nightshift.console.errors import UserError
from nightshift.console.progress import say
from nightshift.core.records import SimilarFrames
from nightshift.ingest import leaks, splits
from nightshift.ingest.angle_sign import sign_warning
from nightshift.ingest.case_check import Progress
from nightshift.ingest.external import External, check_external
from nightshift.ingest.mask_sizes import size_warning
from nightshift.ingest.record import Problem, SourceCase
from nightshift.ingest.source_check import check_source, without


@dataclass(frozen=True)
class Checked:
    """What `check` found.

    Attributes:
        files: the presets' ones.
        total: number of cases, with those that have a problem and those of the second set.
        problems: all of them, by place.
        cases: those without a problem, in the order of the source.
        folds: of them.
        readable: the cases whose frame and mask can be read, with and without problems.
        similar: how alike frames in different parts of the split are, where patient ids are missing.
        external: what was found of the second set.
        warnings: a line each on what is probably wrong, but no problem of single cases.
    """

    files: list[str]
    total: int
    problems: list[Problem]
    cases: list[SourceCase]
    folds: list[splits.Split]
    readable: list[SourceCase]
    similar: SimilarFrames
    external: External
    warnings: list[str]

    @property
    def left_out(self) -> int:
        """How many cases have a problem."""
        return self.total - len(self.cases) - len(self.external.cases)


def check(settings: DataSettings, progress: Progress) -> Checked:
    """Read every case of the data set once and check it, and of the second one where there is one.

    Leaks are looked for between the two, and between the parts of the split that is given, or of the folds that are
    made: of the cases without a problem, or of all cases where the part decides which mask is read.

    Args:
        settings: the data presets, how the first is split, and whether view angles are needed.
        progress: wraps the loop over the cases, as `nightshift.console.progress.bar` does.

    Raises:
        UserError: there is no source, or no case in it.
    """
    source = check_source(settings, settings, progress)
    cases, checks, problems = source.cases, source.checks, list(source.problems)
    if source.given:
        problems += [Problem(case.where, case.case_id, why) for case, why in splits.misplaced(cases)]
    good = without(cases, problems)
    links = leaks.links(cases, checks)
    if source.given:
        compared = splits.given_folds(cases, settings.prepare.folds)  # also those with a bad mask
    else:
        groups = leaks.groups(links) if settings.prepare.group_similar else {}
        compared = splits.made_folds(good, settings.prepare, groups)
    try:
        splits.filled(compared)
    except UserError as error:
        problems.append(Problem(settings.file, "", str(error)))
    problems += leaks.same_frames(compared, checks, source.rules.name_files)
    folds = [{part: without(members, problems) for part, members in fold.items()} for fold in compared]
    in_folds = {case.case_id for case in splits.all_cases(folds)}
    used = [case for case in cases if case.case_id in in_folds]
    external = check_external(settings, source, used, progress)
    similar = leaks.across(links, folds, source.rules.name_files)
    masks = settings.source.mask if isinstance(settings.source, Manifest) else ""
    sizes = size_warning(masks, folds[0], checks) if isinstance(masks, BySplit) else ""
    signs = [sign_warning(some) for some in (cases, external.cases)]
    return Checked(
        files=[one.file for one in settings.sets],
        total=source.total + external.total,
        problems=sorted([*problems, *external.problems], key=_place),
        cases=used,
        folds=folds,
        readable=source.readable,
        similar=similar,
        external=external,
        warnings=list(filter(None, [_similar_warning(similar), *signs, sizes, *external.between.warnings()])),
    )


def usable(checked: Checked, on_problem: str) -> list[splits.Split]:
    """The folds to go on with. Prints a table of the problems, unless the only one is the error.

    Raises:
        UserError: there are problems and `on_problem` is stop; something is wrong with the source as a whole; too
            little is left without the cases that have a problem.
    """
    stop_or_list(checked.problems, checked.files, on_problem)
    return splits.filled(checked.folds)


def stop_or_list(problems: list[Problem], files: list[str], on_problem: str) -> None:
    """Print a table of the problems, unless the only one is the error.

    Args:
        problems: of the cases, and of the presets.
        files: the presets' ones.
        on_problem: `stop`, or `skip` to go on without these cases.

    Raises:
        UserError: there are problems and `on_problem` is stop, or one is of a source as a whole.
    """
    stop = on_problem == "stop" or any(problem.where in files for problem in problems)
    if problems and stop and len(problems) == 1:
        raise UserError(f"{problems[0].where}: {problems[0].what}")
    if problems:
        say(_table(problems))
    if problems and stop:
        raise UserError(
            f"{' and '.join(files)}: the {len(problems)} problems listed above; put them right, or leave "
            "those cases out with prepare.on_problem: skip"
        )


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
