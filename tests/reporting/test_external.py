"""The second data set in the report: what is said of it is of its own cases, by hand, and of all models of an arm."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.report_inputs import Tags, make_inputs

from nightshift.console.errors import UserError
from nightshift.core.records import BetweenSets, SimilarCase, SimilarFrames, SimilarPair
from nightshift.core.tables import write_table
from nightshift.evaluation.measures import CALIBRATION, MEASURES
from nightshift.reporting.records import Metrics
from nightshift.reporting.significance import sign_flip_test
from stages import compare

PATIENTS, CASES, MODELS = 12, 2, 2  # cases of each patient, models of each arm
GAINS = {"frozen": 0.0, "lora": -0.05}  # LoRA, which is better in the first set, is worse here
SAID = "Nothing was trained or chosen on elsewhere. Each of its 24 cases is predicted by the models of an arm"
SETS = BetweenSets(
    first="here",
    second="elsewhere",
    patients=["P3"],
    similar=SimilarFrames(
        threshold=0.75,
        cases=24,
        pairs_across=2,
        most_alike=[
            SimilarPair(
                correlation=0.912,
                first=SimilarCase(case_id="a", split="here", file=""),
                second=SimilarCase(case_id="E1-0", split="elsewhere", file=""),
            )
        ],
    ),
)


def dice(arm: str) -> np.ndarray:
    """(patients, cases, models)."""
    random = np.random.default_rng(3)
    base, noise = random.uniform(0.5, 0.8, (PATIENTS, CASES, 1)), random.normal(0, 0.01, (PATIENTS, CASES, MODELS))
    return base + noise + GAINS[arm] * random.uniform(0.9, 1.1, (PATIENTS, 1, 1)) * (arm == "lora")


def second_set(arm: str) -> pd.DataFrame:
    values = dice(arm)
    return pd.DataFrame(
        [
            {"fold": 0, "seed": seed, "case_id": f"E{p}-{c}", "patient_id": f"E{p}"}
            | {"primary_angle": "", "secondary_angle": ""}
            | dict.fromkeys((*MEASURES, *CALIBRATION), values[p, c, seed])
            for seed in range(MODELS)
            for p in range(PATIENTS)
            for c in range(CASES)
        ]
    )


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two arms with two seeds each, and a second data set."""
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    for arm in GAINS:
        write_table(f"reports/evaluation/{arm}/external.csv", second_set(arm))
        for file in (f"reports/evaluation/{arm}/cases.csv", f"reports/curves/{arm}.csv"):
            table = pd.read_csv(file)
            pd.concat([table.assign(seed=seed) for seed in range(MODELS)]).to_csv(file, index=False)
        cards = Path(f"models/{arm}/fold-0")
        card = json.loads((cards / "seed-0/card.json").read_text(encoding="utf-8"))
        for seed in range(1, MODELS):
            (cards / f"seed-{seed}").mkdir()
            (cards / f"seed-{seed}/card.json").write_text(json.dumps(card | {"seed": seed}), encoding="utf-8")
    SETS.write(Path("reports/external.json"))
    return tmp_path


def page(kind: str) -> str:
    return Path(f"reports/comparison/report.{kind}").read_text(encoding="utf-8")


def test_its_numbers_are_those_of_its_own_patients(inputs):
    compare.main()
    metrics = Metrics.read(Path("reports/comparison/metrics.json"))
    assert metrics.verdict == "lora" and (metrics.cases, metrics.patients) == (8, 8)
    there = metrics.external
    assert (there.cases, there.patients) == (PATIENTS * CASES, PATIENTS)
    by_patient = {arm: dice(arm).mean(axis=(1, 2)) for arm in GAINS}
    test = sign_flip_test(by_patient["lora"] - by_patient["frozen"])
    assert there.arms["frozen"].dice == pytest.approx(by_patient["frozen"].mean(), abs=1e-6)
    one = there.against["lora"]
    assert (one.delta, *one.ci95) == pytest.approx((test.delta, *test.interval), abs=1e-5)
    assert one.p == pytest.approx(test.p, abs=1e-6) and one.verdict == "worse"


def test_the_report_has_a_section_of_its_own(inputs):
    compare.main()
    html, markdown = (page(kind).replace("\\", "") for kind in ("html", "md"))
    for text in (html, markdown):
        assert "On a second data set" in text and "Dice on" in text and f"{dice('frozen').mean():.3f} [" in text
        assert SAID.replace("the models", "all 2 models") in text
        assert "LoRA against frozen: worse, -0.0" in text and "on here it is better." in text
        assert "here and elsewhere both have patients with the ids P3." in text
        assert "2 pairs of frames of here and elsewhere look alike, a and E1-0 with a correlation of 0.91" in text
        assert "Means over 12 patients" in text
    assert not Tags(html).unclosed and 'href="#external"' in html
    assert {tag["id"] for tag in Tags(html).all("section")} >= {"external", "measures"}


def test_there_is_nothing_of_it_where_there_is_none(inputs):
    for arm in GAINS:
        write_table(f"reports/evaluation/{arm}/external.csv", second_set(arm)[:0])
    BetweenSets().write(Path("reports/external.json"))
    compare.main()
    assert json.loads(Path("reports/comparison/metrics.json").read_text(encoding="utf-8"))["external"] is None
    assert not any("second data set" in page(kind) for kind in ("html", "md"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table[:0], r"lora/external.csv: no rows, as other arms have; run: dvc repro -f evaluate@lora"),
        (lambda table: table[table["seed"] == 0], "lora/external.csv: not the folds and seeds that models/lora has"),
        (lambda table: table[table["case_id"] != "E3-1"], "evaluation/lora: seed 0 has other test cases .* 'E3-1'"),
    ],
)
def test_arms_that_were_not_tested_on_the_same_are_not_compared(inputs, change, message):
    write_table("reports/evaluation/lora/external.csv", change(second_set("lora")))
    with pytest.raises(UserError, match=message):
        compare.main()
    assert not Path("reports/comparison/metrics.json").exists()
