"""Test cases as pictures: the frame beside what an arm found, what it missed and what it marked falsely."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image
from scipy.ndimage import binary_dilation

from nightshift import carm
from nightshift.console.errors import UserError
from nightshift.reporting.figures import INK, STYLE, short
from nightshift.reporting.load import LABELS, ArmResults, Row

FILLS = {"found": (86, 180, 233), "missed": (240, 228, 66), "false": (213, 94, 0)}
MEANINGS = {
    "found": "vessel, found",
    "missed": "vessel, missed",
    "false": "no vessel, but marked",
    "truth": "outline of the truth",
}
SIDE = 600  # pixels of a picture's longer side: twice what it is shown at
GREY = 128  # the frame where only masks are given
MOST = 2  # cases that LoRA gains most in, and as many that it loses most in


def panels(arms: dict[str, ArmResults]) -> list[Row]:
    """Worst, median and best test case of each arm, then those where LoRA gains and loses most.

    By the Dice of each arm's `seed`, whose masks are shown; both arms have the same cases. A panel has the texts
    `rank`, `case`, `who` and `dice`, the `frame`, and `overlays`: (label of an arm, picture), one for an extreme, both
    arms' for a difference. All pictures have a longer side of SIDE. Raises UserError for a missing one.
    """
    rows = {name: {r["case_id"]: r for r in arm.cases if r["seed"] == arm.seed} for name, arm in arms.items()}
    dice = {name: {case: row["dice"] for case, row in of_case.items()} for name, of_case in rows.items()}
    chosen: list[tuple[str, str, list[str]]] = []  # rank, case, arms to show
    for rank, share in (("Worst", 0.0), ("Median", 0.5), ("Best", 1.0)):
        for name, of_case in dice.items():
            order = sorted(of_case, key=of_case.__getitem__)
            chosen.append((f"{rank} of {LABELS[name]}", order[int(share * (len(order) - 1))], [name]))
    gain = {case: dice["lora"][case] - frozen for case, frozen in dice["frozen"].items()}
    order = sorted(gain, key=gain.__getitem__)
    chosen += [("LoRA gains most", case, list(arms)) for case in order[::-1][:MOST] if gain[case] > 0]
    chosen += [("LoRA loses most", case, list(arms)) for case in order[:MOST] if gain[case] < 0]
    found = []
    for rank, case, shown in chosen:
        row = rows[shown[0]][case]
        patient = f"patient {row['patient_id']}" if row["patient_id"] else "patient unknown"
        text = ", ".join(f"{LABELS[name]} {of_case[case]:.3f}" for name, of_case in dice.items())
        difference = f", difference {gain[case]:+.3f}" if len(shown) > 1 else ""
        pictures = [_pictures(arms[name], list(rows[name]).index(case)) for name in shown]
        found.append(
            {
                "rank": rank,
                "case": case,
                "who": f"{patient}, {carm.name(row['primary_angle'], row['secondary_angle'])}",
                "dice": f"Dice: {text}{difference}",
                "frame": _enlarged(pictures[0][0]),
                "overlays": [(LABELS[name], overlay(*three)) for name, three in zip(shown, pictures, strict=True)],
            }
        )
    return found


def _pictures(arm: ArmResults, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame, truth and prediction of the i-th case, (H, W) uint8 each. Raises UserError."""
    names = (f"truth-{i:05d}.png", f"prediction-{arm.seed}-{i:05d}.png")
    truth, prediction = (_picture(arm.pictures / name) for name in names)
    if any(arm.pictures.glob("frame-*.png")):
        return _picture(arm.pictures / f"frame-{i:05d}.png"), truth, prediction
    return np.full_like(truth, GREY), truth, prediction  # a comparison of masks that someone had: no frames at all


def _picture(path: Path) -> np.ndarray:
    """A grey picture, (H, W) uint8. Raises UserError."""
    try:
        return np.asarray(Image.open(path).convert("L"))
    except OSError:
        raise UserError(f"{path}: missing or not a picture; `dvc repro` makes it anew") from None


def _enlarged(frame: np.ndarray) -> Image.Image:
    """(H, W) uint8 -> grey, longer side SIDE."""
    scale = SIDE / max(frame.shape)
    size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
    return Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)


def overlay(frame: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> Image.Image:
    """The frame with what was found, missed and falsely marked, and the truth's outline in white.

    frame, truth, prediction: (H, W) uint8, masks 0 or not -> RGB, longer side SIDE.
    """
    grey = _enlarged(frame)
    truth, prediction = (
        np.asarray(Image.fromarray((mask > 0).astype(np.uint8)).resize(grey.size, Image.Resampling.NEAREST)) > 0
        for mask in (truth, prediction)
    )
    picture = np.repeat(np.asarray(grey, dtype=np.float32)[..., None], 3, axis=2)
    areas = {"found": truth & prediction, "missed": truth & ~prediction, "false": prediction & ~truth}
    for name, area in areas.items():
        picture[area] = 0.45 * picture[area] + 0.55 * np.array(FILLS[name])
    picture[binary_dilation(truth, iterations=2) & ~truth] = 255  # outside: it would fill a thin vessel
    return Image.fromarray(picture.round().astype(np.uint8))


def overlays(panels: list[Row]) -> Figure:
    """Panels, two to a row, each frame beside its overlays, with a legend."""
    rows = [panels[i : i + 2] for i in range(0, len(panels), 2)]
    tallest = max(panel["frame"].height / panel["frame"].width for panel in panels)
    heights = [0.9 + 7 / (1 + max(len(panel["overlays"]) for panel in row)) * tallest for row in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(14, sum(heights) + 0.5), layout="constrained")
        parts = figure.subfigures(len(rows), 2, squeeze=False, height_ratios=heights, hspace=0.03, wspace=0.02)
        for part, panel in zip(parts.flat, panels, strict=False):  # a last row may be half
            title = f"{panel['rank']}: {short(panel['case'], 40)}"
            part.suptitle(f"{title}\n{short(panel['who'], 60)}. {panel['dice']}", fontsize=10)
            pictures = [("Frame", panel["frame"]), *panel["overlays"]]
            for axes, (label, picture) in zip(part.subplots(1, len(pictures)), pictures, strict=True):
                axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
                axes.set_title(label, fontsize=9)
                axes.set_axis_off()
        fills = {name: tuple(c / 255 for c in rgb) for name, rgb in FILLS.items()} | {"truth": "white"}
        handles = [Patch(facecolor=fills[k], edgecolor=INK, label=text) for k, text in MEANINGS.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure
