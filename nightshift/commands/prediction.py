"""Masks of frames of any size by a trained model, with overlays, area and confidence."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel

from nightshift.carm import Angles
from nightshift.commands.inputs import Frame
from nightshift.core.io import replacing
from nightshift.data.painting import paint_mask
from nightshift.evaluation.predictor import MAP_MAX, CachedPredictor, threshold_mask
from nightshift.model.base import ArmModel

MASKS, OVERLAYS = "masks", "overlays"
COLOUR = (86, 180, 233)  # of vessels, as in the report
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
ProbabilityMap = np.ndarray[tuple[int, ...], np.dtype[np.uint16]]


class Prediction(BaseModel):
    """A mask in predictions.json: the `file` of the frame, and the `name` of its PNG files.

    `height`, `width` and `area` in pixels, `area_mm2` None where the file has no spacing; `confidence`: the mean
    probability inside the mask, None where that is empty.
    """

    file: str
    name: str
    height: int
    width: int
    area: int
    area_mm2: float | None
    confidence: float | None


def predict(
    model: ArmModel, threshold: float, frames: Iterable[tuple[Path, Frame, Angles]], out: Path
) -> list[Prediction]:
    """Write masks/NAME.png and overlays/NAME.png of each frame, at its own size, into the new folder `out`.

    Args:
        model: in eval mode, on its device.
        threshold: of the probability, from the card.
        frames: each with the file it is from and its angles.
        out: appears when all are written.
    """
    predictions = []
    taken: set[str] = set()
    with replacing(out) as folder:
        for part in (MASKS, OVERLAYS):
            (folder / part).mkdir(parents=True)
        for path, frame, angles in frames:
            name, pixels = _free_name(frame.name, taken), np.array(frame.pixels)  # a copy: torch warns of mapped files
            probability = CachedPredictor(model, pixels).probability_map(angles)
            mask = threshold_mask(probability, threshold)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / MASKS / f"{name}.png")
            Image.fromarray(paint_mask(pixels, mask, COLOUR)).save(folder / OVERLAYS / f"{name}.png")
            predictions.append(_prediction(path, name, probability, mask, frame))
    return predictions


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, or the first of name-2, name-3 ... that is not taken, also where a disk does not tell A from a."""
    number, free = 1, name
    while free.casefold() in taken:
        number += 1
        free = f"{name}-{number}"
    taken.add(free.casefold())
    return free


def _prediction(path: Path, name: str, probability: ProbabilityMap, mask: Mask, frame: Frame) -> Prediction:
    """What predictions.json says of a map (H, W), as `CachedPredictor` makes it, and its mask (H, W)."""
    height, width = mask.shape
    area = int(mask.sum())
    return Prediction(
        file=path.as_posix(),
        name=name,
        height=height,
        width=width,
        area=area,
        area_mm2=None if frame.spacing is None else round(area * frame.spacing[0] * frame.spacing[1], 3),
        confidence=round(float(probability[mask].mean()) / MAP_MAX, 6) if area else None,
    )
