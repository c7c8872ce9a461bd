"""The verdict on planted truths, the sign-flip test against scipy's, its interval, patients as units, and the rest.

The rest: Holm's correction, patients needed, what an ablation costs.
"""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import permutation_test, ttest_1samp

from nightshift.console.errors import UserError
from nightshift.evaluation.measures import DISTANCES, OVERLAPS, all_measures
from nightshift.reporting.significance import (
    AblationEffect,
    Difference,
    ablation_effect,
    check_same_cases,
    compare,
    fewest_units,
    holm,
    mean_interval,
    paired_test,
    patients_needed,
    per_unit,
    sign_flip_test,
    size,
    units,
    verdict,
)

COUNTS = (1, 2, 1, 3, 1, 2, 1, 4, 1, 2, 1, 3)  # cases of each of twelve patients
OFFSETS = np.array([-3, 3, -2, 2, -1, 1, -3, 3, -2, 2, -1, 1])  # of patients, in pixels of 100; their mean is 0


def row(case, dice, seed=0, patient=""):
    return {"fold": 0, "seed": seed, "case_id": case, "patient_id": patient, "dice": dice}


def told(found: Difference, level: float = 0.05) -> str:
    return verdict(found.delta, found.p, level)


def frame(rows) -> pd.DataFrame:
    return pd.DataFrame(rows)


def predicted(right: np.ndarray) -> pd.DataFrame:
    """Rows of an arm that marks 100 pixels per case, right[patient] + 1 of them true with seed 0, - 1 with seed 1.

    Both masks have 100 pixels, so Dice is the share of true ones.
    """
    rows = []
    for seed, luck in enumerate((1, -1)):
        for patient, count in enumerate(COUNTS):
            for case in range(count):
                truth, mask = np.zeros((2, 20, 20), bool)
                truth[5:10] = True
                mask.ravel()[200 - right[patient] - luck :][:100] = True
                who = {"fold": 0, "seed": seed, "case_id": f"{patient}-{case}", "patient_id": f"P{patient}"}
                rows.append(who | all_measures(mask, truth))
    return frame(rows)


@pytest.mark.parametrize(
    ("more", "delta", "answer"),
    [
        pytest.param(8 + OFFSETS, 0.08, "better", id="better"),
        pytest.param(OFFSETS, 0, "undecided", id="equal"),
        pytest.param(OFFSETS - 8, -0.08, "worse", id="worse"),
        pytest.param(36 * (np.arange(12) == 7), 0.03, "undecided", id="better in one patient"),
    ],
)
def test_a_planted_truth_is_found(more, delta, answer):
    frozen, lora = predicted(np.full(12, 60)), predicted(60 + more)
    assert abs((lora["dice"] - frozen["dice"]).mean() - delta) > 0.009  # a mean over cases, not patients, is another
    found = {name: compare(frozen, lora, name) for name in (*OVERLAPS, *DISTANCES)}
    dice = found["dice"]
    assert (dice.reference, dice.delta) == pytest.approx((0.6, delta), abs=1e-6)
    assert told(dice) == answer
    low, high = dice.interval
    assert low <= delta <= high and (low > 0, high < 0) == (answer == "better", answer == "worse")
    for name in set(found) - {"cldice"} if answer != "undecided" else ():
        assert (found[name].delta > 0) == ((answer == "better") != (name in DISTANCES))


def test_no_difference_is_called_one_in_5_of_100_comparisons():
    """10,000 of arms that differ by chance alone, in patients and in cases: exact 4.98 %, and 3 standard errors."""
    random, who = np.random.default_rng(0), np.repeat(np.arange(12), COUNTS)
    frozen = frame([row(str(i), 0.0, seed, f"P{p}") for seed in (0, 1) for i, p in enumerate(who)])
    of_patients = np.stack(
        [np.tile(who == p, 2) / (2 * (who == p).sum()) for p in range(12)]
    )  # (12, rows): their means
    false = 0
    for i in range(10_000):
        base = random.uniform(0.5, 0.9, len(frozen))
        change = np.tile(random.normal(0, 0.03, 12)[who], 2) + random.laplace(0, 0.03, len(frozen))
        found = sign_flip_test(of_patients @ change)
        if i < 200:  # of frames, which take 20 times as long
            compared = compare(frozen.assign(dice=base), frozen.assign(dice=base + change), "dice")
            tables = [2 * of_patients[:, : len(who)] @ dice.reshape(2, -1).T for dice in (base, base + change)]
            assert (compared.p, compared.delta) == pytest.approx((paired_test(tables).p, found.delta), abs=1e-6)
            assert compared.p >= round(found.p, 6)
        decided = verdict(found.delta, found.p) != "undecided"
        false += decided
        assert decided != (found.interval[0] <= 0 <= found.interval[1])
    assert 0.043 < false / 10_000 <= 0.057


