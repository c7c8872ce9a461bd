"""Divides cases into train, val and test, by patient, as the source states it or at random."""

import math
from collections.abc import Mapping
from itertools import pairwise
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


def placed(cases: list[SourceCase], prepare: Prepare, problems: Problems) -> list[SourceCase]:
    """The cases with the mask that each has in its part of the split that is made of them: patients go to parts first.

    Args:
        cases: those of a source whose masks depend on the part (`SourceCase.in_part`).
        prepare: as for `made_folds`, of one fold.
        problems: gets a line for each case without such a mask, which is left out.

    Raises:
        UserError: several folds are asked for.
    """
    if prepare.folds > 1:
        raise UserError(
            f"prepare.folds {prepare.folds}: a case has one mask to train and another one to test with, so it cannot "
            "be in both; set prepare.folds=1, or name one column of masks"
        )
    part_of = {case.case_id: part for part, of in made_folds(cases, prepare)[0].items() for case in of}
    found = []
    for case in cases:
        with problems.collecting():
            found.append(case.in_part(part_of[case.case_id]) if case.in_part else case)
    return found


def made_folds(cases: list[SourceCase], prepare: Prepare, groups: Mapping[str, str] | None = None) -> list[Split]:
    """Random splits by patient, or by case where there are no patients; of several, each case is tested in one.

    Of DRAWS random orders of the units the one in which the quadrants of views are shared out most evenly: simpler than
    iterative stratification, and more even. A fold tests consecutive units of it and chooses by the next ones. It
    depends on the seed and the cases, not on their order. Numbers of units are rounded half up.

    Args:
        cases: all cases.
        prepare: how many folds, fractions of the units in val and, of a single fold, in test, and the seed.
        groups: name of a group by unit, for units that stay together; the others are on their own.

    Returns:
        A part is empty where val + test leave nothing to train on, or where there are too few units.
    """
    groups = groups or {}
    unit_by_case = {case.case_id: groups.get(unit(case), unit(case)) for case in cases}
    units = sorted(set(unit_by_case.values()))
    number = {name: i for i, name in enumerate(units)}
    views = np.zeros((len(units), len(carm.QUADRANTS)))  # cases of a unit in each quadrant
    for case in cases:
        if case.angles:
            views[number[unit_by_case[case.case_id]], carm.QUADRANTS.index(carm.quadrant(*case.angles))] += 1
    random, folds = np.random.default_rng(prepare.seed), _ends(len(units), prepare)
    draws = (random.permutation(len(units)) for _ in range(DRAWS if views.any() else 1))
    order = min(draws, key=lambda draw: sum(_unevenness(views[np.roll(draw, -first)], ends) for first, ends in folds))
    return [_fold(cases, unit_by_case, [units[k] for k in np.roll(order, -first)], *ends) for first, ends in folds]


def _ends(units: int, prepare: Prepare) -> list[tuple[int, list[int]]]:
    """By fold: the first of the units that it tests, and after how many from there test and val end."""
    val = max(1, math.floor(units * prepare.val + 0.5))
    if prepare.folds == 1:
        test = max(1, math.floor(units * prepare.test + 0.5))
        return [(0, [test, test + val])]
    firsts = [units * fold // prepare.folds for fold in range(prepare.folds + 1)]
    return [(first, [last - first, last - first + val]) for first, last in pairwise(firsts)]


def _fold(cases: list[SourceCase], unit_by_case: Mapping[str, str], order: list[str], test: int, val: int) -> Split:
    """Of the units in `order`, the first `test` ones are tested, and those up to `val` are chosen by."""
    part_of = {unit: "test" if i < test else "val" if i < val else "train" for i, unit in enumerate(order)}
    return {part: [case for case in cases if part_of[unit_by_case[case.case_id]] == part] for part in SPLITS}


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


def filled(folds: list[Split]) -> list[Split]:
    """The folds themselves. Raises UserError for an empty part."""
    for fold, split in enumerate(folds):
        for name in SPLITS:
            if not split[name]:
                where = f" of fold {fold}" if len(folds) > 1 else ""
                raise UserError(f"no case in {name}{where}; each of {', '.join(SPLITS)} needs at least one patient")
    return folds


def given_folds(cases: list[SourceCase], folds: int) -> list[Split]:
    """The one split that the source states; cases that have none are in no part.

    Raises UserError where several `folds` are asked for.
    """
    if folds > 1:
        raise UserError(
            f"prepare.folds {folds}: the data set comes with a split of its own (split: given); set prepare.folds=1, "
            "or split: made in its preset"
        )
    return [{name: [case for case in cases if case.split == name] for name in SPLITS}]


def all_cases(folds: list[Split]) -> list[SourceCase]:
    """The cases of the folds, each of which has all of them."""
    return [case for members in folds[0].values() for case in members]


def text_of(folds: list[Split]) -> str:
    """How many cases there are, for people."""
    if len(folds) > 1:
        return f"{len(all_cases(folds))} cases, each tested in one of {len(folds)} folds"
    return ", ".join(f"{len(members)} {part}" for part, members in folds[0].items()) + " cases"
