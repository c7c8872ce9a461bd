"""The probe's cases as a picture: a row per way of running SAM 3, a column per size, coloured by outcome and cause."""

import io

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from nightshift.probe.cases import Row

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


def matrix(rows: list[Row]) -> str:
    """An SVG of all cases; the same rows give the same bytes."""
    ways = list(dict.fromkeys(_way(row) for row in rows))
    sizes = sorted({(row["height"], row["width"]) for row in rows}, key=lambda s: (s[0] != s[1], s))
    figure, axes = plt.subplots(figsize=(3.2 + 0.42 * len(sizes), 1.6 + 0.26 * len(ways)), layout="constrained")
    for row in rows:
        x, y = sizes.index((row["height"], row["width"])), ways.index(_way(row))
        colour = COLOURS.get(row["cause"] or row["outcome"], OTHER)
        axes.add_patch(plt.Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, color=colour))
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set_ylim(len(ways) - 0.4, -0.6)
    axes.set_xticks(range(len(sizes)), [f"{h}" if h == w else f"{h}x{w}" for h, w in sizes], rotation=60, fontsize=7)
    axes.set_yticks(range(len(ways)), ways, fontsize=7)
    axes.set_xlabel("frame size, pixels", fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    found = dict.fromkeys(row["cause"] or row["outcome"] for row in rows)
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS.get(name, OTHER)) for name in found]
    figure.legend(handles, list(found), loc="outside upper center", ncols=4, fontsize=7, frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": "nightshift"}):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    plt.close(figure)
    return text.getvalue()


def _way(row: Row) -> str:
    words = (row["encoder"], row["adapter"], row["wrapper"], row["dtype"], row["table"])
    return ", ".join(word for word in words if word not in ("none", "float32", "as_shipped"))
