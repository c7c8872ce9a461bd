"""The report's figures: same data, same bytes; every case is there and in its place; names are only text."""

import base64
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from helpers.learning_curve import law, planted
from matplotlib.collections import PathCollection

from nightshift.reporting import figures, figures_cases, figures_learning_curve, figures_measures, styles
from nightshift.reporting.learning_curve import learning_curves
from nightshift.reporting.text_tables import AblationRow

EVIL = ("$x^{$", "<script>alert(1)</script>", "--><b>\x07\n", "#d55e00")
TWO = styles.styles(["frozen", "lora"])
PAIR = tuple(TWO.values())
MANY = styles.styles(["frozen", "lora", "unet", "wide_2", "zero-shot"])


def ablated(what, arm, delta, interval):
    return AblationRow(what, arm, 0.5, delta, interval, "p = 0.01", "")


ROWS = [
    ablated("angles", "frozen", -0.01, [-0.02, 0.01]),
    ablated("angles", "lora", -0.05, [-0.08, -0.02]),
    ablated("tokens", "lora", -0.4, None),
]
OF_MANY = [ablated("angles", name, -0.1 * i, [-0.1 * i - 0.02, -0.1 * i + 0.02]) for i, name in enumerate(MANY)]


def dice(n, seed=0):
    """Of both arms by case id, the first few ids an attack each."""
    random = np.random.default_rng(seed)
    frozen = dict(zip([*EVIL, *(f"case-{i}" for i in range(n))][:n], random.uniform(0.4, 0.9, n), strict=True))
    frozen = pd.Series(frozen)
    return frozen, frozen + random.normal(0, 0.05, n)


def points(axes):
    """Of all scatters, (n, 2)."""
    return np.concatenate([c.get_offsets() for c in axes.collections if isinstance(c, PathCollection)])


def svg(figure):
    return base64.b64decode(figures.svg_uri(figure).split(",")[1]).decode()


def all_arms():
    values = {style: (0.01 * i, [0, 0.1] if i != 2 else None) for i, style in enumerate(MANY.values())}
    return figures.all_arms(values, "Dice, difference from the best, which has a long name", [0, -0.01])


def reliability():
    bins = pd.DataFrame(
        {"low": [0, 0.5], "high": [0.5, 1], "probability": [0.1, 0.8], "vessel": [0.2, 0.6], "pixels": [900, 100]}
    )
    empty = bins.assign(probability=[0.1, np.nan], vessel=[0.2, np.nan], pixels=[1000, 0])
    return figures_measures.reliability(dict(zip(PAIR, (bins, empty), strict=True)), {PAIR[0]: EVIL[0], PAIR[1]: "b"})


def by_calibre():
    rows = {"below 5 px, 8 of 8 cases": [(0.5, [0.4, 0.6])] * 5, "from 10 px, 1 of 8 cases": [(0.9, None)] * 5}
    return figures_measures.recall_by_calibre(rows, list(MANY.values()))


def curves():
    arms = {name: law(0.7 + 0.02 * i, 0.1 + 0.05 * i, 0.5) for i, name in enumerate(MANY)}
    return figures_learning_curve.learning_curves(learning_curves(planted(arms, 8, np.random.default_rng(0)), "frozen"))


DRAWN = {
    "dumbbells": lambda: figures_cases.dumbbells(PAIR, *dice(12), "test case"),
    "dumbbells of many": lambda: figures_cases.dumbbells(PAIR, *dice(60), "patient"),
    "by_view": lambda: figures_cases.by_view(PAIR, [(-30, 25), (-30, 25), (40, -20)], np.array([0.1, -0.1, 0.0])),
    "ablations": lambda: figures.ablations(ROWS, TWO),
    "ablations of many": lambda: figures.ablations(OF_MANY, MANY),
    "all arms": lambda: all_arms(),
    "reliability": reliability,
    "recall by calibre": by_calibre,
    "learning curves": curves,
}


