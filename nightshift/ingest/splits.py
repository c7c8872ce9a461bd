"""Divides cases into train, val and test, by patient, as the source states it or at random."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nightshift import carm
from nightshift.config.sections import Prepare
from nightshift.console.errors import UserError
from nightshift.data.dataset import unit_of
from nightshift.data.locations import SPLITS
from nightshift.ingest.record import Problems, SourceCase

Split = dict[str, list[SourceCase]]
Array = np.ndarray[tuple[int, ...], np.dtype[Any]]
DRAWS = 1000  # random splits to choose from; a second for 10,000 patients


def unit(case: SourceCase) -> str:
    """What is never divided: the patient, or the case where it has none."""
    return unit_of(case.case_id, case.patient_id)


def misplaced(cases: list[SourceCase]) -> list[tuple[SourceCase, str]]:
    """Cases that cannot stay in the split that the source gives them, each with the reason.

    Either there is no such split, or the patient is in two. A patient in two splits stays in the later one of train,
    val, test: test cases are worth most, so the cases in the earlier split are the misplaced ones.
    """
    last: dict[str, SourceCase] = {}
    for case in cases:
        if case.split in SPLITS:
            known = last.setdefault(unit(case), case)
            if SPLITS.index(case.split) > SPLITS.index(known.split):
                last[unit(case)] = case
    reasons = []
    for case in cases:
        if case.split not in SPLITS:
            reasons.append((case, f"case '{case.case_id}': split '{case.split}'; expected {', '.join(SPLITS)}"))
        elif (other := last[unit(case)]).split != case.split:
            reason = (
                f"patient '{case.patient_id}' is in {case.split} (case '{case.case_id}') and in {other.split} "
                f"(case '{other.case_id}'); keep all cases of a patient in one split"
            )
            reasons.append((case, reason))
    return reasons


def given_split(cases: list[SourceCase]) -> Split:
    """The split that the source states. Raises UserError: a misplaced case, an empty split."""
    for _, why in misplaced(cases):
        raise UserError(why)
    return filled({name: [case for case in cases if case.split == name] for name in SPLITS})


def placed(cases: list[SourceCase], prepare: Prepare, problems: Problems) -> list[SourceCase]:
    """The cases with the mask that each has in its part of the split that is made of them: patients go to parts first.

    Args:
        cases: those of a source whose masks depend on the part (`SourceCase.in_part`).
        prepare: as for `made_split`.
        problems: gets a line for each case without such a mask, which is left out.
    """
    found = []
    for part, members in made_split(cases, prepare).items():
        for case in members:
            with problems.collecting():
                found.append(case.in_part(part) if case.in_part else case)
    return found


def made_split(cases: list[SourceCase], prepare: Prepare, groups: Mapping[str, str] | None = None) -> Split:
    """A random split by patient, or by case where there are no patients, with at least one unit in val and test.

    Of DRAWS random splits the one in which the quadrants of views are shared out most evenly: simpler than iterative
    stratification, and more even. It depends on the seed and the cases, not on their order. Numbers of units are
    rounded half up.

    Args:
        cases: all cases.
        prepare: fractions of the units in val and test, and the seed.
        groups: name of a group by unit, for units that stay together; the others are on their own.

    Returns:
        A part is empty where val + test leave nothing to train on, or where there are fewer than three units.
    """
    groups = groups or {}
    unit_by_case = {case.case_id: groups.get(unit(case), unit(case)) for case in cases}
    units = sorted(set(unit_by_case.values()))
    test, val = (max(1, math.floor(len(units) * share + 0.5)) for share in (prepare.test, prepare.val))
    number = {name: i for i, name in enumerate(units)}
    views = np.zeros((len(units), len(carm.QUADRANTS)))  # cases of a unit in each quadrant
    for case in cases:
        if case.angles:
            views[number[unit_by_case[case.case_id]], carm.QUADRANTS.index(carm.quadrant(*case.angles))] += 1
    random = np.random.default_rng(prepare.seed)
    draws = (random.permutation(len(units)) for _ in range(DRAWS if views.any() else 1))
    order = min(draws, key=lambda draw: _unevenness(views[draw], [test, test + val]))
    part_of = {units[k]: "test" if i < test else "val" if i < test + val else "train" for i, k in enumerate(order)}
    split: Split = {name: [] for name in SPLITS}
    for case in cases:
        split[part_of[unit_by_case[case.case_id]]].append(case)
    return split


def _unevenness(views: Array, ends: list[int]) -> float:
    """Chi-squared distance of the parts from their fair share of each view.

    Args:
        views: (units, quadrants), cases of each unit in each quadrant, in the order of the split.
        ends: where a part ends and the next one begins.
    """
    total = views.sum(axis=0)
    parts = [part for part in np.split(views, ends) if len(part)]
    wanted = [total * len(part) / len(views) for part in parts]
    distances = (
        ((part.sum(axis=0) - want) ** 2 / np.maximum(want, 1)).sum() for part, want in zip(parts, wanted, strict=True)
    )
    return float(sum(distances))


def filled(split: Split) -> Split:
    """The split itself. Raises UserError for an empty one."""
    for name in SPLITS:
        if not split[name]:
            raise UserError(f"no case in {name}; each of {', '.join(SPLITS)} needs at least one patient")
    return split
