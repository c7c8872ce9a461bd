"""The report's figures of single measures: how sure arms are and how right, and which vessels they find."""

from collections.abc import Mapping, Sequence

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from nightshift.reporting.figures import INK, STYLE, grid, legend, short, with_interval
from nightshift.reporting.records import Interval
from nightshift.reporting.styles import Style


def reliability(arms: Mapping[Style, pd.DataFrame], labels: Mapping[Style, str]) -> Figure:
    """Share of vessel over the probability, a mark per bin, above the share of pixels in each.

    On the diagonal the probabilities are right, below it too high, above it too low.

    Args:
        arms: rows as in reports/evaluation/ARM/reliability.csv, by arm.
        labels: of the legend.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 5.8), layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 3)))
        for style, bins in arms.items():
            filled, percent = bins.dropna(), 100 / bins["pixels"].sum()
            for axes, values in ((upper, filled["vessel"]), (lower, percent * filled["pixels"])):
                axes.plot(filled["probability"], values, f"{style.marker}-", color=style.colour, markersize=5)
        upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="Share of vessel (0 to 1)")
        lower.set(yscale="log", xlabel="Probability of a vessel (0 to 1)", ylabel="Pixels, %")
        lower.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        lower.yaxis.set_minor_formatter(NullFormatter())
        for axes in (upper, lower):
            grid(axes)
        figure.legend(
            handles=[Line2D([], [], color=s.colour, marker=s.marker, label=text) for s, text in labels.items()],
            loc="outside upper left",
        )
    return figure


def recall_by_calibre(rows: Mapping[str, Sequence[tuple[float, Interval]]], arms: Sequence[Style]) -> Figure:
    """Recall of the centreline with its interval, by calibre (top to bottom) and arm; hollow where none is known.

    Args:
        rows: mean and interval of each arm, by calibre.
        arms: how they are shown.
    """
    step = 0.8 / len(arms)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.8, 1.3 + (0.3 + 0.21 * len(arms)) * len(rows)), layout="constrained")
        axes = figure.subplots()
        for y, of_arms in enumerate(rows.values()):
            for i, (style, (value, ends)) in enumerate(zip(arms, of_arms, strict=True)):
                with_interval(axes, style, value, ends, y + step * (i - (len(arms) - 1) / 2))
        axes.set_yticks(range(len(rows)), [name.replace(", ", "\n") for name in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="Share of the centreline found")
        axes.margins(x=0.08)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        grid(axes)
        legend(figure, {style: short(style.label, 20) for style in arms})
    return figure
