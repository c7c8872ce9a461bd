"""The report's figures of arms as a whole, and how every figure is drawn and saved. Colours and marks are in styles.py.

Drawn without pyplot, so no window system and no global state; fixed salts and no dates, so the same data gives the
same bytes.
"""

import base64
import io
import math
import textwrap
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image

from nightshift.core.io import replacing
from nightshift.reporting import styles
from nightshift.reporting.records import Interval
from nightshift.reporting.styles import Style
from nightshift.reporting.text_tables import AblationRow

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

INK = styles.INK[0]
CURVES = {"train_loss": "Training loss (BCE + 1 - Dice)", "val_dice": "Validation Dice (0 to 1)"}
SVG = "http://www.w3.org/2000/svg"
ET.register_namespace("", SVG)
ET.register_namespace("xlink", "http://www.w3.org/1999/xlink")
STYLE: dict[Any, Any] = {
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


def curves(
    arms: Mapping[Style, pd.DataFrame], chosen: Mapping[Style, Mapping[tuple[int, int], int]], columns: Sequence[str]
) -> Figure:
    """A panel per column of CURVES over the epochs; a line per model of an arm, a ring at the epoch that was chosen.

    Args:
        arms: rows as in reports/curves/ARM.csv, by arm.
        chosen: the epoch by arm, fold and seed.
        columns: of CURVES.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(columns), 3.2), layout="constrained")
        for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True):
            for style, rows in arms.items():
                models = rows.set_index(["fold", "seed", "epoch"])[column]
                for model, epoch in chosen[style].items():
                    line = models.loc[model]
                    axes.plot(line.index, line, color=style.colour, linewidth=1.8, marker=style.marker, markevery=[-1])
                    if column == "val_dice":
                        axes.plot(epoch, line[epoch], "o", color=style.colour, markerfacecolor="none", markersize=9)
            axes.set_xlabel("Epoch")
            axes.set_ylabel(CURVES[column])
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            grid(axes)
        legend(figure, {style: short(style.label, 20) for style in arms})
    return figure


def all_arms(values: Mapping[Style, tuple[float, Interval]], what: str, lines: Sequence[float] = ()) -> Figure:
    """A value of every arm with its interval, on one axis.

    Args:
        values: by arm, from the top down; hollow without an interval.
        what: the values are.
        lines: to be drawn at these values, the first one whole and the others dashed.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 1.1 + 0.36 * len(values)), layout="constrained")
        axes = figure.subplots()
        for i, line in enumerate(lines):
            axes.axvline(line, color=INK, linewidth=1, linestyle=(0, (4, 3)) if i else "-")
        for y, (style, (value, ends)) in enumerate(values.items()):
            with_interval(axes, style, value, ends, y)
        axes.set_yticks(range(len(values)), [short(style.label, 24) for style in values])
        axes.set(ylim=(len(values) - 0.5, -0.5), xlabel=textwrap.fill(what, 36))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.tick_params(axis="y", length=0)
        axes.margins(x=0.08)
        grid(axes)
    return figure


def ablations(rows: Sequence[AblationRow], arms: Mapping[str, Style]) -> Figure:
    """What each ablation changes, with its interval; hollow where none is known.

    Args:
        rows: at least one.
        arms: how each arm is shown, by name.
    """
    whats = list(dict.fromkeys(row.what for row in rows))
    shown = [name for name in arms if any(row.arm == name for row in rows)]
    step = 0.32 if len(arms) <= 2 else 0.8 / len(arms)
    height = 0.62 if len(arms) <= 2 else 0.2 + 0.21 * len(arms)  # inches per ablation
    hollow = "" if all(row.interval for row in rows) else " (hollow: no interval)"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 1.1 + height * len(whats)), layout="constrained")
        axes = figure.subplots()
        axes.axvline(0, color=INK, linewidth=1)
        for row in rows:
            y = whats.index(row.what) + step * (list(arms).index(row.arm) - (len(arms) - 1) / 2)
            with_interval(axes, arms[row.arm], row.delta, row.interval, y)
        axes.set_yticks(range(len(whats)), [textwrap.fill(what, 20) for what in whats])
        axes.set(ylim=(len(whats) - 0.5, -0.5), xlabel=f"Change of Dice, mean over patients{hollow}")
        axes.margins(x=0.08)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        grid(axes)
        legend(figure, {arms[name]: short(arms[name].label, 20) for name in shown})
    return figure


def with_interval(axes: Axes, style: Style, value: float, ends: Interval, y: float) -> None:
    """A mark at `value`, on its interval; hollow without one."""
    if ends:
        axes.plot(ends, [y, y], "|-", color=style.colour, linewidth=2, markersize=8, markeredgewidth=2)
    fill = None if ends else "none"
    axes.plot(value, y, style.marker, color=style.colour, markerfacecolor=fill, markersize=style.size)


def grid(axes: Axes) -> None:
    """Faint lines behind the data."""
    axes.grid(color=INK, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)


def legend(figure: Figure, labels: Mapping[Style, str]) -> None:
    """A text by arm, on top, where it hides no data; as many beside each other as there is room for, at most four."""
    handles = [
        Line2D([], [], color=style.colour, marker=style.marker, linestyle="", label=label)
        for style, label in labels.items()
    ]
    room = figure.get_figwidth() * 12 / (5 + max(map(len, labels.values())))  # 12 letters to an inch
    lines = math.ceil(len(handles) / min(max(int(room), 1), 4))
    columns = math.ceil(len(handles) / lines)
    in_rows = [handle for i in range(columns) for handle in handles[i::columns]]  # matplotlib fills column by column
    close = {"handlelength": 1, "handletextpad": 0.4, "columnspacing": 1.4}  # in font sizes
    figure.legend(handles=in_rows, loc="outside upper center", ncols=columns, **close)


def short(name: str, longest: int) -> str:
    """One line of at most `longest` characters; shortened in the middle, since ids differ at their ends."""
    name = " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[: longest - 1 - half]}\u2026{name[-half:]}"


def svg_uri(figure: Figure) -> str:
    """A transparent SVG as a data URI, whose colours (styles.py) follow the reader's light or dark setting."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314, our own; comments, which hold names of cases, are left out
    names = {"ink": styles.INK} | {f"arm-{i}": pair for i, pair in enumerate(styles.COLOURS)}
    swaps = {light: f"var(--{name})" for name, (light, _) in names.items()}
    for element in root.iter():
        for attribute in ("style", "fill", "stroke"):
            if value := element.get(attribute):
                element.set(attribute, _swapped(value, swaps))
    style = ET.Element(f"{{{SVG}}}style")
    light, dark = (f"--ink:{styles.INK[dark]};{styles.variables(dark=dark)}" for dark in (False, True))
    style.text = f"svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}"
    root.insert(0, style)
    return _uri("svg+xml", ET.tostring(root, encoding="unicode").encode())


def _swapped(text: str, swaps: Mapping[str, str]) -> str:
    """A colour, or declarations such as `fill: #0072b2; stroke: none`, with the values that `swaps` has."""
    declarations = []
    for declaration in text.split(";"):
        key, colon, value = declaration.rpartition(":")
        value = value.strip()
        declarations.append(f"{key}{colon} {swaps.get(value, value)}".strip())
    return "; ".join(declarations)


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
