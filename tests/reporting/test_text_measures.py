"""Measures as the report shows them: names with units and counts, sentences on calibration, recall by calibre."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nightshift.config.sections import Compare
from nightshift.evaluation.measures import CALIBRATION, CALIBRES, LOWER_IS_BETTER, MEASURES, MILLIMETRES
from nightshift.reporting.load import ArmResults
from nightshift.reporting.summary import measures_table, summarise
from nightshift.reporting.text_measures import calibration, measure_name, recalls
from nightshift.reporting.text_tables import measure_rows

BINS = pd.DataFrame(
    {
        "low": [0.0, 0.5, 0.75],
        "high": [0.5, 0.75, 1.0],
        "probability": [0.1, 0.6, 0.9],
        "vessel": [0.2, 0.5, 0.7],
        "pixels": [5000, 100, 300],
    }
)


def arm(value, columns=(*MEASURES, *CALIBRATION), bins=BINS):
    """Eight patients of a case each, who all have `value`, or a little more; the first three have no thick vessel."""
    cases = pd.DataFrame(
        {"fold": 0, "seed": 0, "case_id": [f"c{i}" for i in range(8)], "patient_id": [f"P{i}" for i in range(8)]}
    )
    for name in columns:
        cases[name] = value + 0.002 * np.arange(8)
    cases.loc[:2, "recall_thick"] = np.nan
    return ArmResults(cases, Path(), reliability=bins)


def compared(**arms):
    return summarise(arms, Compare(reference=next(iter(arms)), level=0.05, margin=0.01))


def test_names_say_the_unit_the_direction_and_how_many_cases():
    found = compared(frozen=arm(0.5), lora=arm(0.6))
    names = [measure_name(name, found) for name in found.measures]
    assert names == [
        "Dice",
        "IoU",
        "clDice",
        "HD95, px (lower is better)",
        "Precision",
        "Recall",
        "Surface distance, px (lower is better)",
        "Recall, vessels below 5 px",
        "Recall, vessels 5 to 10 px",
        "Recall, vessels from 10 px (5 of 8 cases)",
        "Betti-0 error, pieces (lower is better)",
        "ECE (lower is better)",
        "Brier score (lower is better)",
    ]
    assert {name for name in found.measures if "lower" in measure_name(name, found)} == (
        set(LOWER_IS_BETTER) - set(MILLIMETRES)
    )


def test_where_every_case_has_a_spacing_calibres_are_in_millimetres():
    columns = (*MEASURES, *CALIBRATION, *MILLIMETRES)
    found = compared(frozen=arm(0.5, columns), lora=arm(0.6, columns))
    assert measure_name("recall_medium", found) == "Recall, vessels 1.5 to 3 mm"
    assert measure_name("asd_mm", found) == "Surface distance, mm (lower is better)"
    assert found.tested == [*MEASURES, *CALIBRATION]


def test_a_calibre_that_not_every_case_has_is_compared_where_it_is():
    frozen, lora = arm(0.5), arm(0.6)
    found = compared(frozen=frozen, lora=lora)
    known = {"frozen": replace(frozen, cases=frozen.cases[3:]), "lora": replace(lora, cases=lora.cases[3:])}
    assert found.against["lora"]["recall_thick"] == replace(
        compared(**known).against["lora"]["recall_thick"], p_holm=found.against["lora"]["recall_thick"].p_holm
    )
    assert found.means["frozen"]["recall_thick"] == pytest.approx(0.51) and found.known["recall_thick"] == 5
    of_calibre = recalls({"frozen": frozen, "lora": lora}, found)
    assert list(of_calibre) == ["below 5 px, 8 of 8 cases", "5 to 10 px, 8 of 8 cases", "from 10 px, 5 of 8 cases"]
    (mean, ends), (other, _) = of_calibre["from 10 px, 5 of 8 cases"]
    assert (mean, other) == pytest.approx((0.51, 0.61)) and ends[0] < mean < ends[1]


def test_what_no_case_or_not_every_arm_has_is_no_row():
    masks = [name for name in MEASURES if name not in CALIBRES[1:]]
    found = compared(frozen=arm(0.5, masks, pd.DataFrame()), lora=arm(0.6))
    assert [name for name in (*CALIBRES, *CALIBRATION) if name in found.measures] == ["recall_thin"]
    assert len(measure_rows(found)) == len(measures_table(found)) == len(masks)
    assert calibration({"frozen": arm(0.5, masks, pd.DataFrame()), "lora": arm(0.6)}, found) == []


def test_a_sentence_says_how_sure_an_arm_is_and_how_right():
    low = BINS.assign(pixels=[5000, 0, 0], probability=[0.1, np.nan, np.nan], vessel=[0.2, np.nan, np.nan])
    arms = {"frozen": arm(0.5, bins=low), "lora": arm(0.6)}
    assert calibration(arms, compared(**arms)) == [
        "Frozen: no pixel has a probability of 0.5 or more; ECE 0.507, Brier score 0.507.",
        "LoRA: pixels of 0.5 or more have a mean probability of 0.82, and 65% of them are vessel; ECE 0.607, Brier "
        "score 0.607.",
    ]
