"""The sign-flip test against scipy's, its interval against its own definition, and patients as units."""

import numpy as np
import pytest
from scipy.stats import permutation_test

from nightshift.errors import UserError
from nightshift.statistics import FEWEST_UNITS, compare, per_unit, sign_flip_test, size, units, verdict


def row(case, dice, seed=0, patient=""):
    return {"seed": seed, "case_id": case, "patient_id": patient, "dice": dice}


def samples(count, rounded=False):
    """Differences of 3 to 20 units, some far from zero, some not; rounded ones have ties."""
    random = np.random.default_rng(1)
    for _ in range(count):
        d = random.normal(random.choice([-1, 0, 0.5, 1]), 1, random.integers(3, 21))
        yield np.round(d, 1) if rounded else d


@pytest.mark.parametrize("d", [*samples(8), *samples(8, rounded=True)])
def test_p_is_scipys(d):
    d = d[:12]
    exact = permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(d).p == pytest.approx(exact.pvalue, abs=1e-12)


def test_p_of_drawn_patterns_is_near_the_exact_one():
    d = np.linspace(-1, 1.9, 16)
    exact = permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert 0.03 < exact < 0.3
    assert sign_flip_test(d).p == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize("rounded", [False, True])
def test_p_is_below_5_percent_exactly_when_the_interval_excludes_zero(rounded):
    seen = set()
    for d in samples(150, rounded):
        test = sign_flip_test(d)
        excludes = test.ci95 is not None and not test.ci95[0] <= 0 <= test.ci95[1]
        assert (test.p < 0.05) == excludes
        seen.add(excludes)
    assert seen == {True, False}


@pytest.mark.parametrize("n", [6, 7, 11, 14, 15, 40])
def test_a_shift_is_rejected_just_outside_the_interval_and_not_inside(n):
    d = np.random.default_rng(n).normal(0.2, 1, n)
    low, high = sign_flip_test(d).ci95
    for end, outward in ((low, -1e-6), (high, 1e-6)):
        assert sign_flip_test(d - end - outward).p < 0.05
        assert sign_flip_test(d - end + outward).p >= 0.05


def test_the_interval_holds_the_truth_95_times_in_100():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        low, high = sign_flip_test(random.normal(0.3, 1, 9)).ci95
        held += low <= 0.3 <= high
    assert 0.92 < held / 400 < 0.98


@pytest.mark.parametrize("n", range(1, 8))
def test_too_few_units_have_no_interval(n):
    test = sign_flip_test(np.linspace(1, 2, n))
    assert test.p == 2 / 2**n
    assert (test.ci95 is None) == (test.p >= 0.05) == (n < FEWEST_UNITS)


def test_equal_arms_are_undecided():
    rows = [row(f"c{i}", 0.1 * i) for i in range(9)]
    result = compare(rows, rows, "dice")
    assert result["delta"] == 0 and result["ci95"] == [0, 0] and result["p"] == 1
    assert verdict(result) == "undecided"


def test_a_patient_is_a_unit_and_seeds_are_averaged_first():
    rows = [
        row("a", 0.2, 0, "P"),
        row("b", 0.6, 0, "P"),
        row("c", 0.9, 0),
        row("a", 0.4, 1, "P"),
        row("b", 0.8, 1, "P"),
    ]
    rows.append(row("c", 0.7, 1))
    np.testing.assert_allclose(per_unit(rows, "dice"), [0.5, 0.8])
    assert size(rows) == {"cases": 3, "patients": 2}
    assert units(rows) == "1 patient and 1 case"


def test_many_cases_of_few_patients_decide_nothing():
    frozen = [row(f"{p}{i}", 0.5, patient=p) for p in "PQR" for i in range(20)]
    lora = [r | {"dice": 0.9} for r in frozen]
    result = compare(frozen, lora, "dice")
    assert result == {"frozen": 0.5, "lora": 0.9, "delta": 0.4, "ci95": None, "p": 0.25}
    assert verdict(result) == "undecided"


def test_the_verdict_names_the_better_arm():
    low = [row(f"c{i}", 0.5 + 0.01 * i) for i in range(10)]
    high = [r | {"dice": r["dice"] + 0.1 + 0.001 * i} for i, r in enumerate(low)]
    assert verdict(compare(low, high, "dice")) == "lora"
    assert verdict(compare(high, low, "dice")) == "frozen"


@pytest.mark.parametrize(
    "other",
    [
        [row("a", 0.1), row("x", 0.1)],
        [row("a", 0.1)],
        [row("a", 0.1), row("x", 0.1, patient="P")],
        [row("a", 0.1), row("b", 0.1), row("a", 0.1, seed=1)],
    ],
)
def test_arms_with_different_cases_cannot_be_compared(other):
    with pytest.raises(UserError, match=r"evaluation/lora/cases.csv: seed .* has other test cases"):
        compare([row("a", 0.1), row("b", 0.1)], other, "dice")