def test_a_patient_without_a_value_is_left_out():
    """As of vessels of a calibre that the patient does not show; the other cases of a patient still count."""
    values = {"a": ("P0", 0.2), "b": ("P0", np.nan), "c": ("P1", np.nan), "d": ("P2", 0.4)}
    some = frame([row(case, value, patient=patient) for case, (patient, value) in values.items()])
    found = compare(some, some.assign(dice=some["dice"] + 0.1), "dice")
    assert (found.reference, found.other, found.delta) == pytest.approx((0.3, 0.4, 0.1))
    known = some.dropna()
    assert found == compare(known, known.assign(dice=known["dice"] + 0.1), "dice")


def test_every_seed_enters_the_verdict():
    frozen = frame([row(f"c{i}", 0.5, seed) for seed in (0, 1) for i in range(8)])
    gain = np.concatenate([0.1 + 0.01 * np.arange(8), np.full(8, -0.1)])
    lora = frozen.assign(dice=0.5 + gain)
    first = compare(frozen[:8], lora[:8], "dice")
    assert told(first) == "better"
    assert compare(frozen, lora, "dice").delta == pytest.approx((first.delta - 0.1) / 2, abs=1e-6)
    opposite = frozen.assign(dice=0.5 + np.concatenate([gain[:8], -gain[:8]]))  # the other seed says the opposite
    assert told(compare(frozen, opposite, "dice")) == "undecided"


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
@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_p_is_below_the_level_exactly_when_the_interval_excludes_zero(rounded, level):
    seen = set()
    for d in samples(150, rounded):
        test = sign_flip_test(d, level)
        excludes = test.interval is not None and not test.interval[0] <= 0 <= test.interval[1]
        assert (test.p < level) == excludes
        seen.add((excludes, len(d) > 14))  # of more than 14 units patterns are drawn
    assert len(seen) == 4


def test_an_interval_that_excludes_zero_still_does_when_rounded():
    one, other = frame([row(f"c{i}", 0.0) for i in range(6)]), frame([row(f"c{i}", 0.1) for i in range(6)])
    other.loc[0, "dice"] = 3e-7
    assert compare(one, other, "dice").interval[0] == 1e-6
    assert compare(other, one, "dice").interval[1] == -1e-6
    other.loc[0, "dice"] = 0.0
    assert compare(one, other, "dice").interval[0] == 0


@pytest.mark.parametrize("n", [6, 7, 11, 14, 15, 40])
def test_a_shift_is_rejected_just_outside_the_interval_and_not_inside(n):
    d = np.random.default_rng(n).normal(0.2, 1, n)
    low, high = sign_flip_test(d).interval
    for end, outward in ((low, -1e-6), (high, 1e-6)):
        assert sign_flip_test(d - end - outward).p < 0.05
        assert sign_flip_test(d - end + outward).p >= 0.05


def test_the_interval_holds_the_truth_95_times_in_100():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        low, high = sign_flip_test(random.normal(0.3, 1, 9)).interval
        held += low <= 0.3 <= high
    assert 0.92 < held / 400 < 0.98


@pytest.mark.parametrize("n", range(1, 11))
@pytest.mark.parametrize("level", [0.01, 2 / 64, 0.05, 0.1, 0.4])
def test_too_few_units_have_no_interval(n, level):
    test = sign_flip_test(np.linspace(1, 2, n), level)
    assert test.p == 2 / 2**n
    assert (test.interval is None) == (test.p >= level) == (n < fewest_units(level))


def test_equal_arms_are_undecided():
    rows = frame([row(f"c{i}", 0.1 * i) for i in range(9)])
    result = compare(rows, rows, "dice")
    assert result.delta == 0 and result.ci95 == result.interval == [0, 0] and result.p == 1
    assert told(result) == "undecided"


def test_a_patient_is_a_unit_and_seeds_are_averaged_first():
    rows = [
        row("a", 0.2, 0, "P"),
        row("b", 0.6, 0, "P"),
        row("c", 0.9, 0),
        row("a", 0.4, 1, "P"),
        row("b", 0.8, 1, "P"),
    ]
    cases = frame([*rows, row("c", 0.7, 1)])
    found = per_unit(cases, "dice")
    np.testing.assert_allclose(found, [0.5, 0.8])
    assert list(found.index) == ["patient P", "case c"]
    assert size(cases) == (3, 2)
    assert units(cases) == "1 patient and 1 case"


def test_many_cases_of_few_patients_decide_nothing():
    frozen = frame([row(f"{p}{i}", 0.5, patient=p) for p in "PQR" for i in range(20)])
    result = compare(frozen, frozen.assign(dice=0.9), "dice")
    assert result == Difference(reference=0.5, other=0.9, delta=0.4, ci95=None, interval=None, p=0.25)
    assert told(result) == "undecided"


