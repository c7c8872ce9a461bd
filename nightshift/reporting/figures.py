"""The report's figures. Colours are Okabe and Ito's (jfly.uni-koeln.de/color, 2008), safe for colour-blind readers.

Drawn without pyplot, so no window system and no global state; fixed salts and no dates, so the same data gives the
same bytes. Whatever colour says is also said by a shape or a place: frozen is a square, LoRA a circle.
"""

import base64
import io
import re
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from nightshift.core.io import replacing
from nightshift.reporting.load import LABELS

# Name: colour on a light page (and in PNGs), colour on a dark one.
COLOURS = {"ink": ("#3a4046", "#c3c8cd"), "frozen": ("#0072b2", "#56b4e9"), "lora": ("#d55e00", "#e69f00")}
INK = COLOURS["ink"][0]
CURVES = {"train_loss": "Training loss (BCE + 1 - Dice)", "val_dice": "Validation Dice (0 to 1)"}
MARKERS = {"frozen": "s", "lora": "o"}
NAMED = 40  # rows of dumbbells: with more, their names would not be readable
# Frozen better, equal, LoRA better: each is seen on a light and on a dark page, so these do not follow the reader's.
BALANCE = LinearSegmentedColormap.from_list("balance", ["#1f78c8", "#83b4e0", "#c6c9cc", "#efb27a", "#e66a00"], N=11)
GOLDEN = np.pi * (3 - np.sqrt(5))  # radians from one seed of a sunflower to the next
STYLE = {
    "font.size": 10,
    "svg.hashsalt": "nightshift",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "text.parse_math": False,  # a case may be called a$b
}

Row = dict[str, Any]


def curves(rows: dict[str, list[Row]], chosen: dict[str, dict[float, int]], columns: list[str]) -> Figure:
    """A panel per column of CURVES over the epochs; a line per arm and seed, a ring at the epoch that was chosen.

    rows: by arm, as in reports/curves/ARM.csv. chosen: by arm and seed, the epoch.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(columns), 3.2), layout="constrained")
        for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            for arm, all_rows in rows.items():
                for i, (seed, epoch) in enumerate(chosen[arm].items()):
                    line = {r["epoch"]: r[column] for r in all_rows if r["seed"] == seed}
                    colour, label = COLOURS[arm][0], LABELS[arm] if i == 0 else None
                    axes.plot(list(line), list(line.values()), color=colour, label=label, linewidth=1.8)
                    if column == "val_dice":
                        axes.plot(epoch, line[epoch], "o", color=colour, markerfacecolor="none", markersize=9)
            axes.set_xlabel("Epoch")
            axes.set_ylabel(CURVES[column])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            _grid(axes)
            axes.legend()
    return figure


def paired(frozen: np.ndarray, lora: np.ndarray) -> Figure:
    """Dice of each case, (n,) per arm, against each other: above the diagonal LoRA is better."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.5), layout="constrained")
        axes = figure.subplots()
        low = max(0.0, np.floor(min(frozen.min(), lora.min()) * 20 - 0.5) / 20)
        axes.plot([low, 1], [low, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        better = lora > frozen
        for arm, which, marker in (("lora", better, "o"), ("frozen", ~better, "s")):
            axes.scatter(
                frozen[which], lora[which], s=34, color=COLOURS[arm][0], alpha=0.75, marker=marker, linewidth=0
            )
        axes.text(0.03, 0.97, "LoRA better", color=COLOURS["lora"][0], transform=axes.transAxes, va="top")
        axes.text(0.97, 0.03, "Frozen better", color=COLOURS["frozen"][0], transform=axes.transAxes, ha="right")
        axes.set(xlim=(low, 1), ylim=(low, 1), aspect="equal")
        axes.set_xlabel("Dice, frozen (0 to 1)")
        axes.set_ylabel("Dice, LoRA (0 to 1)")
        _grid(axes)
    return figure


def dumbbells(frozen: dict[str, float], lora: dict[str, float], what: str) -> Figure:
    """Dice of both arms by id, joined by a line, beside their difference; LoRA's largest gain is on top.

    what: whose ids they are, `test case` or `patient`. The same ids in both; from one to a few hundred.
    """
    a, b = np.array(list(frozen.values())), np.array([lora[key] for key in frozen])
    order = np.argsort(b - a, kind="stable")
    names, a, b = [list(frozen)[i] for i in order], a[order], b[order]
    gain, rows, n = b - a, np.arange(len(a)), len(a)
    height = min(0.21 * n, max(8.4, 0.036 * n))
    pitch = 72 * height / n  # points from row to row
    winners = [COLOURS["lora" if d > 0 else "frozen"][0] if d else INK for d in gain]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, height + 1.2), layout="constrained")
        figure.get_layout_engine().set(wspace=0.05)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
        left.hlines(rows, a, b, colors=winners, linewidth=np.clip(0.2 * pitch, 0.8, 2), alpha=0.6)
        for arm, dice in (("frozen", a), ("lora", b)):
            size = np.clip(0.75 * pitch, 2.6, 6) ** 2
            left.scatter(dice, rows, s=size, color=COLOURS[arm][0], marker=MARKERS[arm], linewidth=0, zorder=3)
        right.barh(rows, gain, height=0.6 if n <= NAMED else 1, color=winners, edgecolor=winners, linewidth=0.3)
        right.axvline(0, color=INK, linewidth=1)
        reach = 1.08 * max(np.abs(gain).max(), 0.005)
        right.set(xlim=(-reach, reach), xlabel="Dice, LoRA - frozen")
        left.set(xlabel="Dice (0 to 1)", ylim=(-0.8, n - 0.2))
        if n <= NAMED:
            left.set_yticks(rows, [short(name, 24) for name in names], fontsize=8)
        else:
            left.set(yticks=[], ylabel=f"{n} {what}s, sorted by difference")
        left.tick_params(axis="y", length=0)
        right.tick_params(axis="y", length=0, labelleft=False)
        right.spines["left"].set_visible(False)
        for axes in (left, right):
            axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            _grid(axes)
        better = {"frozen": int((gain < 0).sum()), "lora": int((gain > 0).sum())}
        _legend(figure, {arm: f"{LABELS[arm]}, better for {count} of {n} {what}s" for arm, count in better.items()})
    return figure


