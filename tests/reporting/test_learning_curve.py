"""Planted learning curves: where two cross is found, and no crossing is claimed where there is none.

The curves are as steep as published ones; Dice varies by 0.08 between patients and a difference of arms by 0.04.
"""

import numpy as np
import pandas as pd
import pytest
from helpers.learning_curve import NUMBERS, law, planted
from helpers.report_inputs import EVIL
from scipy.optimize import brentq, curve_fit

from nightshift.console.errors import UserError
from nightshift.reporting import learning_curve_page
from nightshift.reporting.learning_curve import REACH, LearningCurves, Payoff, learning_curves, payoff
from nightshift.reporting.power_law import EXPONENTS, fit
from nightshift.reporting.text_learning_curve import sentences

SOON_FLAT, STEEP = law(0.72, 0.10, 0.9), law(0.85, 0.30, 0.5)
CROSSING = {  # the reference, and the arm
    "pays from 27": (SOON_FLAT, STEEP),
    "pays from 70": (SOON_FLAT, law(0.80, 0.25, 0.45)),
    "stops paying 27": (STEEP, SOON_FLAT),
    "stops paying 54": (law(0.78, 0.30, 0.6), law(0.71, 0.08, 0.6)),
}
NEVER = {
    "equal": (SOON_FLAT, SOON_FLAT),
    "ahead": (SOON_FLAT, law(0.75, 0.10, 0.9)),
    "ahead by less and less": (SOON_FLAT, law(0.722, 0.05, 0.9)),
    "behind": (law(0.72, 0.20, 0.4), law(0.70, 0.20, 0.5)),
    "behind at first, then almost equal": (SOON_FLAT, law(0.719, 0.30, 0.9)),
}
DATA = {"10 patients": (10, 1, 0.005), "20 patients": (20, 1, 0.01), "40 patients, 3 seeds": (40, 3, 0.01)}


def found_in(curves, count, patients, seeds=1, training=0.005):
    """What `count` planted data sets say of the arm."""
    random = np.random.default_rng(1)
    arms = dict(zip(("frozen", "lora"), curves, strict=True))
    tables = (planted(arms, patients, random, seeds=seeds, training=training) for _ in range(count))
    return [learning_curves(table, "frozen").payoffs["lora"] for table in tables]


def says_what_is_false(found: Payoff, curves) -> bool:
    """Whether it claims that the arm is ahead where it is not, or behind where it is not."""
    reference, arm = curves
    ahead, behind = (
        [n for low, high in ranges for n in (low, high) if sign * (arm(n) - reference(n)) <= 0]
        for sign, ranges in ((1, found.ahead), (-1, found.behind))
    )
    return bool(ahead or behind)


def crossing_of(curves) -> float:
    reference, arm = curves
    return brentq(lambda n: arm(n) - reference(n), NUMBERS[0], REACH * NUMBERS[-1])


def test_a_crossing_is_found_and_none_is_made_up():
    """The slow tests below do this in earnest."""
    crossing = found_in(CROSSING["pays from 27"], 25, patients=20)
    n = crossing_of(CROSSING["pays from 27"])
    assert 26 < n < 28
    told = [one for one in crossing if one.interval]
    assert len(told) >= 20 and {one.answer for one in told} == {"pays from"}
    assert sum(one.interval[0] <= n <= one.interval[1] for one in told) >= 0.9 * len(told)
    assert all(one.interval[0] <= one.crossing <= one.interval[1] and one.crossed > 0.9 for one in told)
    equal = found_in(NEVER["equal"], 25, patients=20)
    assert sum(one.answer == "cannot tell" for one in equal) >= 24


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
def test_the_true_crossing_is_in_nine_of_ten_intervals(data):
    inside, told, false = 0, 0, 0
    for name, curves in CROSSING.items():
        found, n = found_in(curves, 100, *data), crossing_of(curves)
        answer, _, planted_at = name.rpartition(" ")
        assert int(planted_at) == round(n)
        intervals = [one.interval for one in found if one.interval]
        told, inside = told + len(intervals), inside + sum(low <= n <= high for low, high in intervals)
        false += sum(says_what_is_false(one, curves) for one in found)
        assert {one.answer for one in found} <= {answer, "cannot tell"}
    print(f"{told} of 400 crossings told, {inside} inside the interval; {false} false statements")
    assert told >= 40 and inside >= 0.9 * told and false <= 0.05 * 400


@pytest.mark.slow
@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
@pytest.mark.parametrize("name", NEVER)
def test_no_crossing_is_claimed_of_curves_that_never_cross(name, data):
    found = found_in(NEVER[name], 100, *data)
    crossings = sum(one.interval is not None for one in found)
    false = sum(says_what_is_false(one, NEVER[name]) for one in found)
    print(f"{name}: {crossings} of 100 crossings claimed, {false} false statements")
    assert crossings <= 5 and false <= 5