@pytest.mark.parametrize("draw", DRAWN.values(), ids=DRAWN)
def test_figures_are_reproducible_and_follow_light_and_dark(draw, tmp_path):
    text = svg(draw())
    assert text == svg(draw()) and ET.fromstring(text) is not None  # noqa: S314, our own
    drawn = ET.tostring(ET.fromstring(text), encoding="unicode").split("</style>", 1)[1]  # noqa: S314
    assert "var(--ink)" in drawn and not any(light in drawn for light, _ in (styles.INK, *styles.COLOURS))
    for name in ("one.png", "two.png"):
        figures.write_png(tmp_path / name, draw())
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize("n", [1, 10, 120, 300])
def test_dumbbells_have_every_case_of_both_arms_sorted_by_difference(n):
    frozen, lora = dice(n)
    figure = figures_cases.dumbbells(PAIR, frozen, lora, "test case")
    left, right = figure.axes
    at_frozen, at_lora = np.split(points(left), 2)
    assert sorted(at_frozen[:, 0]) == sorted(frozen) and sorted(at_lora[:, 0]) == sorted(lora)
    gain = at_lora[:, 0] - at_frozen[:, 0]
    assert (np.diff(gain) >= 0).all() and (at_frozen[:, 1] == at_lora[:, 1]).all()
    np.testing.assert_allclose([bar.get_width() for bar in right.patches], gain)
    lines = np.array(left.collections[0].get_segments())
    np.testing.assert_allclose(lines[:, :, 0], np.stack([at_frozen[:, 0], at_lora[:, 0]], axis=1))
    assert figure.get_figheight() < 13


def test_dumbbells_say_who_is_better_how_often_and_name_only_what_can_be_read():
    frozen = pd.Series(0.5, index=list("abcd"))
    figure = figures_cases.dumbbells(PAIR, frozen, frozen + np.array([0.1, -0.1, 0.2, 0.0]), "patient")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["Frozen, better for 1 of 4 patients", "LoRA, better for 2 of 4 patients"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["b", "d", "a", "c"]
    many = figures_cases.dumbbells(PAIR, *dice(figures_cases.NAMED + 1), "test case").axes[0]
    assert not many.get_yticklabels() and many.get_ylabel() == "41 test cases, sorted by difference"


def test_reliability_has_a_mark_for_each_bin_that_has_pixels_and_their_share():
    upper, lower = reliability().axes
    diagonal, *arms = upper.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert [line.get_xydata().tolist() for line in arms] == [[[0.1, 0.2], [0.8, 0.6]], [[0.1, 0.2]]]
    assert [line.get_ydata().tolist() for line in lower.lines] == [[90, 10], [100]]


def test_recall_by_calibre_has_every_arm_at_every_calibre_hollow_without_an_interval():
    (axes,) = by_calibre().axes
    marks = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert [float(line.get_xdata()[0]) for line in marks] == [0.5] * 5 + [0.9] * 5
    assert [line.get_markerfacecolor() == "none" for line in marks] == [False] * 5 + [True] * 5
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "below 5 px\n8 of 8 cases",
        "from 10 px\n1 of 8 cases",
    ]


def test_learning_curves_are_whole_where_measured_and_dashed_beyond():
    upper, lower = curves().axes
    whole, dashed = ([line for line in upper.lines if line.get_linestyle() == style] for style in ("-", "--"))
    assert len(whole) == len(dashed) == len(MANY)
    assert all(line.get_xdata()[-1] == 128 for line in whole)
    assert all((line.get_xdata()[0], line.get_xdata()[-1]) == (128, 256) for line in dashed)
    assert len(lower.collections) == len(MANY) - 1  # a band for each but the reference


def test_names_are_shortened_in_the_middle_and_printable():
    assert figures.short("patient-0001-series-2-frame-0031", 24) == "patient-0001\u2026-frame-0031"
    assert figures.short("just-as-long-as-it-may-b", 24) == "just-as-long-as-it-may-b"
    assert figures.short(" a\n\x07b ", 24) == "a b"


def test_views_are_drawn_as_cardiologists_do():
    views = [(-30.0, 25.0), (40.0, 20.0), (45.0, -25.0), (-20.0, -35.0), (-25.0, -30.0), (0.0, 0.0)]
    deltas = np.array([0.1, -0.1, 0.2, -0.05, -0.15, 0.3])
    axes = figures_cases.by_view(PAIR, views, deltas).axes[0]
    assert sorted(map(tuple, points(axes))) == sorted(views)
    left, right = axes.get_xlim()
    assert left < -30 < 0 < 45 < right and axes.get_xlabel().startswith("RAO") and axes.get_xlabel().endswith("LAO")
    bottom, top = axes.get_ylim()
    assert bottom < -35 < 25 < top and axes.get_ylabel().startswith("caudal")
    found = {text.get_text(): text.get_position() for text in axes.texts}
    assert list(found) == [
        "RAO cranial\nmean +0.100, 1 case",
        "RAO caudal\nmean -0.100, 2 cases",
        "LAO cranial\nmean +0.100, 2 cases",
        "LAO caudal\nmean +0.200, 1 case",
    ]
    assert found["RAO cranial\nmean +0.100, 1 case"][0] < 0.5 < found["RAO cranial\nmean +0.100, 1 case"][1]


