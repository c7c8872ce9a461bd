"""Where variation comes from, planted and found; the interval for other seeds, its coverage; what the report says."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.report_inputs import Tags, make_inputs
from scipy import stats

from nightshift.config import params
from nightshift.config.sections import Compare
from nightshift.reporting import render
from nightshift.reporting.about import about_run
from nightshift.reporting.load import ArmResults, read_arms
from nightshift.reporting.seeds import seeds_test
from nightshift.reporting.significance import by_seed, mean_interval, per_unit, rounded, sign_flip_test
from nightshift.reporting.summary import summarise
from nightshift.reporting.text_variation import variation_rows, variation_words
from nightshift.reporting.variation import deviations, variations, widening

CHOSEN = Compare(reference="frozen", level=0.05, margin=0.01)
PATIENTS, SEEDS = 40, 3
BETWEEN_PATIENTS, REST = 0.05, 0.02  # standard deviations: of the difference between patients, and of what is left


def drawn(random, seeds, patients=PATIENTS, count=SEEDS, skewed=False):
    """Dice (patients, seeds) of two arms whose expected difference is 0; `seeds`: standard deviations between them."""
    own = random.exponential(1, patients) - 1 if skewed else random.normal(0, 1, patients)
    base = random.uniform(0.5, 0.8, patients)
    of_patients = (base, base + BETWEEN_PATIENTS * own)
    return [
        values[:, None] + random.normal(0, seed, count) + random.normal(0, REST, (patients, count))
        for values, seed in zip(of_patients, seeds, strict=True)
    ]


def seeds_interval(of, level=0.05):
    return rounded(seeds_test(of, level)[:2])


def held(random, times, find, seeds, **more):
    """How often the interval that `find` makes of drawn arms holds 0."""
    intervals = np.array([find(drawn(random, seeds, **more)) for _ in range(times)])
    return ((intervals[:, 0] <= 0) & (intervals[:, 1] >= 0)).mean()


@pytest.mark.parametrize("seeds", [(0, 0), (0.01, 0.01), (0.03, 0.03)])
def test_the_interval_for_other_seeds_holds_the_true_difference_95_times_in_100(seeds):
    """Of 40 patients and 3 seeds; that for other patients holds it less often the more the seeds vary."""
    assert 0.93 <= held(np.random.default_rng(1), 2000, seeds_interval, seeds) <= 0.97
    of_patients = held(np.random.default_rng(1), 2000, lambda of: mean_interval((of[1] - of[0]).mean(axis=1)), seeds)
    assert of_patients == pytest.approx({0: 0.95, 0.01: 0.84, 0.03: 0.48}[seeds[0]], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "more", "least"),
    [
        ((0.003, 0.003), {}, 0.93),
        ((0.01, 0.0), {}, 0.93),
        ((0.02, 0.01), {}, 0.93),
        ((0.03, 0.01), {}, 0.93),
        ((0.03, 0.0), {}, 0.915),  # the seeds of one arm alone vary, and more than patients: 92.9 %
        ((0.01, 0.01), {"patients": 12}, 0.93),
        ((0.03, 0.03), {"patients": 12}, 0.93),
        ((0.01, 0.01), {"patients": 100}, 0.93),
        ((0.01, 0.01), {"count": 2}, 0.93),
        ((0.03, 0.0), {"count": 2}, 0.875),  # of two seeds: 88.9 %
        ((0.03, 0.03), {"count": 5}, 0.93),
        ((0.0, 0.0), {"skewed": True}, 0.93),
        ((0.03, 0.03), {"skewed": True}, 0.93),
    ],
)
def test_the_interval_for_other_seeds_in_other_settings(seeds, more, least):
    assert least <= held(np.random.default_rng(1), 10_000, seeds_interval, seeds, **more) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "expected"), [((0, 0), 0.943), ((0.01, 0.01), 0.907), ((0.03, 0.03), 0.841)])
def test_a_bootstrap_over_patients_and_seeds_holds_it_less_often(seeds, expected):
    random = np.random.default_rng(2)

    def drawn_again(of):
        """Percentiles of 499 differences of drawn patients, the same of both arms, and drawn seeds, each arm's own."""
        patients, times = len(of[0]), 499
        shares = random.multinomial(patients, np.full(patients, 1 / patients), times) / patients
        first, second = (
            ((shares @ table) * random.multinomial(SEEDS, np.full(SEEDS, 1 / SEEDS), times) / SEEDS).sum(axis=1)
            for table in of
        )
        return np.quantile(second - first, [0.025, 0.975])

    assert held(random, 2000, drawn_again, seeds) == pytest.approx(expected, abs=0.025)