@pytest.mark.parametrize(
    ("signs", "answer", "ahead", "behind", "crossing", "interval"),
    [
        ("--??++", "pays from", [(16, 32)], [(1, 2)], 8, (2, 16)),
        ("++?---", "stops paying", [(1, 2)], [(8, 32)], 4, (2, 8)),
        ("++++++", "pays", [(1, 32)], [], None, None),
        ("------", "does not pay", [], [(1, 32)], None, None),
        ("??????", "cannot tell", [], [], None, None),
        ("?++++?", "cannot tell", [(2, 16)], [], None, None),
        ("+?--?+", "cannot tell", [(1, 1), (32, 32)], [(4, 8)], None, None),
        ("-+++++", "pays from", [(2, 32)], [(1, 1)], 2, (1, 2)),
    ],
)
def test_what_a_band_says(signs, answer, ahead, behind, crossing, interval):
    """Of `?` the first half is fitted below 0."""
    low = [{"+": 0.1, "-": -0.3, "?": -0.1}[sign] for sign in signs]
    high = [{"+": 0.3, "-": -0.1, "?": 0.1}[sign] for sign in signs]
    delta = [{"+": 0.2, "-": -0.2, "?": 0.01 if i > 2 else -0.01}[sign] for i, sign in enumerate(signs)]
    band = pd.DataFrame({"delta": delta, "low": low, "high": high}, index=[1, 2, 4, 8, 16, 32])
    assert payoff(band, 0.5) == Payoff(answer, ahead, behind, crossing, interval, 0.5)


def test_a_law_is_fitted_as_scipy_does():
    numbers, random = np.array(NUMBERS, float), np.random.default_rng(0)
    noisy = STEEP(numbers) + random.normal(0, 0.01, (50, 5))
    fitted = fit(numbers, noisy)(numbers)
    bounds = [0, 0, EXPONENTS[0]], [2, 2, EXPONENTS[-1]]
    for one, ours in zip(noisy, fitted, strict=True):
        (a, b, c), _ = curve_fit(lambda n, a, b, c: law(a, b, c)(n), numbers, one, (0.8, 0.3, 0.5), bounds=bounds)
        assert np.abs(law(a, b, c)(numbers) - ours).max() < 0.002
    many = np.array([8.0, 500.0])
    np.testing.assert_allclose(fit(numbers, STEEP(numbers))(many), STEEP(many), atol=0.002)


@pytest.mark.parametrize("dice", ["falling", "constant", "zero", "the same", "noise"])
def test_no_curve_is_too_odd_to_be_fitted(dice):
    random = np.random.default_rng(0)
    table = planted({"frozen": law(0.7, 0.0, 1.0), "lora": law(0.5, -0.2, 1.0)}, 8, random)
    if dice == "the same":
        table["dice"] = table.groupby(["patients", "case_id"])["dice"].transform("first")
    elif dice != "falling":
        table["dice"] = {"constant": 0.5, "zero": 0.0, "noise": random.uniform(0, 1, len(table))}[dice]
    found = learning_curves(table, "frozen")
    assert np.isfinite(found.fitted).all(axis=None) and np.isfinite(found.band["lora"]).all(axis=None)
    if dice != "falling":
        assert found.payoffs["lora"].answer == "cannot tell"


def test_patients_are_the_unit_and_curves_reach_to_twice_the_largest_number():
    table = planted({"lora": STEEP, "frozen": SOON_FLAT}, 12, np.random.default_rng(0))
    twice = pd.concat([table, table.assign(case_id=table["case_id"] + "b")])
    one, other = (learning_curves(rows, "frozen") for rows in (table, twice))
    assert one.arms == ["frozen", "lora"] and one.test_patients == other.test_patients == 12
    pd.testing.assert_frame_equal(one.band["lora"], other.band["lora"])
    assert one.fitted.index[0] == 8 and one.fitted.index[-1] == 256 and set(NUMBERS) <= set(one.fitted.index)
    first = one.points.iloc[0]
    own = table[(table["arm"] == "frozen") & (table["patients"] == 8)]["dice"]
    assert first["dice"] == pytest.approx(own.mean()) and first["low"] < first["dice"] < first["high"]


def test_seeds_narrow_the_band_and_their_spread_widens_it():
    def width(seeds: int, training: float) -> float:
        table = planted({"frozen": STEEP, "lora": STEEP}, 20, np.random.default_rng(0), seeds=seeds, training=training)
        band = learning_curves(table, "frozen").band["lora"]
        return (band["high"] - band["low"]).mean()

    assert width(1, 0.03) > 1.5 * width(1, 0.001)
    table = planted({"frozen": STEEP, "lora": STEEP}, 20, np.random.default_rng(0), training=0.03)
    least = table[(table["arm"] == "frozen") & (table["patients"] == NUMBERS[0])]
    still = pd.concat([least.assign(arm="vesselness", patients=n) for n in NUMBERS])  # a filter: nothing is trained
    bands = [learning_curves(rows, "frozen").band["lora"] for rows in (table, pd.concat([table, still]))]
    assert np.subtract(*[(band["high"] - band["low"]).mean() for band in bands]) <= 0
    assert width(4, 0.03) < 0.8 * width(1, 0.03)


