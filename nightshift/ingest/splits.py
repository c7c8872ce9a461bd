"""Which case is for what: train, val and test, by patient, as the source says or drawn."""

import math

import numpy as np

from nightshift import carm
from nightshift.console.errors import UserError
from nightshift.ingest.record import SPLITS, RawCase
from nightshift.config.params import Prepare

Split = dict[str, list[RawCase]]
DRAWS = 1000  # a second for 10,000 patients


def unit(case: RawCase) -> str:
    """What is never divided: all cases of a patient, or a case that has none."""
    return f"patient {case.patient_id}" if case.patient_id else f"case {case.case_id}"


def misplaced(cases: list[RawCase]) -> list[tuple[RawCase, str]]:
    """The cases that cannot stay where the source puts them, and why: no such split, or the patient is in two.

    Of a patient in two splits those cases that are not in the later one of train, val, test.
    """
    last: dict[str, RawCase] = {}
    for case in cases:
        if case.split in SPLITS:
            known = last.setdefault(unit(case), case)
            if SPLITS.index(case.split) > SPLITS.index(known.split):
                last[unit(case)] = case
    found = []
    for case in cases:
        if case.split not in SPLITS:
            found.append((case, f"case '{case.case_id}': split '{case.split}'; expected {', '.join(SPLITS)}"))
        elif (other := last[unit(case)]).split != case.split:
            found.append(
                (
                    case,
                    f"patient '{case.patient_id}' is in {case.split} (case '{case.case_id}') and in {other.split} "
                    f"(case '{other.case_id}'); keep all cases of a patient in one split",
                )
            )
    return found


def given_split(cases: list[RawCase]) -> Split:
    """The split that the source states. Raises UserError: a misplaced case, an empty split."""
    for _, why in misplaced(cases):
        raise UserError(why)
    return filled({name: [case for case in cases if case.split == name] for name in SPLITS})


def made_split(cases: list[RawCase], prepare: Prepare) -> Split:
    """A random split by patient, by case where there are no patients; at least one unit in each.

    Of DRAWS drawn ones that in which every split has most nearly its share of each quadrant of views: simpler than
    iterative stratification, and more even. It follows from seed and cases alone, not from their order.
    Raises UserError: val + test leave nothing to train on, or fewer than three units.
    """
    units = sorted({unit(case) for case in cases})
    test, val = (max(1, math.floor(len(units) * share + 0.5)) for share in (prepare.test, prepare.val))
    number = {one: i for i, one in enumerate(units)}
    seen = np.zeros((len(units), len(carm.QUADRANTS)))  # cases of a unit by view
    for case in cases:
        if case.angles:
            seen[number[unit(case)], carm.QUADRANTS.index(carm.quadrant(*case.angles))] += 1
    random = np.random.default_rng(prepare.seed)
    draws = (random.permutation(len(units)) for _ in range(DRAWS if seen.any() else 1))
    order = min(draws, key=lambda one: _unevenness(seen[one], [test, test + val]))
    home = {units[k]: "test" if i < test else "val" if i < test + val else "train" for i, k in enumerate(order)}
    split: Split = {name: [] for name in SPLITS}
    for case in cases:
        split[home[unit(case)]].append(case)
    return filled(split)


def _unevenness(seen: np.ndarray, ends: list[int]) -> float:
    """How far the parts of `seen` (units, views), cut at `ends`, are from their shares of each view: chi-squared."""
    total = seen.sum(axis=0)
    parts = [part for part in np.split(seen, ends) if len(part)]
    wanted = [total * len(part) / len(seen) for part in parts]
    return sum(
        ((part.sum(axis=0) - want) ** 2 / np.maximum(want, 1)).sum() for part, want in zip(parts, wanted, strict=True)
    )


def filled(split: Split) -> Split:
    """The split itself. Raises UserError for an empty one."""
    for name in SPLITS:
        if not split[name]:
            raise UserError(f"no case in {name}; each of {', '.join(SPLITS)} needs at least one patient")
    return split