def test_planted_variation_is_found():
    """Of 5 folds, in each of which a seed is another training; the difference has the seeds of both arms."""
    random, folds, seeds = np.random.default_rng(0), np.repeat(np.arange(30), 20), 20
    own, arms = random.normal(0, 0.08, len(folds)), []
    for sd, of_fold, of_patient in ((0.01, 0.03, 0.0), (0.02, 0.04, 0.05)):
        training = random.normal(0, sd, (30, seeds)) + random.normal(0, of_fold, (30, 1))
        patient = own + random.normal(0, of_patient, len(folds)) if of_patient else own
        arms.append(0.6 + patient[:, None] + training[folds] + random.normal(0, REST, (len(folds), seeds)))
    assert deviations(arms[:1], folds) == pytest.approx((0.08, 0.01, 0.03), rel=0.15)
    assert deviations(arms[1:], folds) == pytest.approx((math.hypot(0.08, 0.05), 0.02, 0.04), rel=0.15)
    assert deviations(arms, folds) == pytest.approx((0.05, math.hypot(0.01, 0.02), 0.05), rel=0.15)


def test_variances_are_those_of_a_table_worked_by_hand():
    table = np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 7.0]])  # means 1.5, 4.5, 6 and 3, 5; rest +-0.5, -0.5, 0
    rest = 4 * 0.5**2 / 2
    expected = math.sqrt(5.25 - rest / 2), math.sqrt(2 - rest / 3), None
    assert deviations([table], np.zeros(3, int)) == pytest.approx(expected)
    variance = 5.25 / 3 + 2 / 2 - rest / 6
    freedom = variance**2 / ((5.25 / 3) ** 2 / 2 + 1 + (rest / 6) ** 2 / 2)
    low, high = seeds_interval([table])
    assert (low + high) / 2 == pytest.approx(4)
    assert (high - low) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * math.sqrt(variance), abs=1e-6)


def test_folds_of_one_patient_are_not_told_from_patients():
    table = np.random.default_rng(0).normal(0.6, 0.1, (6, 2))
    assert deviations([table], np.array([0, 0, 1, 1, 2, 3])) == deviations([table], np.zeros(6, int))


def test_without_variation_between_seeds_the_interval_is_students():
    one, other = drawn(np.random.default_rng(0), (0.02, 0.02), count=1)
    assert seeds_interval([one, other]) == mean_interval((other - one)[:, 0])
    same = [np.repeat(one, 3, axis=1), np.repeat(other, 3, axis=1)]
    assert seeds_interval(same, 0.2) == mean_interval((other - one)[:, 0], 0.2)
    assert seeds_interval([one, one]) == [0, 0]


def rows(table, fold=0):
    """As evaluation's cases.csv, two cases of each patient, which lie around the patient's Dice."""
    return pd.DataFrame(
        [
            {"fold": fold, "seed": s, "case_id": f"{p}-{case}", "patient_id": f"P{p}", "dice": dice + 0.1 * case - 0.05}
            for s in range(table.shape[1])
            for p in range(len(table))
            for case, dice in enumerate([table[p, s]] * 2)
        ]
    )


def arm(table, epoch=1, train=60, **more):
    return ArmResults(rows(table, **more), None, cards=[SimpleNamespace(epoch=epoch, cases={"train": train})])


def test_dice_by_patient_and_seed():
    table = drawn(np.random.default_rng(0), (0.01, 0.01), patients=5)[0]
    np.testing.assert_allclose(by_seed(rows(table), "dice"), table)
    np.testing.assert_allclose(by_seed(rows(table), "dice").mean(axis=1), per_unit(rows(table), "dice"))


def test_seeds_are_several_where_every_arm_that_is_trained_has_several():
    one, other = drawn(np.random.default_rng(0), (0.01, 0.01))
    many = {"frozen": arm(one), "lora": arm(other)}
    found = variations(many, 0.05)
    assert list(found) == [("frozen",), ("lora",), ("frozen", "lora")]
    assert all(v.seeds is not None and v.folds is None for v in found.values())
    of_patients = sign_flip_test((other - one).mean(axis=1)).interval
    assert found["frozen", "lora"].interval == rounded(of_patients)
    ends = np.array([of_patients, seeds_interval([one, other])])
    assert found["frozen", "lora"].with_seeds == pytest.approx([ends[:, 0].min(), ends[:, 1].max()], abs=1e-6)
    assert found["lora",].with_seeds == seeds_interval([other])
    assert variations(many | {"lora": arm(other[:, :1])}, 0.05) == {}
    fixed = variations(many | {"filter": arm(other[:, :1], epoch=0)}, 0.05)
    assert fixed["filter",].seeds == 0 and fixed["frozen", "filter"].seeds == fixed["frozen",].seeds
    assert variations({"frozen": arm(one[:, :1]), "lora": arm(other[:, :1])}, 0.05) == {}
    assert variations({name: replace(a, cases=a.cases[:2]) for name, a in many.items()}, 0.05) == {}


