"""The numbers of three arms and more: planted truths, equal arms, and what is recommended."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nightshift.config.sections import Compare
from nightshift.core.records import Cost
from nightshift.evaluation.measures import MEASURES
from nightshift.reporting.load import ArmResults, reference_first
from nightshift.reporting.records import Metrics
from nightshift.reporting.seeds import seeds_test
from nightshift.reporting.significance import holm, sign_flip_test, sign_patterns, verdict
from nightshift.reporting.summary import measures_table, summarise

PATIENTS = 16
RANDOM = np.random.default_rng(0)
BASE = RANDOM.uniform(0.4, 0.7, PATIENTS)
NOISE = RANDOM.normal(0, 0.02, (5, PATIENTS))
NOISE -= NOISE.mean(axis=1, keepdims=True)  # a gain is the mean of the differences


def arm(gain: float, noise: int, seconds: float | None = None) -> ArmResults:
    """An arm whose Dice is that of the reference + gain, in the mean over patients."""
    dice = BASE + gain + NOISE[noise]
    rows = [
        {"fold": 0, "seed": 0, "case_id": f"c{i}", "patient_id": f"P{i}"} | dict.fromkeys(MEASURES, d)
        for i, d in enumerate(dice)
    ]
    costs = {}
    for step in ("encode", "train") if seconds is not None else ():
        costs[step] = Cost(
            stage=step,
            seconds=seconds / 2,
            peak_memory_bytes=0,
            peak_device_memory_bytes=0,
            threads=1,
            machine={},
            revision="",
        )
    return ArmResults(pd.DataFrame(rows), Path(), costs=costs)


def summary(arms, level=0.05, margin=0.01):
    return summarise(arms, Compare(reference=next(iter(arms)), level=level, margin=margin))


def test_a_planted_order_of_three_arms_is_found():
    found = summary({"frozen": arm(0, 0), "lora": arm(0.1, 1), "worse": arm(-0.1, 2)})
    metrics = found.metrics
    assert (metrics.verdict, found.best, found.not_told) == ("lora", "lora", [])
    assert {name: one.verdict for name, one in metrics.against.items()} == {"lora": "better", "worse": "worse"}
    assert metrics.against["lora"].delta == pytest.approx(0.1, abs=1e-6)
    assert metrics.against["worse"].delta == pytest.approx(-0.1, abs=1e-6)
    assert metrics.patients_needed is None and metrics.recommended is None  # no costs


def test_the_best_of_five_is_undecided_while_one_other_is_not_told_from_it():
    arms = {"frozen": arm(0, 0), "lora": arm(0.1, 1), "unet": arm(0.101, 2), "a": arm(0.05, 3), "b": arm(-0.05, 4)}
    found = summary(arms)
    assert (found.best, found.not_told, found.metrics.verdict) == ("unet", ["lora"], "undecided")
    assert found.metrics.patients_needed > PATIENTS
    verdicts = {name: one.verdict for name, one in found.metrics.against.items()}
    assert verdicts == {"lora": "better", "unet": "better", "a": "better", "b": "worse"}
    assert summary({**arms, "unet": arm(0.2, 2)}).metrics.verdict == "unet"


def test_the_reference_can_be_the_best_and_any_arm_the_reference():
    arms = {"frozen": arm(0, 0), "lora": arm(0.1, 1), "c": arm(0.05, 2)}
    found = summary(reference_first(arms, "lora"))
    assert (found.metrics.reference, found.metrics.verdict, found.best) == ("lora", "lora", "lora")
    assert list(found.means) == ["lora", "frozen", "c"]
    assert all(one.verdict == "worse" for one in found.metrics.against.values())


def test_p_is_corrected_for_the_number_of_arms():
    """An arm that would be told from the reference alone is not told among five that differ by chance."""
    d = NOISE[1] - NOISE[0]
    gain = next(g for g in np.arange(0, 0.05, 0.0005) if 0.02 < sign_flip_test(d + g).p < 0.045)
    two = summary({"frozen": arm(0, 0), "lora": arm(gain, 1)})
    assert two.metrics.against["lora"].verdict == "better" and two.metrics.verdict == "lora"
    assert two.metrics.against["lora"].p == two.metrics.against["lora"].p_holm
    five = summary({"frozen": arm(0, 0), "lora": arm(gain, 1), "a": arm(0, 2), "b": arm(0, 3), "c": arm(0, 4)})
    one = five.metrics.against["lora"]
    assert one.p == two.metrics.against["lora"].p and one.p_holm == pytest.approx(4 * one.p, abs=1e-5)
    assert one.verdict == "undecided" and five.metrics.verdict == "undecided"


@pytest.mark.parametrize(
    ("margin", "seconds", "expected"),
    [
        (0.01, {"frozen": 1, "lora": 9, "small": 5}, "lora"),  # small loses 0.03
        (0.06, {"frozen": 1, "lora": 9, "small": 5}, "small"),
        (0.06, {"frozen": 1, "lora": 4, "small": 5}, "lora"),  # the best is cheaper
        (0.3, {"frozen": 1, "lora": 9, "small": 5}, "frozen"),
        (0.06, {"frozen": 1, "lora": 5, "small": 5}, "lora"),  # equally cheap: the better one
        (0.06, {"frozen": 1, "lora": 9, "small": None}, None),
    ],
)
def test_the_cheapest_arm_within_the_margin_is_recommended(margin, seconds, expected):
    gains = {"frozen": (0, 0), "lora": (0.1, 1), "small": (0.07, 2)}
    arms = {name: arm(*gains[name], None if cost is None else float(cost)) for name, cost in seconds.items()}
    assert summary(arms, margin=margin).metrics.recommended == expected


def test_an_arm_of_which_too_few_patients_are_known_is_not_recommended():
    few = {"best": arm(0, 0, 9.0), "cheap": arm(0, 0, 1.0)}
    for one in few.values():
        one.cases.drop(one.cases.index[3:], inplace=True)
    assert summary(few, margin=0.5).from_best["cheap"].interval is None
    assert summary(few, margin=0.5).metrics.recommended == "best"


@pytest.mark.parametrize("seed_sd", [0.0, 0.01, 0.03])
def test_five_equal_arms_are_called_better_or_worse_in_5_of_100_comparisons_at_most(seed_sd):
    """600 of 12 patients, whose 4096 sign patterns give exact p, and 3 seeds, which may move an arm as a whole."""
    random, count, arms, seeds = np.random.default_rng(0), 600, 5, 3
    of_patients = random.uniform(0.5, 0.9, (count, 1, 12, 1)) + random.normal(0, 0.03, (count, 1, 12, arms))
    by_seed = of_patients + random.normal(0, 0.03, (count, seeds, 12, arms))
    by_seed += random.normal(0, seed_sd, (count, seeds, 1, arms))
    dice = by_seed.mean(axis=1)
    signs, (one, other) = 1.0 - 2 * sign_patterns(12), np.triu_indices(arms, 1)
    p = np.empty((count, arms, arms))
    for i, differences in enumerate(dice[:, :, other] - dice[:, :, one]):
        extreme = np.abs(signs @ differences) >= np.abs(differences.sum(axis=0)) - 1e-12
        assert i % 100 or sign_flip_test(differences[:, 0]).p == pytest.approx(extreme.mean(axis=0)[0])
        of_seeds = [
            seeds_test((by_seed[i, :, :, a].T, by_seed[i, :, :, b].T))[2] for a, b in zip(one, other, strict=True)
        ]
        p[i, one, other] = p[i, other, one] = np.maximum(extreme.mean(axis=0), of_seeds)
    means = dice.mean(axis=1)

    def decided(i: int, arm: int, pairs: list[tuple[int, int]]) -> list[str]:
        """The verdict on each other arm, against `arm`, where `pairs` are tested."""
        corrected = holm({pair: p[i][pair] for pair in pairs})
        of_arm = {sum(pair) - arm: value for pair, value in corrected.items() if arm in pair}
        return [verdict(means[i, other] - means[i, arm], value) for other, value in sorted(of_arm.items())]

    every = list(zip(one, other, strict=True))
    against = [decided(i, 0, every[: arms - 1]) for i in range(count)]
    best = means.argmax(axis=1)
    from_best = [decided(i, arm, every) for i, arm in enumerate(best)]
    for named in (against, from_best):
        assert 0.01 < np.mean([set(verdicts) != {"undecided"} for verdicts in named]) <= 0.057
    assert np.mean([verdicts == ["worse"] * 4 for verdicts in from_best]) < 0.01  # the report would name the best
    for i in (0, next(i for i, one in enumerate(against) if "better" in one)):
        rows = pd.DataFrame(
            [{"fold": 0, "seed": s, "case_id": str(n), "patient_id": f"P{n}"} for s in range(seeds) for n in range(12)]
        )
        by_arm = {str(a): dict.fromkeys(MEASURES, by_seed[i, :, :, a].ravel()) for a in range(arms)}
        found = summary({name: ArmResults(rows.assign(**of), Path()) for name, of in by_arm.items()})
        assert [one.verdict for one in found.metrics.against.values()] == against[i]
        told = [name for name in found.from_best if name not in found.not_told]
        assert (found.best, len(told)) == (str(best[i]), from_best[i].count("worse"))


def test_measures_are_listed_by_arm_and_corrected_together():
    found = summary({"frozen": arm(0, 0), "lora": arm(0.1, 1), "b": arm(0.01, 2)})
    table = measures_table(found)
    assert len(table) == 2 * len(MEASURES) and list(table["arm"][:2]) == ["lora", "b"]
    assert (table["arm_mean"] - table["reference_mean"] - table["delta"]).abs().max() < 2e-6
    lora = table[(table["arm"] == "lora") & (table["measure"] == "dice")].iloc[0]
    assert lora["p_holm"] == pytest.approx(len(table) * lora["p"], rel=0.01)


def test_metrics_with_an_unknown_key_or_without_one_are_refused(tmp_path):
    metrics = summary({"frozen": arm(0, 0), "lora": arm(0.1, 1)}).metrics
    content = metrics.model_dump()
    path = tmp_path / "metrics.json"
    metrics.write(path)
    assert Metrics.read(path) == metrics
    for changed in (content | {"dice": 1}, {k: v for k, v in content.items() if k != "verdict"}):
        path.write_text(json.dumps(changed))
        with pytest.raises(Exception, match=r"metrics.json: (dice|verdict): .*`dvc repro` makes it anew"):
            Metrics.read(path)
