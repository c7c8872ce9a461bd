"""The report's figures of test cases: an arm and the reference, case by case, against each other, and by view."""

from collections import Counter
from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nightshift.reporting.figures import INK, STYLE, Floats, grid, legend, short
from nightshift.reporting.styles import Style

NAMED = 40  # rows of dumbbells: with more, their names would not be readable
# Reference better, equal, other arm better: all show on a light and on a dark page, so these are the same on both.
BALANCE = LinearSegmentedColormap.from_list("balance", ["#1f78c8", "#83b4e0", "#c6c9cc", "#efb27a", "#e66a00"], N=11)
GOLDEN = np.pi * (3 - np.sqrt(5))  # radians from one seed of a sunflower to the next

Pair = tuple[Style, Style]  # the reference, and the arm that is measured against it


def paired(pair: Pair, reference: Floats, other: Floats) -> Figure:
    """Scatter plot of the Dice of each case, (n,) per arm: above the diagonal the other arm is better."""
    first, second = pair
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.5), layout="constrained")
        axes = figure.subplots()
        low = max(0.0, np.floor(min(reference.min(), other.min()) * 20 - 0.5) / 20)
        axes.plot([low, 1], [low, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        better = other > reference
        for style, which in ((second, better), (first, ~better)):
            axes.scatter(
                reference[which],
                other[which],
                s=34,
                color=style.colour,
                alpha=0.75,
                marker=style.marker,
                linewidth=0,
            )
        one, two = (f"{style.sign} {short(style.label, 20)} better" for style in pair)
        axes.text(0.03, 0.97, two, transform=axes.transAxes, va="top")
        axes.text(0.97, 0.03, one, transform=axes.transAxes, ha="right")
        axes.set(xlim=(low, 1), ylim=(low, 1), aspect="equal")
        axes.set_xlabel(f"Dice, {short(first.inside, 20)} (0 to 1)")
        axes.set_ylabel(f"Dice, {short(second.inside, 20)} (0 to 1)")
        grid(axes)
    return figure


def dumbbells(pair: Pair, reference: "pd.Series[float]", other: "pd.Series[float]", what: str) -> Figure:
    """Dice of two arms by id, joined by a line, beside their difference; the other arm's largest gain is on top.

    Args:
        pair: how the arms are shown.
        reference: Dice by id; from one to a few hundred.
        other: the same ids.
        what: whose ids they are, `test case` or `patient`.
    """
    first, second = pair
    a, b = reference.to_numpy(), other.reindex(reference.index).to_numpy()
    order = np.argsort(b - a, kind="stable")
    names, a, b = [str(reference.index[i]) for i in order], a[order], b[order]
    gain, rows, n = b - a, np.arange(len(a)), len(a)
    height = min(0.21 * n, max(8.4, 0.036 * n))
    pitch = 72 * height / n  # points from row to row
    winners = [(second if d > 0 else first).colour if d else INK for d in gain]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2, height + 1.2))
        figure.set_layout_engine("constrained", wspace=0.05)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
        left.hlines(rows, a, b, colors=winners, linewidth=np.clip(0.2 * pitch, 0.8, 2), alpha=0.6)
        for style, dice in ((first, a), (second, b)):
            size = np.clip(0.75 * pitch, 2.6, 6) ** 2
            left.scatter(dice, rows, s=size, color=style.colour, marker=style.marker, linewidth=0, zorder=3)
        right.barh(rows, gain, height=0.6 if n <= NAMED else 1, color=winners, edgecolor=winners, linewidth=0.3)
        right.axvline(0, color=INK, linewidth=1)
        reach = 1.08 * max(np.abs(gain).max(), 0.005)
        right.set(xlim=(-reach, reach), xlabel=f"Dice, {short(second.inside, 20)} - {short(first.inside, 20)}")
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
            grid(axes)
        counts = ((first, int((gain < 0).sum())), (second, int((gain > 0).sum())))
        legend(
            figure, {style: f"{short(style.label, 20)}, better for {count} of {n} {what}s" for style, count in counts}
        )
    return figure


def by_view(pair: Pair, views: Sequence[tuple[float, float]], deltas: Floats) -> Figure:
    """Map of the difference of Dice at each case's C-arm angles, RAO on the left and cranial on top.

    Cases of one view lie around it, or they would hide each other. Zero degrees count as LAO and as cranial.

    Args:
        pair: how the arms are shown.
        views: (primary, secondary) angle of each case in degrees; at least one.
        deltas: (n,), other - reference.
    """
    first, second = pair
    angles = np.array(views, dtype=float)
    # One case far out would leave all others grey: the scale ends where 95 % of the cases do, and shows that it does.
    limit = max(0.01, np.ceil(np.quantile(np.abs(deltas), 0.95) * 100) / 100)
    norm = Normalize(-limit, limit)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.8, 5), layout="constrained")
        axes, places = figure.subplots(), _side_by_side(angles)
        for style, which in ((second, deltas > 0), (first, deltas <= 0)):
            axes.scatter(
                places[which, 0],
                places[which, 1],
                c=deltas[which],
                s=46,
                marker=style.marker,
                edgecolor=INK,
                linewidth=0.6,
                norm=norm,
                cmap=BALANCE,
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
                ha, va = "left" if x < 0.5 else "right", "top" if y > 0.5 else "bottom"
                axes.text(x, y, text, transform=axes.transAxes, fontsize=9, linespacing=1.35, ha=ha, va=va)
        axes.set_xlabel("RAO  \u2190  primary angle, degrees  \u2192  LAO")
        axes.set_ylabel("caudal  \u2190  secondary angle, degrees  \u2192  cranial")
        grid(axes)
        extend = "both" if np.abs(deltas).max() > limit else "neither"
        bar = figure.colorbar(ScalarMappable(norm=norm, cmap=BALANCE), ax=axes, extend=extend, aspect=30)
        one, two = short(first.inside, 16), short(second.inside, 16)
        ends = f"{first.sign} {one} better", f"{two} better {second.sign}"
        bar.set_label(f"{ends[0]}  \u2190  Dice, {two} - {one}  \u2192  {ends[1]}")
        bar.outline.set_visible(False)
    return figure


def _side_by_side(views: Floats) -> Floats:
    """Views (n, 2) in degrees, those that are the same to a degree moved onto a sunflower around it."""
    places, keys = views.copy(), [tuple(view) for view in views.round()]
    total, count = Counter(keys), Counter[tuple[float, ...]]()
    for place, key in zip(places, keys, strict=True):
        k = count[key]
        radius = min(1.9, 9 / np.sqrt(total[key])) * np.sqrt(k)  # never further than 9 degrees
        place += radius * np.array([np.cos(k * GOLDEN), np.sin(k * GOLDEN)])
        count[key] += 1
    return places