def folded(table):
    """Patients in five folds."""
    one = arm(table)
    return replace(one, cases=one.cases.assign(fold=one.cases["patient_id"].str[1:].astype(int) % 5))


def test_with_folds_and_one_seed_there_is_no_interval_for_other_seeds():
    of = [table[:, :1] for table in drawn(np.random.default_rng(0), (0.01, 0.01))]
    arms = {"frozen": folded(of[0]), "lora": folded(of[1])}
    found = variations(arms, 0.05)["frozen", "lora"]
    assert found.folds is not None and found.seeds is found.with_seeds is None
    assert widening(arms) == pytest.approx(math.sqrt(1 + 80 / 60))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Arms of a made-up run as the current folder, by function: with seeds and folds, and a gain of LoRA by seed."""
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    read = read_arms(("frozen", "lora"), "frozen")

    def made(gains=(0.0,), folds=1):
        of_seed = {"frozen": [0.0] * len(gains), "lora": gains}
        return {
            name: replace(
                one,
                cases=pd.concat(
                    one.cases.assign(seed=s, dice=one.cases["dice"] + gain, fold=np.arange(8) % folds)
                    for s, gain in enumerate(of_seed[name])
                ),
            )
            for name, one in read.items()
        }

    return made


def compared(arms, folds=1):
    found = summarise(arms, CHOSEN)
    return replace(found, metrics=found.metrics.model_copy(update={"folds": folds}))


def pages(arms, comparison):
    contents = render.contents(arms, comparison, [], about_run(params.read(), arms), 0.01)
    return [render.render(name, contents).replace("\\", "") for name in ("report.html.j2", "report.md.j2")]


def test_the_report_says_nothing_of_it_with_one_seed_and_one_fold(run):
    arms = run()
    for text in pages(arms, compared(arms)):
        assert "Where the variation comes from" not in text and "#variation" not in text
        assert "is not measured" in text


def test_the_report_shows_seeds_and_folds_beside_patients(run):
    arms = run((-0.01, 0.0, 0.01), folds=2)
    comparison = compared(arms, folds=2)
    patients, seeds, folds, other, too, widened = variation_rows(comparison, arms)
    assert seeds.values == ["0.000", "0.010"] and seeds.differences == ["0.010"]
    assert patients.name.endswith("patients") and folds.values == ["0.000", "0.000"]
    assert other.differences == ["[0.100, 0.101]"] and other.name == "Interval, other patients"
    assert too.differences == ["[0.076, 0.126]"] and too.name == "Interval, other patients and seeds"
    half = 0.0248 * math.sqrt(1 + 8 / 9)  # 8 cases are tested, 9 are trained on
    assert widened.differences == [f"[{0.1007 - half:.3f}, {0.1007 + half:.3f}]"]
    assert widened.name == "Interval, other patients and seeds, widened"
    said = " ".join(variation_words(comparison, arms))
    assert "would training again with other seeds" in said and "The trainings of the 2 folds share patients" in said
    html, markdown = pages(arms, comparison)
    for text in (html, markdown):
        assert said in text and "Standard deviation between folds" in text and "[0.076, 0.126]" in text
    assert not Tags(html).unclosed and 'href="#variation"' in html


def test_a_difference_that_other_seeds_may_not_give_is_no_verdict(run):
    arms = run((-0.2, 0.0, 0.2))
    comparison = compared(arms)
    assert sign_flip_test(per_unit(arms["lora"].cases, "dice") - per_unit(arms["frozen"].cases, "dice")).p < 0.05
    assert comparison.metrics.against["lora"].verdict == comparison.metrics.verdict == "undecided"
    low, high = comparison.against["lora"]["dice"].interval
    assert low <= 0 <= high and comparison.metrics.against["lora"].ci95 == [low, high]
    for text in pages(arms, comparison):
        assert "Undecided" in text and "more seeds would decide it" in text
    assert compared(run((-0.01, 0.0, 0.01))).metrics.verdict == "lora"
