"""A trained arm alone on frames of any size: masks, pictures of them on the frame, and how sure it is."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nightshift.model.segmentation import Arm
from nightshift.evaluation.evaluate import FULL, Vessels, cut
from nightshift.core.io import replacing
from nightshift.commands.inputs import Frame
from nightshift.carm import Angles

MASKS, OVERLAYS = "masks", "overlays"
COLOUR = (86, 180, 233)  # of a vessel, as in the report


def predict(
    arm: Arm, threshold: float, frames: Iterable[tuple[Path, Frame, Angles]], out: Path
) -> list[dict[str, Any]]:
    """masks/NAME.png and overlays/NAME.png of each frame, at its own size, in the new folder `out`; a row for each.

    The map is cut at `threshold`, as in evaluation. A row has the file that a frame is from, its NAME, `height` and
    `width`, `area` in pixels and (None without spacing) `area_mm2`, and `confidence`: the mean probability inside the
    mask, None where that is empty.
    """
    rows: list[dict[str, Any]] = []
    taken: set[str] = set()
    with replacing(out) as folder:
        for part in (MASKS, OVERLAYS):
            (folder / part).mkdir(parents=True)
        for path, frame, angles in frames:
            name, pixels = _free(frame.name, taken), np.array(frame.pixels)  # a copy: torch warns of a mapped file's
            found = Vessels(arm, pixels, arm.resolution).map(angles)
            mask = cut(found, threshold)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / MASKS / f"{name}.png")
            Image.fromarray(painted(pixels, mask)).save(folder / OVERLAYS / f"{name}.png")
            rows.append({"file": path.as_posix(), "name": name} | measured(found, mask, frame))
    return rows


def _free(name: str, taken: set[str]) -> str:
    """`name`, or the first of name-2, name-3 ... that no other file has, also where A and a are one."""
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.casefold())
    return free


def painted(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The frame (H, W), uint8, with the mask (H, W), bool, in colour over it: (H, W, 3), uint8."""
    picture = np.repeat(frame[..., None], 3, axis=2).astype(np.float32)
    picture[mask] = 0.45 * picture[mask] + 0.55 * np.array(COLOUR)
    return picture.round().astype(np.uint8)


def measured(vessels: np.ndarray, mask: np.ndarray, frame: Frame) -> dict[str, int | float | None]:
    """What a row says of a map (H, W) as `Vessels` makes it and its mask (H, W), bool."""
    height, width = mask.shape
    area = int(mask.sum())
    return {
        "height": height,
        "width": width,
        "area": area,
        "area_mm2": None if frame.spacing is None else round(area * frame.spacing[0] * frame.spacing[1], 3),
        "confidence": round(float(vessels[mask].mean()) / FULL, 6) if area else None,
    }
