"""The probe's cases as a picture: a row per way of running SAM 3, a column per size, coloured by outcome and cause."""

import io

import matplotlib
import pandas as pd

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle

from nightshift.probe.names import PLAIN
from nightshift.probe.summary import ends

# Okabe and Ito's colours; what is right is light, what fails is strong.
COLOURS = {
    "ok": "#d9f0e3",
    "grid": "#d55e00",
    "replica_real_view": "#cc79a7",
    "pixels_dropped": "#e69f00",
    "positions": "#f0e442",
    "imaginary_lost": "#0072b2",
    "unscaled": "#56b4e9",
    "table_size": "#009e73",
}
OTHER = "#555555"
WAY = ["encoder", "adapter", "wrapper", "dtype", "table"]


def heatmap(frame: pd.DataFrame) -> str:
    """An SVG of all cases; the same frame gives the same bytes."""
    way = frame[WAY].apply(lambda row: ", ".join(word for word in row if word not in PLAIN), axis=1)
    ways = list(way.unique())
    sizes = sorted(set(zip(frame["height"], frame["width"], strict=True)), key=lambda s: (s[0] != s[1], s))
    figure, axes = plt.subplots(figsize=(3.2 + 0.42 * len(sizes), 1.6 + 0.26 * len(ways)), layout="constrained")
    for height, width, name, end in zip(frame["height"], frame["width"], way, ends(frame), strict=True):
        x, y = sizes.index((height, width)), ways.index(name)
        axes.add_patch(Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, color=COLOURS.get(end, OTHER)))
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set_ylim(len(ways) - 0.4, -0.6)
    axes.set_xticks(range(len(sizes)), [f"{h}" if h == w else f"{h}x{w}" for h, w in sizes], rotation=60, fontsize=7)
    axes.set_yticks(range(len(ways)), ways, fontsize=7)
    axes.set_xlabel("frame size, pixels", fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    shown = list(ends(frame).unique())
    handles = [Rectangle((0, 0), 1, 1, color=COLOURS.get(name, OTHER)) for name in shown]
    figure.legend(handles, shown, loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": "nightshift"}):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()
