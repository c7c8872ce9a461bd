"""The figure of learning curves: Dice against the number of training patients, and the differences below it."""

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from nightshift.reporting.figures import INK, STYLE, grid, legend, short
from nightshift.reporting.learning_curve import LearningCurves
from nightshift.reporting.styles import Style, styles

DODGE = 1.05  # arms stand beside each other, this factor apart


def learning_curves(curves: LearningCurves) -> Figure:
    """Measured Dice with intervals and the fitted curves of all arms; below, each difference with its band, and the
    interval of the crossing on its line of zero.

    What is extrapolated is dashed. Without fitted curves there are only the measured values.
    """
    shown, numbers = styles(curves.arms), curves.numbers
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 6.2 if curves.band else 3.6), layout="constrained")
        panels = figure.subplots(1 + bool(curves.band), 1, sharex=True, squeeze=False)[:, 0]
        for i, style in enumerate(shown.values()):
            points = curves.points[curves.points["arm"] == style.name]
            _measured(panels[0], points, style, DODGE ** (i - (len(shown) - 1) / 2))
            if curves.fitted is not None:
                _line(panels[0], curves.fitted[style.name], style, numbers[-1])
        panels[0].set_ylabel("Dice, mean over patients")
        for name, band in curves.band.items():
            _line(panels[1], band["delta"], shown[name], numbers[-1])
            panels[1].fill_between(band.index, band["low"], band["high"], color=shown[name].colour, alpha=0.15, lw=0)
            if interval := curves.payoffs[name].interval:
                panels[1].plot(interval, [0, 0], "|-", color=shown[name].colour, linewidth=4, markersize=10)
        for axes in panels:
            axes.set_xscale("log")
            grid(axes)
        if curves.band:
            panels[1].axhline(0, color=INK, linewidth=1)
            panels[1].set_ylabel(f"Difference from {short(shown[curves.arms[0]].inside, 20)}")
        axis = panels[-1].xaxis
        axis.set_major_locator(FixedLocator(numbers if curves.fitted is None else [*numbers, curves.fitted.index[-1]]))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_locator(NullLocator())
        panels[-1].set_xlabel("Training patients" + (", extrapolated where dashed" if curves.band else ""))
        legend(figure, {style: short(style.label, 20) for style in shown.values()})
    return figure


def _measured(axes: Axes, points: pd.DataFrame, style: Style, dodge: float) -> None:
    """A mark on its interval for each number of patients."""
    x = points["patients"] * dodge
    axes.vlines(x, points["low"], points["high"], color=style.colour, linewidth=1.5)
    axes.plot(x, points["dice"], style.marker, color=style.colour, markersize=style.size)


def _line(axes: Axes, values: "pd.Series[float]", style: Style, largest: int) -> None:
    """Whole up to the `largest` number of patients, dashed beyond."""
    axes.plot(values.loc[:largest], color=style.colour, linewidth=1.8)
    axes.plot(values.loc[largest:], color=style.colour, linewidth=1.8, linestyle=(0, (4, 3)))
