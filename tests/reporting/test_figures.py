"""The report's figures: same data, same bytes; every case is there and in its place; names are only text."""

import base64
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from PIL import Image

from nightshift.console.errors import UserError
from nightshift.reporting import figures, figures_cases, figures_measures, overlays, styles
from nightshift.reporting.load import ArmResults
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


DRAWN = {
    "dumbbells": lambda: figures_cases.dumbbells(PAIR, *dice(12), "test case"),
    "dumbbells of many": lambda: figures_cases.dumbbells(PAIR, *dice(60), "patient"),
    "by_view": lambda: figures_cases.by_view(PAIR, [(-30, 25), (-30, 25), (40, -20)], np.array([0.1, -0.1, 0.0])),
    "ablations": lambda: figures.ablations(ROWS, TWO),
    "ablations of many": lambda: figures.ablations(OF_MANY, MANY),
    "all arms": lambda: all_arms(),
    "reliability": reliability,
    "recall by calibre": by_calibre,
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


def make_arms(root, frozen, lora, frames=True):
    """Both arms' results of cases with these Dice, the pictures of both their own: the frame grey i, 24 x 32."""
    arms = {}
    for name, seed, values in (("frozen", 3, frozen), ("lora", 5, lora)):
        folder, rows = root / name, []
        folder.mkdir()
        for i, value in enumerate(values):
            if frames:
                Image.fromarray(np.full((24, 32), 100 + i, np.uint8)).save(folder / f"frame-{i:05d}.png")
            for kind, column in (("truth", 10), (f"prediction-{seed}", 12 if name == "frozen" else 20)):
                mask = np.zeros((24, 32), np.uint8)
                mask[:, column : column + 5] = 255
                Image.fromarray(mask).save(folder / f"{kind}-{i:05d}.png")
            case = EVIL[i] if i < len(EVIL) else f"case-{i}"
            who = {"case_id": case, "patient_id": f"P{i}", "primary_angle": -30.0, "secondary_angle": 25.0}
            rows += [who | {"seed": seed, "dice": value}, who | {"seed": 9, "dice": 1 - value}]
        arms[name] = ArmResults(cases=pd.DataFrame(rows), pictures=folder, seed=seed)
    return arms


FROZEN = (0.50, 0.60, 0.70, 0.80, 0.40, 0.30)
LORA = (0.55, 0.50, 0.90, 0.78, 0.40, 0.33)


def test_panels_are_extremes_of_each_arm_and_where_the_arms_differ_most(tmp_path):
    panels = overlays.panels(make_arms(tmp_path, FROZEN, LORA))
    assert [(panel.rank, panel.case) for panel in panels] == [
        ("Worst of Frozen", "case-5"),
        ("Worst of LoRA", "case-5"),
        ("Median of Frozen", EVIL[0]),
        ("Median of LoRA", EVIL[1]),
        ("Best of Frozen", EVIL[3]),
        ("Best of LoRA", EVIL[2]),
        ("LoRA gains most", EVIL[2]),
        ("LoRA gains most", EVIL[0]),
        ("LoRA loses most", EVIL[1]),
        ("LoRA loses most", EVIL[3]),
    ]
    assert panels[0].dice == "Dice: Frozen 0.300, LoRA 0.330" and panels[0].who == "patient P5, RAO 30 CRA 25"
    assert panels[8].dice == "Dice: Frozen 0.600, LoRA 0.500, difference -0.100"
    assert [[label for label, _ in panel.overlays] for panel in panels] == [["Frozen"], ["LoRA"]] * 3 + [
        ["Frozen", "LoRA"]
    ] * 4
    assert all(p.size == (600, 450) for panel in panels for p in (panel.frame, *(o for _, o in panel.overlays)))
    assert panels[0].frame.getpixel((0, 0)) == 105 and panels[6].frame.getpixel((0, 0)) == 102
    frozen, lora = (np.asarray(picture).astype(int) for _, picture in panels[6].overlays)
    mixed = {name: 0.45 * 102 + 0.55 * np.array(rgb) for name, rgb in overlays.FILLS.items()}
    column = round(22 * 600 / 32)  # LoRA's alone
    np.testing.assert_allclose(lora[200, column], mixed["false"], atol=1)
    assert (frozen[200, column] == 102).all()


@pytest.mark.parametrize(
    ("lora", "ranks"),
    [
        ((0.6, 0.7), ["LoRA gains most"] * 2),
        ((0.6, 0.6), ["LoRA gains most"]),
        ((0.4, 0.7), ["LoRA gains most", "LoRA loses most"]),
        ((0.4, 0.3), ["LoRA loses most"] * 2),
        ((0.5, 0.6), []),
    ],
)
def test_no_case_is_both_gain_and_loss_and_equal_ones_are_neither(tmp_path, lora, ranks):
    panels = overlays.panels(make_arms(tmp_path, (0.5, 0.6), lora))[6:]
    assert [panel.rank for panel in panels] == ranks
    assert len({panel.case for panel in panels}) == len(panels)


@pytest.mark.parametrize("name", ["frame-00005", "truth-00005", "prediction-3-00005"])
def test_a_missing_picture_is_named(tmp_path, name):
    arms = make_arms(tmp_path, FROZEN, LORA)
    (tmp_path / f"frozen/{name}.png").unlink()
    with pytest.raises(UserError, match=rf"{name}\.png: missing or not a picture"):
        overlays.panels(arms)


def test_masks_alone_are_shown_on_grey(tmp_path):
    panels = overlays.panels(make_arms(tmp_path, FROZEN, LORA, frames=False))
    assert all((np.asarray(panel.frame) == overlays.GREY).all() for panel in panels)


def test_overlay_colours_found_missed_and_false():
    frame = np.full((60, 60), 100, np.uint8)
    truth, prediction = np.zeros_like(frame), np.zeros_like(frame)
    truth[:, 10:30], prediction[:, 20:40] = 255, 255
    picture = np.asarray(overlays.overlay(frame, truth, prediction)).astype(int)
    assert picture.shape == (600, 600, 3)
    for name, column in (("missed", 150), ("found", 250), ("false", 350)):
        np.testing.assert_allclose(picture[300, column], 45 + 0.55 * np.array(overlays.FILLS[name]), atol=1)
    assert (picture[300, 500] == 100).all() and (picture[300, 99] == 255).all() and (picture[300, 300] == 255).all()


@pytest.mark.parametrize("count", [10, 7])
def test_the_figure_of_overlays_shows_every_panel_whatever_cases_are_called(tmp_path, count):
    panels = overlays.panels(make_arms(tmp_path, FROZEN, LORA))[:count]
    figure = overlays.overlays(panels)
    assert len(figure.axes) == sum(1 + len(panel.overlays) for panel in panels)
    figures.write_png(tmp_path / "one.png", figure)
    figures.write_png(tmp_path / "two.png", overlays.overlays(panels))
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_more_arms_have_fewer_pictures_each_and_differences_name_both_arms(tmp_path):
    arms = make_arms(tmp_path, FROZEN, LORA)
    three = arms | {"wide_2": arms["lora"]}
    ranks = [panel.rank for panel in overlays.panels(three)]
    assert len(ranks) == 3 * 3 + 2 * 2
    assert ranks[9:] == [
        "LoRA gains most against frozen",
        "LoRA loses most against frozen",
        "wide_2 gains most against frozen",
        "wide_2 loses most against frozen",
    ]
    many = arms | {f"wide-{i}": arms["lora"] for i in range(9)}
    assert len(overlays.panels(many)) == 8 + 7 * 2


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
    rows = pd.DataFrame({"seed": 0, "epoch": [1, 2, 3], "train_loss": 0.5, "val_dice": [0.1, 0.3, 0.2]})
    axes = figures.curves({MANY["unet"]: rows}, {MANY["unet"]: {0: 2}}, ["val_dice"]).axes[0]
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
