"""Test cases as pictures: the frame beside what an arm found, what it missed and what it marked falsely."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from scipy.ndimage import binary_dilation

from nightshift import carm
from nightshift.console.errors import UserError
from nightshift.data.painting import paint_mask
from nightshift.reporting.figures import INK, STYLE, short
from nightshift.reporting.load import ANGLES, ArmResults
from nightshift.reporting.styles import inside, label

FILLS = {"found": (86, 180, 233), "missed": (240, 228, 66), "false": (213, 94, 0)}
MEANINGS = {
    "found": "vessel, found",
    "missed": "vessel, missed",
    "false": "no vessel, but marked",
    "truth": "outline of the truth",
}
WHITE = (255, 255, 255)
SIDE = 600  # pixels of a picture's longer side: twice what it is shown at
GREY = 128  # the frame where only masks are given
ARMS = 8  # of more arms only the first have pictures: each takes some 60 kB of the page
EXTREMES = (("Worst", 0.0), ("Median", 0.5), ("Best", 1.0))  # quantiles of an arm's own Dice

Grey = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(frozen=True)
class Panel:
    """A test case: why it is shown (`rank`), `case`, patient and view (`who`), `dice` of the arms, and pictures.

    `overlays`: (label of an arm, picture); of one arm for an extreme, of two for a difference. The longer side of all
    pictures is SIDE.
    """

    rank: str
    case: str
    who: str
    dice: str
    frame: Image.Image
    overlays: list[tuple[str, Image.Image]]


def panels(arms: Mapping[str, ArmResults]) -> list[Panel]:
    """Worst, median and best test case of each arm, then those where the other arms gain and lose most.

    By the Dice of each arm's `seed`, whose masks are shown. Of more than two arms fewer cases of each are shown, and of
    more than ARMS only the first.

    Args:
        arms: the reference first; all have the same cases.

    Raises:
        UserError: a picture is missing.
    """
    arms = dict(list(arms.items())[:ARMS])
    most = 2 if len(arms) == 2 else 1
    rows = {name: arm.cases[arm.cases["seed"] == arm.seed].set_index("case_id") for name, arm in arms.items()}
    dice = {name: of_case["dice"] for name, of_case in rows.items()}
    (reference, first), *others = dice.items()
    chosen: list[tuple[str, str, list[str]]] = []  # rank, case, arms to show
    for rank, share in EXTREMES if len(arms) <= 4 else EXTREMES[:1]:
        for name, of_case in dice.items():
            order = of_case.sort_values(kind="stable").index
            chosen.append((f"{rank} of {label(name)}", order[int(share * (len(order) - 1))], [name]))
    for name, of_case in others:
        gain = of_case - first
        order, both = gain.sort_values(kind="stable").index, [reference, name]
        what = "" if len(arms) == 2 else f" against {inside(reference)}"
        chosen += [(f"{label(name)} gains most{what}", case, both) for case in order[::-1][:most] if gain[case] > 0]
        chosen += [(f"{label(name)} loses most{what}", case, both) for case in order[:most] if gain[case] < 0]
    return [_panel(rank, case, shown, arms, rows) for rank, case, shown in chosen]


def _panel(
    rank: str, case: str, shown: Sequence[str], arms: Mapping[str, ArmResults], rows: Mapping[str, pd.DataFrame]
) -> Panel:
    """One panel with the pictures of the arms `shown`; rows: of the seed that is shown, by arm and case."""
    row = rows[shown[0]].loc[case]
    patient = f"patient {row['patient_id']}" if row["patient_id"] else "patient unknown"
    angles = ("", "") if pd.isna(row[ANGLES[0]]) else tuple(row[list(ANGLES)])
    text = ", ".join(f"{label(name)} {of_case['dice'][case]:.3f}" for name, of_case in rows.items())
    if len(shown) > 1:
        text += f", difference {rows[shown[1]]['dice'][case] - rows[shown[0]]['dice'][case]:+.3f}"
    pictures = [_pictures(arms[name], rows[name].index.get_loc(case)) for name in shown]
    return Panel(
        rank=rank,
        case=case,
        who=f"{patient}, {carm.view_name(*angles)}",
        dice=f"Dice: {text}",
        frame=_enlarged(pictures[0][0]),
        overlays=[(label(name), overlay(*three)) for name, three in zip(shown, pictures, strict=True)],
    )


def _pictures(arm: ArmResults, i: int) -> tuple[Grey, Grey, Grey]:
    """Frame, truth and prediction of the i-th case, (H, W) uint8 each. Raises UserError."""
    names = (f"truth-{i:05d}.png", f"prediction-{arm.seed}-{i:05d}.png")
    truth, prediction = (_picture(arm.pictures / name) for name in names)
    if any(arm.pictures.glob("frame-*.png")):
        return _picture(arm.pictures / f"frame-{i:05d}.png"), truth, prediction
    return np.full_like(truth, GREY), truth, prediction  # masks were compared without their frames


def _picture(path: Path) -> Grey:
    """A grey picture, (H, W) uint8. Raises UserError."""
    try:
        return np.asarray(Image.open(path).convert("L"))
    except OSError:
        raise UserError(f"{path}: missing or not a picture; `dvc repro` makes it anew") from None


def _enlarged(frame: Grey) -> Image.Image:
    """(H, W) uint8 -> grey, longer side SIDE."""
    scale = SIDE / max(frame.shape)
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)


def overlay(frame: Grey, truth: Grey, prediction: Grey) -> Image.Image:
    """The frame with what was found, missed and falsely marked, and the truth's outline in white; RGB, side SIDE.

    Args:
        frame: (H, W) uint8.
        truth: the same size, 0 or not.
        prediction: the same.
    """
    grey = _enlarged(frame)
    true, marked = (
        np.asarray(Image.fromarray((mask > 0).astype(np.uint8)).resize(grey.size, Image.Resampling.NEAREST)) > 0
        for mask in (truth, prediction)
    )
    picture = np.asarray(grey)
    areas = {"found": true & marked, "missed": true & ~marked, "false": marked & ~true}
    for name, area in areas.items():
        picture = paint_mask(picture, area, FILLS[name])
    picture[binary_dilation(true, iterations=2) & ~true] = 255  # outside: it would fill a thin vessel
    return Image.fromarray(picture)


def overlays(panels: Sequence[Panel]) -> Figure:
    """Panels, two to a row, each frame beside its overlays, with a legend."""
    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    tallest = max(panel.frame.height / panel.frame.width for panel in panels)
    heights = [0.9 + 7 / (1 + max(len(panel.overlays) for panel in row)) * tallest for row in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(14, sum(heights) + 0.5), layout="constrained")
        parts = figure.subfigures(len(rows), 2, squeeze=False, height_ratios=heights, hspace=0.03, wspace=0.02)
        for part, panel in zip(parts.flat, panels, strict=False):  # a last row may be half
            title = f"{panel.rank}: {short(panel.case, 40)}"
            part.suptitle(f"{title}\n{short(panel.who, 60)}. {panel.dice}", fontsize=10)
            pictures = [("Frame", panel.frame), *panel.overlays]
            for axes, (label, picture) in zip(part.subplots(1, len(pictures)), pictures, strict=True):
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
                axes.set_title(label, fontsize=9)
                axes.set_axis_off()
        handles = [
            Patch(facecolor="#{:02x}{:02x}{:02x}".format(*FILLS.get(k, WHITE)), edgecolor=INK, label=text)
            for k, text in MEANINGS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
