"""The report's figures. Colours are Okabe and Ito's (jfly.uni-koeln.de/color, 2008), safe for colour-blind readers.

Drawn without pyplot, so no window system and no global state; fixed salts and no dates, so the same data gives the
same bytes.
"""

import base64
import io
import re
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.ndimage import binary_dilation

from nightshift.errors import UserError
from nightshift.files import replacing

# Name: colour on a light page (and in PNGs), colour on a dark one.
COLOURS = {"ink": ("#3a4046", "#c3c8cd"), "frozen": ("#0072b2", "#56b4e9"), "lora": ("#d55e00", "#e69f00")}
INK = COLOURS["ink"][0]
LABELS = {"frozen": "Frozen", "lora": "LoRA"}
CURVES = {"train_loss": "Training loss (BCE + 1 - Dice)", "val_dice": "Validation Dice (0 to 1)"}
FILLS = {"found": (86, 180, 233), "missed": (240, 228, 66), "false": (213, 94, 0)}
MEANINGS = {
    "found": "vessel, found",
    "missed": "vessel, missed",
    "false": "no vessel, but marked",
    "truth": "outline of the truth",
}
SIDE = 600  # pixels of an overlay's longer side: twice what it is shown at
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


def _grid(axes: Axes) -> None:
    axes.grid(color=INK, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)


def extremes(cases: dict[str, list[Row]], seeds: dict[str, int], pictures: dict[str, Path]) -> list[Row]:
    """Panels: worst, median and best test case of each arm by the Dice of one seed, with that seed's mask.

    All by arm. cases: rows of evaluation's cases.csv; pictures: its folder. Raises UserError for a missing picture.
    """
    by_case = {arm: {r["case_id"]: r for r in rows if r["seed"] == seeds[arm]} for arm, rows in cases.items()}
    panels = []
    for rank, share in (("Worst", 0.0), ("Median", 0.5), ("Best", 1.0)):
        for arm, rows in by_case.items():
            order = sorted(rows.values(), key=lambda row: row["dice"])
            row = order[int(share * (len(order) - 1))]
            number = f"{list(rows).index(row['case_id']):05d}"
            names = (f"frame-{number}", f"truth-{number}", f"prediction-{seeds[arm]}-{number}")
            frame, truth, prediction = (_picture(pictures[arm] / f"{name}.png") for name in names)
            patient = f"patient {row['patient_id']}" if row["patient_id"] else "patient unknown"
            dice = ", ".join(f"{LABELS[a]} {rows[row['case_id']]['dice']:.3f}" for a, rows in by_case.items())
            panels.append(
                {
                    "rank": f"{rank} of {LABELS[arm]}",
                    "case": row["case_id"],
                    "who": f"{patient}, {view(row['primary_angle'], row['secondary_angle'])}",
                    "dice": f"Dice: {dice}",
                    "frame": Image.fromarray(frame),
                    "overlay": overlay(frame, truth, prediction),
                }
            )
    return panels


def _picture(path: Path) -> np.ndarray:
    """A grey picture, (H, W) uint8. Raises UserError."""
    try:
        return np.asarray(Image.open(path).convert("L"))
    except OSError:
        raise UserError(f"{path}: missing or not a picture; `dvc repro` makes it anew") from None


def view(primary: str, secondary: str) -> str:
    """Angles in degrees as cardiologists name them: + is LAO and cranial, - is RAO and caudal (DICOM C.8.7.5)."""
    if primary == "" or secondary == "":
        return "angles unknown"
    sides = ((round(float(primary)), "LAO", "RAO"), (round(float(secondary)), "CRA", "CAU"))
    return " ".join(f"{plus if angle > 0 else minus} {abs(angle)}" for angle, plus, minus in sides if angle) or "AP"


def overlay(frame: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> Image.Image:
    """The frame with what was found, missed and falsely marked, and the truth's outline in white.

    frame, truth, prediction: (H, W) uint8, masks 0 or not -> RGB, longer side SIDE.
    """
    scale = SIDE / max(frame.shape)
    size = (round(frame.shape[1] * scale), round(frame.shape[0] * scale))
    grey = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    truth, prediction = (
        np.asarray(Image.fromarray((mask > 0).astype(np.uint8)).resize(size, Image.Resampling.NEAREST)) > 0
        for mask in (truth, prediction)
    )
    picture = np.repeat(grey[..., None], 3, axis=2)
    areas = {"found": truth & prediction, "missed": truth & ~prediction, "false": prediction & ~truth}
    for name, area in areas.items():
        picture[area] = 0.45 * picture[area] + 0.55 * np.array(FILLS[name])
    picture[binary_dilation(truth, iterations=2) & ~truth] = 255  # outside: it would fill a thin vessel
    return Image.fromarray(picture.round().astype(np.uint8))


def overlays(panels: list[Row]) -> Figure:
    """Panels of `extremes`, two to a row, each frame beside its overlay, with a legend."""
    with matplotlib.rc_context(STYLE):
        rows = (len(panels) + 1) // 2
        figure = Figure(figsize=(13, 3.6 * rows + 0.5), layout="constrained")
        for part, panel in zip(figure.subfigures(rows, 2).flat, panels, strict=True):
            part.suptitle(f"{panel['rank']}: {panel['case']}, {panel['who']}\n{panel['dice']}", fontsize=9)
            for axes, picture in zip(part.subplots(1, 2), (panel["frame"], panel["overlay"]), strict=True):
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
                axes.set_axis_off()
        fills = {name: tuple(c / 255 for c in rgb) for name, rgb in FILLS.items()} | {"truth": "white"}
        handles = [Patch(facecolor=fills[k], edgecolor=INK, label=text) for k, text in MEANINGS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def svg_uri(figure: Figure) -> str:
    """A transparent SVG as a data URI, its COLOURS following the reader's light or dark setting."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in COLOURS.items()) for i in (0, 1))
    for name, (colour, _) in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    style = f"<style>svg{{{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    return _uri("svg+xml", re.sub(r"(<svg[^>]*>)", rf"\1{style}", text, count=1).encode())


def png_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return _uri("png", buffer.getvalue())


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def write_png(path: Path | str, figure: Figure) -> None:
    """On white, for readers that show pictures only (`dvc plots`)."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, facecolor="white")