def by_view(views: list[tuple[float, float]], deltas: np.ndarray) -> Figure:
    """LoRA - frozen Dice (n,) of each case at its view (primary, secondary), degrees, drawn as cardiologists do.

    At least one case. Cases of one view lie around it, or they would hide each other. Zero degrees count as LAO and as
    cranial.
    """
    angles = np.array(views, dtype=float)
    # One case far out would leave all others grey: the scale ends where 95 % of the cases do, and shows that it does.
    limit = max(0.01, np.ceil(np.quantile(np.abs(deltas), 0.95) * 100) / 100)
    colours = {"norm": Normalize(-limit, limit), "cmap": BALANCE}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 5), layout="constrained")
        axes, places = figure.subplots(), _side_by_side(angles)
        for arm, which in (("lora", deltas > 0), ("frozen", deltas <= 0)):
            axes.scatter(
                *places[which].T, c=deltas[which], s=46, marker=MARKERS[arm], edgecolor=INK, linewidth=0.6, **colours
            )
        wide, high = 1.12 * max(30, np.abs(places[:, 0]).max()), 1.32 * max(20, np.abs(places[:, 1]).max())
        axes.set(xlim=(-wide, wide), ylim=(-high, high))
        axes.axhline(0, color=INK, linewidth=1, zorder=0)
        axes.axvline(0, color=INK, linewidth=1, zorder=0)
        for side, x, in_side in (("RAO", 0.015, angles[:, 0] < 0), ("LAO", 0.985, angles[:, 0] >= 0)):
            for tilt, y, in_tilt in (("cranial", 0.98, angles[:, 1] >= 0), ("caudal", 0.02, angles[:, 1] < 0)):
                inside = deltas[in_side & in_tilt]
                mean = f"mean {inside.mean():+.3f}, " if len(inside) else ""
                text = f"{side} {tilt}\n{mean}{len(inside)} case{'s' * (len(inside) != 1)}"
                place = {"ha": "left" if x < 0.5 else "right", "va": "top" if y > 0.5 else "bottom"}
                axes.text(x, y, text, transform=axes.transAxes, fontsize=9, linespacing=1.35, **place)
        axes.set_xlabel("RAO  \u2190  primary angle, degrees  \u2192  LAO")
        axes.set_ylabel("caudal  \u2190  secondary angle, degrees  \u2192  cranial")
        _grid(axes)
        bar = figure.colorbar(
            ScalarMappable(**colours), ax=axes, extend="both" if np.abs(deltas).max() > limit else "neither", aspect=30
        )
        bar.set_label("\u25a0 frozen better  \u2190  Dice, LoRA - frozen  \u2192  LoRA better \u25cf")
        bar.outline.set_visible(False)
    return figure


