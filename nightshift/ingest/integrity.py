"""Everything that is wrong with a data set, found in one reading of it, row by row and between rows."""

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat

import numpy as np

from nightshift.ingest import near_duplicates as likeness
from nightshift.ingest import splits
from nightshift.console.errors import UserError
from nightshift.console.progress import say
from nightshift.ingest.record import SPLITS, Problems, RawCase
from nightshift.config.params import Coco, Dicom, Settings, hardware
from nightshift.ingest.sources import listed

SIDES = (32, 8192)  # pixels of a frame's side; anything beyond is a thumbnail or a mistake
RANGE = 8  # least difference of the brightest and the darkest of 256 greys
MOST = 0.5  # share of the frame that a mask of vessels never marks


@dataclass(frozen=True)
class Problem:
    """`where`: place in the source; `what`: file, what is wrong with it, what to do; `case_id`: empty if unknown."""

    where: str
    case_id: str
    what: str


@dataclass(frozen=True)
class Checked:
    """All problems, by place; `split`: the cases without any; `total`: cases of the source; `read`: the readable ones.

    `name`: of the preset's file.
    """

    name: str
    total: int
    problems: list[Problem]
    split: splits.Split
    read: list[RawCase]


@dataclass(frozen=True)
class _Look:
    """What one reading of a case found: mistakes; digests of frame and mask, and the frame's sketch if it is one."""

    wrong: list[str] = field(default_factory=list)
    frame: bytes = b""
    mask: bytes = b""
    sketch: np.ndarray | None = None


def check(settings: Settings, progress: Callable[[Iterable], Iterable]) -> Checked:
    """Read every case once, in hardware.yaml's `threads`. Raises UserError where there is no source, or no case in it.

    Leaks are looked for between the splits that are given, or that are made of the cases without a problem.
    """
    lines, name = Problems(), f"conf/data/{settings.use.data}.yaml"
    cases = listed(settings.data, lines)
    if not cases and not lines:
        raise UserError(f"{name}: no case in it")
    problems = [_parted(line) for line in lines]
    problems += _without_angles(cases, name) if settings.view.mode != "none" else []
    named = not isinstance(settings.data, Dicom)  # files that are named after people are called by their place alone
    empty = isinstance(settings.data, Coco) and settings.data.unannotated == "empty"  # an empty mask is what was said
    looks = _looks(cases, named, empty, progress)
    problems += [Problem(case.where, case.case_id, what) for case in cases for what in looks[case.case_id].wrong]
    problems += _spelled_apart(cases) + _same_mask(cases, looks)
    given = settings.data.split == "given"
    if given:
        problems += [Problem(case.where, case.case_id, what) for case, what in splits.misplaced(cases)]
    good = _without(cases, problems)
    split = {one: [case for case in good if case.split == one] for one in SPLITS}
    compared = {one: [case for case in cases if case.split == one] for one in SPLITS}  # also those with a bad mask, say
    try:
        if not given:
            compared = split = splits.made_split(good, settings.prepare)
        splits.filled(compared)
    except UserError as error:
        problems.append(Problem(name, "", str(error)))
    problems += _leaks(compared, named, looks)
    return Checked(
        name,
        len(cases) + len(lines),
        sorted(problems, key=_place),
        {one: _without(members, problems) for one, members in split.items()},
        [case for case in cases if looks[case.case_id].frame],
    )


def usable(found: Checked, on_problem: str) -> splits.Split:
    """The split to go on with; a table of all problems goes to stdout.

    Raises UserError: there are problems and `on_problem` is stop; something is wrong with the source as a whole; or too
    little is left without the cases that have a problem.
    """
    if found.problems:
        say(_table(found.problems))
    if found.problems and (on_problem == "stop" or any(one.where == found.name for one in found.problems)):
        first = found.problems[0]
        if len(found.problems) == 1:
            raise UserError(f"{first.where}: {first.what}")
        raise UserError(
            f"{found.name}: the {len(found.problems)} problems listed above; put them right, or leave those cases out "
            "with prepare.on_problem: skip"
        )
    return splits.filled(found.split)


