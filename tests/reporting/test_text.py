"""The sentences on ablations, on what a next study needs, and the numbers in them, in every regime."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.data import FOLDER

from nightshift.config.presets import BySplit, Manifest
from nightshift.config.sections import Compare
from nightshift.core.records import SimilarCase, SimilarFrames, SimilarPair
from nightshift.reporting.load import ArmResults
from nightshift.reporting.numbers import interval, p_cell, p_value, ratio
from nightshift.reporting.summary import summarise
from nightshift.reporting.text import answer, needed_patients, title
from nightshift.reporting.text_limits import look_alike, masks_apart
from nightshift.reporting.text_tables import Row, ablation_rows, group_rows

LOSSES = [0.08, 0.1, 0.12, 0.09, 0.11, 0.1, 0.1, 0.1]  # of eight patients: 0.1 on average
UNCLEAR = [0.1, -0.12, 0.02, 0.05, -0.04, 0.08, -0.06, 0.01]  # 0.005 on average
OF_LOSSES, OF_UNCLEAR = "-0.100 Dice [-0.110, -0.090]", "-0.005 Dice [-0.067, 0.057]"


def rows(values, **more):
    found = [
        {"fold": 0, "seed": 0, "case_id": f"c{i}", "patient_id": f"P{i}", "dice": v} | more
        for i, v in enumerate(values)
    ]
    return pd.DataFrame(found)


def arm(ablation, losses, mode="film", whole=0.8):
    ablated = rows([whole - loss for loss in losses], ablation=ablation)
    cards = [SimpleNamespace(settings=SimpleNamespace(view=SimpleNamespace(mode=mode)))]
    return ArmResults(rows([whole] * len(losses)), Path(), ablations=ablated, cards=cards)


@pytest.mark.parametrize(
    ("ablation", "losses", "mode", "words"),
    [
        ("wrong_angles", LOSSES, "film", f"Wrong angles cost LoRA 0.100 Dice ({OF_LOSSES}): it uses the view."),
        ("zero_angles", LOSSES, "film", f"Angles of zero cost LoRA 0.100 Dice ({OF_LOSSES}): it uses the view."),
        (
            "wrong_angles",
            UNCLEAR,
            "film",
            f"Wrong angles make no difference for LoRA that these cases could show ({OF_UNCLEAR}).",
        ),
        (
            "zero_angles",
            [-loss for loss in LOSSES],
            "film",
            "Angles of zero make LoRA better (+0.100 Dice [0.090, 0.110]): the view does it harm.",
        ),
        ("wrong_angles", [0] * 8, "none", "Wrong angles change nothing for LoRA, because view.mode is none."),
        ("zero_angles", [0] * 8, "none", "Angles of zero change nothing for LoRA, because view.mode is none."),
        ("wrong_angles", [0] * 8, "film", "Wrong angles change nothing for LoRA."),
        (
            "wrong_angles",
            [0.1, -0.1] * 4,  # 0 on average, and yet a change
            "film",
            "Wrong angles make no difference for LoRA that these cases could show (+0.000 Dice [-0.100, 0.100]).",
        ),
        (
            "no_tokens",
            [6 * loss for loss in LOSSES],
            "film",
            "Without the encoder LoRA keeps 25% of its Dice (-0.600 Dice [-0.660, -0.540]): "
            "the rest comes from the tokens.",
        ),
        (
            "no_tokens",
            UNCLEAR,
            "none",
            f"Without the encoder LoRA may lose nothing, too few cases to say ({OF_UNCLEAR}): "
            "nothing shows that it uses the encoder.",
        ),
        (
            "no_tokens",
            [0.6, 0.7],  # of two patients: too few to say so
            "film",
            "Without the encoder LoRA may lose nothing, too few cases to say (-0.650 Dice unbounded): "
            "nothing shows that it uses the encoder.",
        ),
        (
            "no_tokens",
            [-loss for loss in LOSSES],
            "film",
            "Without the encoder LoRA does better (+0.100 Dice [0.090, 0.110]): "
            "nothing shows that it uses the encoder.",
        ),
    ],
)
def test_an_ablation_in_words(ablation, losses, mode, words):
    frozen = ArmResults(rows([0.8] * 8), Path())
    found = ablation_rows({"frozen": frozen, "lora": arm(ablation, losses, mode)}, 0.05)
    assert [row.words for row in found] == [words]  # the frozen arm was not asked: nothing is said of it


def test_an_ablation_is_as_sure_as_the_level_says():
    arms = {"frozen": arm("wrong_angles", LOSSES), "lora": arm("wrong_angles", LOSSES)}
    said = {level: [row.words for row in ablation_rows(arms, level)] for level in (0.05, 0.005)}
    assert said[0.05][0] == f"Wrong angles cost Frozen 0.100 Dice ({OF_LOSSES}): it uses the view."
    unsure = "Wrong angles make no difference for Frozen that these cases could show (-0.100 Dice unbounded)."
    assert said[0.005] == [unsure, unsure.replace("Frozen", "LoRA")]  # p is 2 / 2^8 = 0.0078


def test_an_arm_that_finds_nothing_has_nothing_to_keep():
    (row,) = ablation_rows(
        {"frozen": ArmResults(rows([0.0] * 8), Path()), "lora": arm("no_tokens", [0] * 8, whole=0)}, 0.05
    )
    assert row.words.startswith("Without the encoder LoRA may lose nothing")


@pytest.mark.parametrize(
    ("delta", "needed", "sentence"),
    [
        (
            0.01,
            37,
            "About 37 patients would decide it at p < 0.05, if the true difference is the one seen (power 80 %).",
        ),
        (
            0.01,
            9_999_999,
            "More than 10,000 patients would decide it at p < 0.05, "
            "if the true difference is the one seen (power 80 %).",
        ),
        (0.0, None, "The arms do not differ: no number of patients would tell them apart."),
        (0.01, None, "How many patients would decide it cannot be told from a single one."),
        (
            0.01,
            9,
            "These models differ on these patients, but other seeds may change that: more seeds would decide it.",
        ),
    ],
)
def test_what_would_decide(delta, needed, sentence):
    assert needed_patients(delta, SimpleNamespace(patients_needed=needed, level=0.05, patients=9)) == sentence


def measured(dice) -> ArmResults:
    """An arm of which Dice is known; all measures are the same."""
    cases = rows(dice)
    others = ("iou", "cldice", "hd95", "precision", "recall", "asd")
    return ArmResults(cases.assign(**{name: cases["dice"] for name in others}), Path())


def answered(arms, level=0.05):
    chosen = Compare(reference=next(iter(arms)), level=level, margin=0.01)
    return answer(summarise(arms, chosen), arms, chosen.margin)


@pytest.mark.parametrize("better", [1, -1])
def test_two_arms_in_words(better):
    base = 0.5 + 0.01 * np.arange(9)
    arms = {"frozen": measured(base), "lora": measured(base + better * (0.1 + 0.001 * np.arange(9)))}
    head, text = answered(arms)
    assert head == ("LoRA is better" if better > 0 else "Frozen is better")
    assert text.startswith(f"LoRA {better * 0.104:+.3f} Dice [") and text.endswith("against 0.540, 9 patients.")
    head, text = answered({"frozen": arms["frozen"], "lora": measured(base + 0.1 * (-1.0) ** np.arange(9))})
    assert head == "Undecided" and "patients would decide it at p < 0.05" in text
    assert answered({"frozen": arms["frozen"], "lora": arms["frozen"]})[1].endswith("would tell them apart.")


def test_several_arms_in_words():
    base, noise = 0.5 + 0.01 * np.arange(12), 0.01 * np.tile([1, -1, 2, -2], 3)
    arms = {
        "frozen": measured(base),
        "lora": measured(base + 0.101 + 0.1 * noise),
        "wide_2": measured(base + 0.1 + noise),
    }
    head, text = answered(arms)
    assert head == "Undecided"
    assert text.startswith(
        "LoRA has the highest Dice of 3 arms, 0.656 [0.633, 0.679], not told from wide_2; 12 patients."
    )
    assert " Against frozen it is +0.101 Dice [" in text and " after Holm." in text
    assert re.search(r"About [\d,]+ patients would decide it at p < 0.05", text)
    assert "encode and train" not in text and "ecommended" not in text  # no costs are known
    assert "not told from any other arm; 12 patients." in answered(arms | {"frozen": measured(base + 0.1 + noise)})[1]
    head, text = answered(arms | {"wide_2": measured(base - 0.05 + noise)})
    assert head == "LoRA is best" and "told from every other arm" in text


def test_one_arm_has_nothing_to_be_compared_with():
    assert answered({"frozen": measured([0.5, 0.6])}) == (
        "Nothing to compare", "Frozen 0.550 Dice [-0.085, 1.185]; 2 patients."
    )  # fmt: skip


def test_what_is_compared_is_said_above():
    assert title(["frozen", "lora"]) == "a frozen SAM 3 encoder against LoRA on coronary angiograms."
    assert title(["unet", "lora", "x_1"]) == "LoRA and x_1 against U-Net on coronary angiograms."


def test_frames_that_look_alike_across_parts_are_said():
    pair = SimilarPair(
        correlation=0.853,
        first=SimilarCase(case_id="a", split="train", file=""),
        second=SimilarCase(case_id="b", split="test", file=""),
    )
    similar = SimilarFrames(threshold=0.8, cases=9, pairs_across=2, most_alike=[pair])
    (said,) = look_alike(similar)
    assert said.startswith("2 pairs of frames without a patient id look alike and are in different parts of the split")
    assert "a (train) and b (test) with a correlation of 0.85" in said and "Dice may be too high" in said
    assert "correlation" not in look_alike(similar, named=False)[0]
    assert look_alike(similar.model_copy(update={"pairs_across": 1}))[0].startswith("1 pair of frames")
    assert look_alike(similar.model_copy(update={"pairs_across": 0})) == []


def test_masks_of_different_columns_are_said():
    def said(mask):
        return masks_apart(Manifest(kind="manifest", path="m.csv", split="made", mask=mask))

    columns = {"train": "pseudo", "val": "pseudo", "test": "actual"}
    (sentence,) = said(BySplit(**columns))
    assert sentence.startswith("The masks are not of one column: pseudo in train, pseudo in val and actual in test. ")
    assert said(BySplit(**dict.fromkeys(columns, "actual"))) == said("actual") == masks_apart(FOLDER) == []


def test_a_row_per_value_of_a_column_of_the_source():
    phase, remark = ["10", "9", "", "9"], [str(i) for i in range(4)]
    frozen = rows([0.1, 0.2, 0.3, 0.4]).assign(phase=phase, one="x", remark=remark)
    lora = rows([0.5, 0.2, 0.4, 0.6])  # evaluated before there was such a column
    found = group_rows({"frozen": pd.concat([frozen, frozen]), "lora": lora})
    assert list(found) == ["phase", "remark"]
    assert found["phase"] == [
        Row("9", ["0.300", "0.400"], ["+0.100"], "2"),
        Row("10", ["0.100", "0.500"], ["+0.400"], "1"),
        Row("not given", ["0.300", "0.400"], ["+0.100"], "1"),
    ]
    many = rows([0.5] * 13).assign(remark=[str(i) for i in range(13)])
    assert group_rows({"a": many, "b": many}) == {} == group_rows({"a": lora, "b": lora})
    three = group_rows({"frozen": frozen, "lora": lora, "wide": lora.assign(dice=0.3)})["phase"][1]
    assert three == Row("10", ["0.100", "0.500", "0.300"], ["+0.400", "+0.200"], "1")


def test_an_interval_shows_on_which_side_of_zero_its_ends_lie():
    assert interval([-0.0004, 0.0126]) == "[-0.0004, 0.013]"
    assert interval([0.00002, 0.1]) == "[2e-05, 0.100]"
    assert interval([0.0, 0.0005]) == "[0.000, 0.001]"
    assert interval(None) == "unbounded"


def test_p_in_words():
    assert [p_value(p) for p in (0.0002, 0.0499, 0.05, 0.7, 1)] == [
        "p < 0.001",
        "p = 0.0499",
        "p = 0.0500",
        "p = 0.70",
        "p = 1.00",
    ]


def test_what_is_not_known_is_an_empty_or_a_dashed_cell():
    assert (p_cell(float("nan")), p_cell(0.0002), p_cell(0.04)) == ("", "< 0.001", "0.0400")
    assert [ratio(2, 5), ratio(2, 0.01), ratio(0, 5), ratio(None, 5), ratio(2, None)] == [
        "2.5x",
        "<0.1x",
        "-",
        "-",
        "-",
    ]
