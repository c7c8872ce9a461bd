"""Masks of frames of any size by trained models, with overlays, area and confidence."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import BaseModel

from nightshift.carm import Angles
from nightshift.commands.inputs import Frame
from nightshift.console.progress import Progress
from nightshift.core.io import replacing
from nightshift.data.painting import paint_mask
from nightshift.evaluation.rules import Rule
from nightshift.model.base import ArmModel
from nightshift.model.predictor import MAP_MAX, CachedPredictor, threshold_mask

MASKS, OVERLAYS = "masks", "overlays"
COLOUR = (86, 180, 233)  # of vessels, as in the report
Mask = np.ndarray[tuple[int, ...], np.dtype[np.bool_]]
Asked = tuple[Path, Frame, Angles]
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
    models: Sequence[Callable[[], ArmModel]],
    rule: Rule,
    frames: Callable[[], Iterable[Asked]],
    out: Path,
    progress: Progress,
) -> list[Prediction]:
    """Write masks/NAME.png and overlays/NAME.png of each frame, at its own size, into the new folder `out`.

    Args:
        models: as for `mean_maps`.
        rule: how masks are made.
        frames: as for `mean_maps`.
        out: appears when all are written.
        progress: as for `mean_maps`.
    """
    predictions = []
    taken: set[str] = set()
    with replacing(out) as folder:
        for part in (MASKS, OVERLAYS):
            (folder / part).mkdir(parents=True)
        maps = mean_maps(models, frames, progress, rule.mirror)
        for (path, frame, _), probability in zip(frames(), maps, strict=True):
            name, mask = _free_name(frame.name, taken), threshold_mask(probability, rule.threshold, rule.low)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / MASKS / f"{name}.png")
            painted = paint_mask(np.asarray(frame.pixels), mask, COLOUR)
            Image.fromarray(painted).save(folder / OVERLAYS / f"{name}.png")
            predictions.append(_prediction(path, name, probability, mask, frame))
    return predictions


def mean_maps(
    models: Sequence[Callable[[], ArmModel]],
    frames: Callable[[], Iterable[Asked]],
    progress: Progress,
    mirror: bool,
) -> Iterator[ProbabilityMap]:
    """The mean of the models' probability maps, frame by frame.

    Sums are kept on disk, and models are opened one after the other: together they may not fit in memory.

    Args:
        models: each opens one, in eval mode, on its device.
        frames: gives all frames, each with the file it is from and its angles.
        progress: wraps a loop over all frames of all models.
        mirror: whether each map is the mean of the frame's and of its mirror image's.
    """
    asked = progress((model, i, one) for model in (open_one() for open_one in models) for i, one in enumerate(frames()))
    if len(models) == 1:
        yield from (_map(model, one, mirror) for model, _, one in asked)
        return
    with tempfile.TemporaryDirectory() as folder:
        paths: list[Path] = []
        for model, i, one in asked:
            if i == len(paths):
                paths.append(Path(folder) / f"{i}.npy")
                np.save(paths[i], np.zeros(one[1].pixels.shape, np.uint32))
            np.save(paths[i], np.load(paths[i]) + _map(model, one, mirror))
        for path in paths:
            yield (np.load(path) / len(models)).round().astype(np.uint16)


def _map(model: ArmModel, asked: Asked, mirror: bool) -> ProbabilityMap:
    _, frame, angles = asked
    pixels = np.array(frame.pixels)  # a copy: torch warns of mapped files
    return CachedPredictor(model, pixels, mirror).probability_map(angles)


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
