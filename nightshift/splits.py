"""Which case is for what: train, val and test, by patient, as the source says or drawn."""

import math

import numpy as np

from nightshift.errors import UserError
from nightshift.raw import SPLITS, RawCase
from nightshift.settings import Prepare


def given_split(cases: list[RawCase]) -> dict[str, list[RawCase]]:
    """The split that the source states.

    Raises UserError: a case without a split or with an unknown one, an empty split, a patient in two splits.
    """
    split: dict[str, list[RawCase]] = {name: [] for name in SPLITS}
    home: dict[str, RawCase] = {}
    for case in cases:
        if case.split not in split:
            raise UserError(f"case '{case.case_id}': split '{case.split}'; expected {', '.join(SPLITS)}")
        first = home.setdefault(_unit(case), case)
        if first.split != case.split:
            raise UserError(
                f"patient '{case.patient_id}' is in {first.split} (case '{first.case_id}') and in {case.split} "
                f"(case '{case.case_id}'); keep all cases of a patient in one split"
            )
        split[case.split].append(case)
    return _filled(split)


def made_split(cases: list[RawCase], prepare: Prepare) -> dict[str, list[RawCase]]:
    """A random split by patient, by case where there are no patients; at least one unit in each split.

    Raises UserError: val + test leave nothing to train on, or fewer than three units.
    """
    units = sorted({_unit(case) for case in cases})
    order = np.random.default_rng(prepare.seed).permutation(len(units))
    test, val = (max(1, math.floor(len(units) * share + 0.5)) for share in (prepare.test, prepare.val))
    home = {units[k]: "test" if i < test else "val" if i < test + val else "train" for i, k in enumerate(order)}
    split: dict[str, list[RawCase]] = {name: [] for name in SPLITS}
    for case in cases:
        split[home[_unit(case)]].append(case)
    return _filled(split)


def _unit(case: RawCase) -> str:
    return f"patient {case.patient_id}" if case.patient_id else f"case {case.case_id}"


def _filled(split: dict[str, list[RawCase]]) -> dict[str, list[RawCase]]:
    for name in SPLITS:
        if not split[name]:
            raise UserError(f"no case in {name}; each of {', '.join(SPLITS)} needs at least one patient")
    return split
