"""The sentences on ablations, on what a next study needs, and the numbers in them, in every regime."""

from pathlib import Path

import pytest

from nightshift.reporting.load import ArmResults
from nightshift.reporting.text import ablation_rows, answer, group_rows, interval, p_value

LOSSES = [0.08, 0.1, 0.12, 0.09, 0.11, 0.1, 0.1, 0.1]  # of eight patients: 0.1 on average
UNCLEAR = [0.1, -0.12, 0.02, 0.05, -0.04, 0.08, -0.06, 0.01]  # 0.005 on average
OF_LOSSES, OF_UNCLEAR = "-0.100 Dice [-0.110, -0.090]", "-0.005 Dice [-0.067, 0.057]"


def rows(values, **more):
    return [{"seed": 0, "case_id": f"c{i}", "patient_id": f"P{i}", "dice": v} | more for i, v in enumerate(values)]


def arm(ablation, losses, mode="film", whole=0.8):
    ablated = rows([whole - loss for loss in losses], ablation=ablation)
    cards = [{"settings": {"view": {"mode": mode}}}]
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
    assert [row["words"] for row in found] == [words]  # the frozen arm was not asked: nothing is said of it


def test_an_ablation_is_as_sure_as_the_level_says():
    arms = {"frozen": arm("wrong_angles", LOSSES), "lora": arm("wrong_angles", LOSSES)}
    said = {level: [row["words"] for row in ablation_rows(arms, level)] for level in (0.05, 0.005)}
    assert said[0.05][0] == f"Wrong angles cost Frozen 0.100 Dice ({OF_LOSSES}): it uses the view."
    unsure = "Wrong angles make no difference for Frozen that these cases could show (-0.100 Dice unbounded)."
    assert said[0.005] == [unsure, unsure.replace("Frozen", "LoRA")]  # p is 2 / 2^8 = 0.0078


def test_an_arm_that_finds_nothing_has_nothing_to_keep():
    (row,) = ablation_rows(
        {"frozen": ArmResults(rows([0.0] * 8), Path()), "lora": arm("no_tokens", [0] * 8, whole=0)}, 0.05
    )
    assert row["words"].startswith("Without the encoder LoRA may lose nothing")


@pytest.mark.parametrize(
    ("delta", "needed", "ending"),
    [
        (
            0.01,
            37,
            "About 37 patients would decide it at p < 0.05, if the true difference is the one seen (power 80 %).",
        ),
        (
            0.01,
            9_999_999,
            "More than 10,000 patients would decide it at p < 0.05, if the true difference is the one seen",
        ),
        (0.0, None, "The arms do not differ: no number of patients would tell them apart."),
        (0.01, None, "How many patients would decide it cannot be told from a single one."),
    ],
)
def test_what_would_decide_is_said_of_the_undecided_only(delta, needed, ending):
    dice = {"frozen": 0.5, "lora": 0.5 + delta, "delta": delta, "interval": [-0.1, 0.1], "p": 0.7}
    arms = {name: ArmResults(rows([0.5] * 9), Path()) for name in ("frozen", "lora")}
    head, text = answer(dice, "undecided", needed, arms, 0.05)
    assert head == "Undecided" and ending in text
    assert text.startswith(
        f"LoRA {delta:+.3f} Dice [-0.100, 0.100], p = 0.70; {0.5 + delta:.3f} against 0.500, 9 patients."
    )
    assert ending not in answer(dice, "lora", None, arms, 0.05)[1]


def test_a_row_per_value_of_a_column_of_the_source():
    def with_groups(values, **groups):
        return [row | {name: g[i] for name, g in groups.items()} for i, row in enumerate(rows(values))]

    phase, remark = ["10", "9", "", "9"], [str(i) for i in range(4)]
    frozen = with_groups([0.1, 0.2, 0.3, 0.4], phase=phase, one=["x"] * 4, remark=remark)
    lora = rows([0.5, 0.2, 0.4, 0.6])  # evaluated before there was such a column
    found = group_rows(frozen + frozen, lora)
    assert list(found) == ["phase", "remark"]
    assert found["phase"] == [
        ("9", "2", "0.300", "0.400", "+0.100"),
        ("10", "1", "0.100", "0.500", "+0.400"),
        ("not given", "1", "0.300", "0.400", "+0.100"),
    ]
    many = with_groups([0.5] * 13, remark=[str(i) for i in range(13)])
    assert group_rows(many, many) == {} == group_rows(lora, lora)


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