@pytest.mark.parametrize(
    ("patients", "numbers", "why"),
    [
        (20, (8, 16, 32), "3 numbers of training patients, and 4 are needed"),
        (5, NUMBERS, "5 test patients, and 6 are needed"),
        (1, (8,), "1 numbers of training patients, and 4 are needed"),
    ],
)
def test_too_little_for_a_curve_is_said(patients, numbers, why):
    found = learning_curves(planted({"a": STEEP, "b": STEEP}, patients, np.random.default_rng(0), numbers), "a")
    assert found.fitted is None and len(found.points) == 2 * len(numbers)
    assert sentences(found) == [f"From how many patients on an arm pays cannot be told: there are only {why}."]


def test_what_is_missing_is_named():
    table = planted({"frozen": STEEP, "lora": STEEP}, 8, np.random.default_rng(0))
    lora = (table["arm"] == "lora") & (table["patients"] == 32)
    with pytest.raises(UserError, match="no result of the lora arm with 32 training patients"):
        learning_curves(table[~lora], "frozen")
    with pytest.raises(UserError, match="the lora arm with 32 training patients has other test patients"):
        learning_curves(table[~(lora & (table["case_id"] == "P3"))], "frozen")


def said(found: Payoff) -> str:
    curves = learning_curves(planted({"frozen": STEEP, "lora": STEEP}, 6, np.random.default_rng(0)), "frozen")
    changed = {"payoffs": {"lora": found}}
    return sentences(LearningCurves(**(vars(curves) | changed)))[0].replace(CROSSED, "")


CROSSED = " In 50 % of the bootstrap samples its curve crosses that of frozen."


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            Payoff("pays from", [(40, 256)], [(8, 20)], 30, (20, 40), 0.5),
            "LoRA pays from 30 training patients on (95 % interval 20 to 40).",
        ),
        (
            Payoff("stops paying", [(8, 90)], [(200, 256)], 130, (90, 200), 0.5),
            "LoRA stops paying from 130 training patients on (95 % interval 90 to 200). "
            "What is said of more than 128 is extrapolated.",
        ),
        (
            Payoff("does not pay", [], [(8, 256)], crossed=0.5),
            "LoRA does not pay at any number of training patients from 8 to 256. "
            "What is said of more than 128 is extrapolated.",
        ),
        (
            Payoff("cannot tell", [(20, 40), (60, 70)], [(8, 9)], crossed=0.5),
            "LoRA pays at 20 to 40 and 60 to 70 and does not pay at 8 to 9 training patients; these data cannot tell "
            "whether LoRA pays at any other number of training patients from 8 to 256.",
        ),
        (
            Payoff("cannot tell", crossed=0.5),
            "These data cannot tell whether LoRA pays at any number of training patients from 8 to 256.",
        ),
    ],
)
def test_the_answer_is_a_sentence(found, text):
    assert said(found) == text


def test_the_page_is_one_file_that_escapes_names_and_the_csv_has_its_numbers(tmp_path):
    arms = {"frozen": SOON_FLAT, "lora": STEEP, EVIL: STEEP}
    curves = learning_curves(planted(arms, 20, np.random.default_rng(0)), "frozen")
    runs = {n: f"run-{n} {EVIL}" for n in NUMBERS}
    told = learning_curve_page.write(curves, runs, ["This encoder has random weights."], tmp_path)
    page = (tmp_path / "learning-curve.html").read_text(encoding="utf-8")
    assert EVIL not in page and "This encoder has random weights." in page and told[0] in page
    assert "http" not in page.replace("http://www.w3.org", "") and 'src="data:image/svg+xml' in page
    assert page.count("<tr>") == 1 + len(NUMBERS) + 1 and page.count(">extrapolated<") == 1
    table = pd.read_csv(tmp_path / "learning-curve.csv").set_index("patients")
    assert table["extrapolated"].tolist() == [False] * 5 + [True] and table.index[-1] == 256
    assert table.loc[128, "lora.delta"] == pytest.approx(curves.band["lora"].loc[128, "delta"], abs=1e-6)
    assert table.loc[8, "frozen.dice"] == pytest.approx(curves.points.iloc[0]["dice"], abs=1e-6)
    assert np.isnan(table.loc[256, "lora.dice"]) and table.loc[256, "lora.fitted"] > table.loc[128, "lora.fitted"]


def test_a_page_without_curves_shows_what_there_is(tmp_path):
    curves = learning_curves(planted({"a": STEEP, "b": STEEP}, 20, np.random.default_rng(0), (8, 16)), "a")
    learning_curve_page.write(curves, {8: "one", 16: "two"}, [], tmp_path)
    page = (tmp_path / "learning-curve.html").read_text(encoding="utf-8")
    assert page.count("<tr>") == 3 and "its curve" not in page
