"""Comparisons of three arms and more: planted truths, what is recommended, odd names, and the page that shows them."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.report_inputs import Tags, make_inputs
from PIL import Image

from nightshift.config.sections import Compare
from nightshift.core.records import Cost
from nightshift.evaluation.measures import MEASURES
from nightshift.reporting.load import ArmResults, read_arms, reference_first
from nightshift.reporting.records import Metrics
from nightshift.reporting.significance import sign_flip_test
from nightshift.reporting.summary import measures_table, recommended, summarise
from stages import compare

PATIENTS = 16
RANDOM = np.random.default_rng(0)
BASE = RANDOM.uniform(0.4, 0.7, PATIENTS)
NOISE = RANDOM.normal(0, 0.02, (5, PATIENTS))
NOISE -= NOISE.mean(axis=1, keepdims=True)  # a gain is the mean of the differences
ODD = {"frozen": 0.0, "_-_": 0.1, "__proto__": 0.05, "p": 0.02, "A" * 60: 0.03}


def arm(gain: float, noise: int, seconds: float | None = None) -> ArmResults:
    """An arm whose Dice is that of the reference + gain, in the mean over patients."""
    dice = BASE + gain + NOISE[noise]
    rows = [
        {"seed": 0, "case_id": f"c{i}", "patient_id": f"P{i}"} | dict.fromkeys(MEASURES, d) for i, d in enumerate(dice)
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
    few = {name: pd.Series([0.5, 0.5, 0.5]) for name in ("best", "cheap")}
    chosen = Compare(reference="best", level=0.05, margin=0.5)
    assert recommended(few, {"best": 9.0, "cheap": 1.0}, chosen) == "best"


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


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """The folder of a finished run of five arms with odd names."""
    root = tmp_path_factory.mktemp("five")
    make_inputs(root, ODD)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        compare.main()
    return root


def test_a_page_of_five_arms_is_whole_and_names_them_all(five):
    html = (five / "reports/comparison/report.html").read_text(encoding="utf-8")
    page = Tags(html)
    assert not page.unclosed and not re.search(r"https?://|@import|url\(", html)
    assert "_-_ is best" in html
    for head in ("_-_ - frozen", "__proto__ / frozen", "_-_ against frozen"):
        assert head in html
    for i in range(5):
        assert f'class="arm-{i}"' in html and f".arm-{i}::before" in html
    targets = {a["href"][1:] for a in page.all("a")}
    assert targets <= {tag["id"] for tag in page.all("section")} and {"all", "measures", "probe"} <= targets
    assert len([image for image in page.all("img") if image["alt"].startswith("Case")]) == 2 * 5 + 3 * 4
    markdown = (five / "reports/comparison/report.md").read_text(encoding="utf-8")
    assert r"| \_-\_ |" in markdown and r"\_\_proto\_\_ - frozen" in markdown and "## Against frozen" in markdown
    heads = [line.count("|") for line in markdown.splitlines() if line.startswith(("| Measure", "| Dice", "| View"))]
    assert heads == [11, 11, 12]


def test_a_run_of_five_arms_has_its_metrics_and_plots(five):
    metrics = Metrics.read(five / "reports/comparison/metrics.json")
    assert (metrics.reference, metrics.verdict, metrics.recommended) == ("frozen", "_-_", "_-_")
    assert list(metrics.arms) == list(ODD) and list(metrics.against) == list(ODD)[1:]
    plots = {path.name for path in (five / "reports/comparison/plots").iterdir()}
    assert plots == {"arms.png", "curves.png", "overlays.png", *(f"cases-{name}.png" for name in list(ODD)[1:])}
    for name in plots:
        Image.open(five / "reports/comparison/plots" / name).verify()


def test_an_arm_from_another_place_can_be_compared(five, tmp_path, monkeypatch):
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    here = read_arms(["lora", "frozen"], "frozen")
    there = read_arms(["frozen"], "frozen", root=five)
    assert list(here) == ["frozen", "lora"] and there["frozen"].pictures.is_relative_to(five)
    assert there["frozen"].cases.equals(here["frozen"].cases)