def _table(problems: list[Problem]) -> str:
    rows = [("where", "case", "what is wrong, and what to do"), *((p.where, p.case_id, p.what) for p in problems)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{where:{widths[0]}}  {case:{widths[1]}}  {what}" for where, case, what in rows)


def _place(problem: Problem) -> list[str | int]:
    """Line 9 comes before line 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", problem.where))]


def _parted(line: str) -> Problem:
    """A row that is no case, as its reader says it: `set/manifest.csv, line 3: case_id is empty`."""
    where, colon, what = line.partition(": ")
    return Problem(where, "", what) if colon else Problem("", "", line)


def _without(cases: list[RawCase], problems: list[Problem]) -> list[RawCase]:
    bad = {problem.case_id for problem in problems}
    return [case for case in cases if case.case_id not in bad]


def _without_angles(cases: list[RawCase], name: str) -> list[Problem]:
    found = [Problem(case.where, case.case_id, "no view angles") for case in cases if case.angles is None]
    cure = "; give it angles or set view.mode=none (-S view.mode=none)"
    if found and len(found) == len(cases):
        return [Problem(name, "", f"no case has view angles{cure}")]
    return [Problem(one.where, one.case_id, one.what + cure) for one in found]


def _looks(
    cases: list[RawCase], named: bool, empty: bool, progress: Callable[[Iterable], Iterable]
) -> dict[str, _Look]:
    with ThreadPoolExecutor(hardware().threads) as pool:
        results = pool.map(_look, cases, repeat(named), repeat(empty))
        try:
            return {case.case_id: look for case, look in zip(progress(cases), results, strict=True)}
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C: nobody waits for ten thousand files
            raise


def _look(case: RawCase, named: bool, empty: bool) -> _Look:
    try:
        frame, mask = case.read()
    except UserError as error:
        return _Look([" ".join(str(error).split()).removeprefix(f"{case.where}: ")])
    of_frame, of_mask = list(_wrong_frame(frame)), [] if empty and not mask.any() else list(_wrong_mask(mask))
    files = (case.files[0], case.files[:2][-1]) if named else ("frame", "mask")
    wrong = [f"{file}: {what}" for file, of in zip(files, (of_frame, of_mask), strict=True) for what in of]
    return _Look(
        wrong,
        likeness.digest(frame),
        likeness.digest(mask) if mask.any() else b"",
        None if of_frame else likeness.sketch(frame),
    )


def _wrong_frame(frame: np.ndarray) -> Iterator[str]:
    height, width = frame.shape
    if min(height, width) < SIDES[0] or max(height, width) > SIDES[1]:
        yield f"a frame of {height} x {width} pixels; sides from {SIDES[0]} to {SIDES[1]} are frames"
        return
    low, high = int(frame.min()), int(frame.max())
    if low == high:
        yield f"every pixel of the frame is {low}; take another frame, or save it anew"
    elif high - low < RANGE:
        yield f"grey values from {low} to {high} only; scale them to 0 to 255 before they become whole numbers"
    elif low == 0 and ((frame == 0) | (frame == high)).all():
        yield f"a frame of nothing but 0 and {high}, so a mask; give the picture here"


def _wrong_mask(mask: np.ndarray) -> Iterator[str]:
    share = float(mask.mean())
    if share == 0:
        yield "an empty mask; draw the vessel, or take the case out"
    elif share > MOST:
        yield f"a mask that marks {share:.0%} of the frame; invert it: vessels are the foreground"


def _spelled_apart(cases: list[RawCase]) -> list[Problem]:
    """Patients whose ids differ in nothing but blanks and capitals would be divided between splits as two."""
    first: dict[str, RawCase] = {}
    found = []
    for case in cases:
        other = first.setdefault(" ".join(case.patient_id.split()).casefold(), case)
        if case.patient_id != other.patient_id:
            said = f"patient '{case.patient_id}' is '{other.patient_id}' in case '{other.case_id}'"
            found.append(Problem(case.where, case.case_id, f"{said}; write one patient in one way"))
    return found


def _same_mask(cases: list[RawCase], looks: dict[str, _Look]) -> list[Problem]:
    """One mask for different frames of different patients is a copy of the wrong file."""
    first: dict[bytes, RawCase] = {}
    found = []
    for case in cases:
        look = looks[case.case_id]
        if look.wrong or not look.mask:
            continue
        other = first.setdefault(look.mask, case)
        if looks[other.case_id].frame != look.frame and splits.unit(other) != splits.unit(case):
            said = f"the very mask of case '{other.case_id}' ({other.where})"
            found.append(Problem(case.where, case.case_id, f"{said}; give each frame its own"))
    return found


def _leaks(split: splits.Split, named: bool, looks: dict[str, _Look]) -> list[Problem]:
    """Frames of different patients, one in a later split, that are the same: of each the one in the earlier split."""
    found, units = [], {}
    number = lambda case: units.setdefault(splits.unit(case), len(units))  # noqa: E731
    for i, one in enumerate(SPLITS[:-1]):
        some = [case for case in split[one] if looks[case.case_id].sketch is not None]
        later = [(case, name) for name in SPLITS[i + 1 :] for case in split[name]]
        later = [pair for pair in later if looks[pair[0].case_id].sketch is not None]
        if not some or not later:
            continue
        groups = (some, [case for case, _ in later])
        sketches = (np.stack([looks[case.case_id].sketch for case in group]) for group in groups)
        numbers = (np.array([number(case) for case in group]) for group in groups)
        for case, which, alike in zip(some, *likeness.nearest(*sketches, *numbers), strict=True):
            if alike < likeness.ALIKE:
                continue
            other, name = later[which]
            same = looks[case.case_id].frame == looks[other.case_id].frame
            said = f"in {one}, and {'the very' if same else 'nearly the'} frame of case '{other.case_id}' in {name}"
            cure = "keep one of them, or both in one split, as one patient"
            found.append(
                Problem(
                    case.where, case.case_id, f"{case.files[0] if named else 'frame'}: {said} ({other.where}); {cure}"
                )
            )
    return found