def test_blue_is_frozen_better_and_orange_lora_and_zero_is_the_middle():
    axes, bar = figures_cases.by_view(PAIR, [(10, 10), (20, 20), (30, 10)], np.array([0.2, -0.2, 0.0])).axes
    lora, frozen = (c for c in axes.collections if isinstance(c, PathCollection))
    assert lora.norm.vmin == frozen.norm.vmin == -lora.norm.vmax
    (orange,), (blue, grey) = lora.to_rgba(lora.get_array()), frozen.to_rgba(frozen.get_array())
    assert orange[0] > orange[2] and blue[2] > blue[0] and abs(grey[0] - grey[2]) < 0.05
    assert "Dice, LoRA - frozen" in bar.get_ylabel()


def test_cases_of_one_view_do_not_hide_each_other():
    views = [(-30.0, 25.0)] * 40 + [(60.0, 0.0)]
    placed = points(figures_cases.by_view(PAIR, views, np.linspace(-0.1, 0.1, 41)).axes[0])
    near = placed[np.hypot(*(placed - (-30, 25)).T) <= 9.1]
    assert len(near) == 40 and len({tuple(p.round(2)) for p in near}) == 40
    assert [60.0, 0.0] in placed.tolist()


def test_ablations_are_all_drawn_with_their_intervals():
    axes = figures.ablations(ROWS, TWO).axes[0]
    drawn = [list(map(float, line.get_xdata())) for line in axes.lines]
    assert drawn == [[0, 0], [-0.02, 0.01], [-0.01], [-0.08, -0.02], [-0.05], [-0.4]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["angles", "tokens"]
    assert axes.get_xlabel() == "Change of Dice, mean over patients (hollow: no interval)"
    assert figures.ablations(ROWS[:2], TWO).axes[0].get_xlabel() == "Change of Dice, mean over patients"


def test_every_arm_is_in_the_picture_of_all_arms_in_its_order():
    (axes,) = all_arms().axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["Frozen", "LoRA", "U-Net", "wide_2", "zero-shot"]
    zero, margin, *drawn = axes.lines
    assert (zero.get_xdata()[0], zero.get_linestyle()) == (0, "-")
    assert (margin.get_xdata()[0], margin.get_linestyle()) == (-0.01, "--")
    marks = [line for line in drawn if line.get_marker() != "|"]
    assert [line.get_marker() for line in marks] == ["s", "o", "^", "D", "v"]
    assert [line.get_markerfacecolor() == "none" for line in marks] == [False, False, True, False, False]
    assert len(drawn) - len(marks) == 4  # one has no interval
    assert axes.get_xlabel() == "Dice, difference from the best,\nwhich has a long name"


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (list("abcd"), [list("abcd")]),
        (list("abcde"), [list("abc"), list("de")]),
        (list("abcdefgh"), [list("abcd"), list("efgh")]),
        (["a" * 20, "b" * 20, "c", "d"], [["a" * 20, "b" * 20], ["c", "d"]]),  # no room for four
    ],
)
def test_a_legend_fits_and_is_read_row_by_row(names, rows):
    figure = figures.all_arms({style: (0.5, None) for style in MANY.values()}, "Dice")
    figures.legend(figure, dict(zip(styles.styles(names).values(), names, strict=True)))
    figure.draw_without_rendering()
    texts = {text.get_text(): text.get_window_extent() for text in figure.legends[0].get_texts()}
    heights = sorted({round(box.y0) for box in texts.values()}, reverse=True)
    found = [[name for name, box in texts.items() if round(box.y0) == height] for height in heights]
    assert [sorted(row, key=lambda name: texts[name].x0) for row in found] == rows
    whole = figure.legends[0].get_window_extent()
    assert whole.x0 >= 0 and whole.x1 <= figure.bbox.width


def test_only_what_was_trained_has_a_curve():
    rows = pd.DataFrame({"fold": 0, "seed": 0, "epoch": [1, 2, 3], "train_loss": 0.5, "val_dice": [0.1, 0.3, 0.2]})
    axes = figures.curves({MANY["unet"]: rows}, {MANY["unet"]: {(0, 0): 2}}, ["val_dice"]).axes[0]
    line, ring = axes.lines
    assert list(line.get_ydata()) == [0.1, 0.3, 0.2] and line.get_marker() == "^"
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (2, 0.3)


def test_colours_are_swapped_in_attributes_alone():
    assert figures._swapped("fill: #0072b2; stroke: none", {"#0072b2": "var(--arm-0)"}) == (
        "fill: var(--arm-0); stroke: none"
    )
    assert (
        figures._swapped("#0072b2", {"#0072b2": "X"}) == "X" and figures._swapped("#0072b2ff", {"#0072b2": "X"}) != "X"
    )