def test_the_verdict_says_better_or_worse():
    low = frame([row(f"c{i}", 0.5 + 0.01 * i) for i in range(10)])
    high = low.assign(dice=low["dice"] + 0.1 + 0.001 * np.arange(10))
    assert told(compare(low, high, "dice")) == "better"
    assert told(compare(high, low, "dice")) == "worse"


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
    same = frame([row("a", 0.1), row("b", 0.1)])
    check_same_cases({"frozen": same, "wide": same})
    message = r"evaluation/wide: seed .* has other test cases than the frozen .*dvc repro -f evaluate@wide"
    with pytest.raises(UserError, match=message):
        check_same_cases({"frozen": same, "lora": same, "wide": frame(other)})


def test_the_interval_belongs_to_the_level_and_ci95_to_5_percent():
    low = frame([row(f"c{i}", 0.5) for i in range(10)])
    high = low.assign(dice=low["dice"] + np.linspace(-0.02, 0.1, 10))
    usual, strict = compare(low, high, "dice"), compare(low, high, "dice", 0.01)
    assert usual.ci95 == usual.interval == strict.ci95
    assert strict.interval[0] < 0 < strict.ci95[0] and 0.01 <= strict.p < 0.05
    assert (told(usual), told(strict, 0.01)) == ("better", "undecided")


def test_holm_is_as_defined():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}) and list(found) == list("abcd")
    assert holm({"a": 0.6, "b": 0.5}) == {"a": 1, "b": 1} and holm({"a": 0.2}) == {"a": 0.2}
    random = np.random.default_rng(0)
    for _ in range(200):  # step down: the k-th smallest of m is rejected below level / (m - k), the first left ends it
        p, level = random.beta(0.5, 4, 7), random.uniform(0.01, 0.3)
        kept = [k for k, value in enumerate(np.sort(p)) if value >= level / (7 - k)]
        rejected = p < (np.sort(p)[kept[0]] if kept else math.inf)
        assert [value < level for value in holm(dict(enumerate(p))).values()] == rejected.tolist()


@pytest.mark.parametrize("effect", [0.5, 1.0])
def test_as_many_patients_as_needed_decide_in_80_of_100_studies(effect):
    random = np.random.default_rng(1)
    seen = random.normal(size=30)
    needed = patients_needed((seen - seen.mean()) / seen.std(ddof=1) + effect)
    power = np.mean([sign_flip_test(random.normal(effect, 1, needed)).p < 0.05 for _ in range(600)])
    assert 0.75 < power < 0.85


def test_patients_needed_has_limits():
    assert patients_needed(np.array([0.1, -0.1])) is None and patients_needed(np.array([0.1])) is None
    assert patients_needed(np.array([0.1, 0.2, -0.3]) / 3) is None  # their sum is 5.6e-17
    assert patients_needed(np.full(3, 0.1)) == fewest_units(0.05) == 6
    assert patients_needed(np.full(3, 0.1), 0.01) == 8
    differences = np.array([0.10, 0.11, 0.09, 0.10, 0.12, -0.001])  # nearly all of a sign, and p is 4 / 64
    assert sign_flip_test(differences).p > 0.05 and patients_needed(differences) == 7


def test_the_interval_of_a_mean_is_scipys():
    values = np.random.default_rng(0).normal(0.7, 0.1, 9)
    for level in (0.05, 0.2):
        expected = ttest_1samp(values, 0).confidence_interval(1 - level)
        assert mean_interval(values, level) == pytest.approx(list(expected), abs=1e-6)
    assert mean_interval(values[:1]) is None


def test_an_ablation_counts_only_the_cases_that_had_it():
    whole = frame([row(f"c{i}", 0.8, seed, f"P{i // 2}") for seed in (0, 1) for i in range(14)])
    ablated = whole[~whole["case_id"].isin(["c0", "c5"])].assign(dice=lambda rows: np.where(rows["seed"], 0.7, 0.6))
    whole.loc[0, "dice"] = 0.0  # of a case that the ablation was not made for
    expected = AblationEffect(dice=0.65, delta=-0.15, interval=[-0.15, -0.15], p=2 / 2**7, changed=12)
    assert ablation_effect(whole, ablated) == expected
    assert ablation_effect(whole, ablated, 0.01).interval is None
    assert ablation_effect(whole, whole) == AblationEffect(dice=0.771429, delta=0, interval=[0, 0], p=1, changed=0)
    assert ablation_effect(whole, whole[:0]) is None


def test_an_ablation_that_helps_as_much_as_it_harms_changes_something():
    whole = frame([row(f"c{i}", 0.5) for i in range(8)])
    found = ablation_effect(whole, whole.assign(dice=[0.5 + 0.25 * (-1) ** i for i in range(8)]))
    assert (found.delta, found.p, found.changed) == (0, 1, 8)