def _side_by_side(views: np.ndarray) -> np.ndarray:
    """Views (n, 2) in degrees, those that are the same to a degree moved onto a sunflower around it."""
    places, keys, count = views.copy(), [tuple(view) for view in views.round()], Counter()
    total = Counter(keys)
    for place, key in zip(places, keys, strict=True):
        k = count[key]
        radius = min(1.9, 9 / np.sqrt(total[key])) * np.sqrt(k)  # never further than 9 degrees
        place += radius * np.array([np.cos(k * GOLDEN), np.sin(k * GOLDEN)])
        count[key] += 1
    return places


def ablations(rows: list[Row]) -> Figure:
    """What each ablation changes, with its interval; hollow where none is known.

    rows: `what`, `arm`, `delta` (Dice) and `interval` ([low, high] or None), at least one.
    """
    whats = list(dict.fromkeys(row["what"] for row in rows))
    hollow = "" if all(row["interval"] for row in rows) else " (hollow: no interval)"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 1.1 + 0.62 * len(whats)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=1)
        for row in rows:
            y = whats.index(row["what"]) + (0.16 if row["arm"] == "lora" else -0.16)
            colour, fill = COLOURS[row["arm"]][0], None if row["interval"] else "none"
            if row["interval"]:
                axes.plot(row["interval"], [y, y], "|-", color=colour, linewidth=2, markersize=8, markeredgewidth=2)
            axes.plot(row["delta"], y, MARKERS[row["arm"]], color=colour, markerfacecolor=fill, markersize=7)
        axes.set_yticks(range(len(whats)), [textwrap.fill(what, 30) for what in whats])
        axes.set(ylim=(len(whats) - 0.5, -0.5), xlabel=f"Change of Dice, mean over patients{hollow}")
        axes.margins(x=0.08)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _grid(axes)
        _legend(figure, {arm: LABELS[arm] for arm in MARKERS if any(row["arm"] == arm for row in rows)})
    return figure


def _grid(axes: Axes) -> None:
    axes.grid(color=INK, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)


def _legend(figure: Figure, labels: dict[str, str]) -> None:
    """By arm, on top, where it hides no data."""
    handles = [
        Line2D([], [], color=COLOURS[arm][0], marker=MARKERS[arm], linestyle="", label=label)
        for arm, label in labels.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))


def short(name: str, longest: int) -> str:
    """One line of at most `longest` characters; cut in the middle, for ids differ at their ends."""
    name = " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[: longest - 1 - half]}\u2026{name[-half:]}"


def svg_uri(figure: Figure) -> str:
    """A transparent SVG as a data URI, its COLOURS following the reader's light or dark setting."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = re.sub(r"<!--.*?-->", "", buffer.getvalue(), flags=re.DOTALL)  # a case called #d55e00 would break one
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in COLOURS.items()) for i in (0, 1))
    for name, (colour, _) in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    return _uri("svg+xml", re.sub(r"(<svg[^>]*>)", rf"\1{style}", text, count=1).encode())


def jpeg_uri(picture: Image.Image) -> str:
    """For angiograms: a sixth of what a PNG of their noise takes; colours at full resolution, for thin vessels."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return _uri("jpeg", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def write_png(path: Path | str, figure: Figure) -> None:
    """On white, for readers that show pictures only (`dvc plots`)."""
    with matplotlib.rc_context(STYLE), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, facecolor="white")
