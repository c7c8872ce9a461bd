"""A case as a source has it, before anything is prepared: what every reader makes, and what can be wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.console.errors import UserError

if TYPE_CHECKING:  # numpy is imported where a file is read: `inventory` lists files at every `dvc repro`
    import numpy as np

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class RawCase:
    """One frame to segment, as the source has it; `read` gives frame and mask (H, W), uint8, the mask 0 or 1.

    `angles`: primary (+ LAO / - RAO) and secondary (+ cranial / - caudal) in degrees, None where the source has none.
    `patient_id` and `split` are empty where the source has none. `files` are all that `read` opens, the frame's first
    and the mask's second. `where` is the place in the source that a message names, as `set/manifest.csv, line 7`.
    `spacing`: millimetres per pixel (row, column), None where unknown. `groups`: further columns of the source by name,
    for grouping in the report.
    """

    case_id: str
    patient_id: str
    angles: tuple[float, float] | None
    split: str
    files: tuple[Path, ...]
    read: Callable[[], tuple[np.ndarray, np.ndarray]]
    where: str = ""
    spacing: tuple[float, float] | None = None
    groups: dict[str, str] = field(default_factory=dict)


class Problems(list[str]):
    """What is wrong with a source, a line each: what, where, what to do."""

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A UserError of the block becomes a line, and the block is left; the next row is read as if nothing was."""
        try:
            yield
        except UserError as error:
            self.append(" ".join(str(error).split()))


def checked(frame: np.ndarray, mask: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Frame (H, W) and mask (H, W) of the file `path`, uint8, the mask 0 or 1. Raises UserError."""
    import numpy as np

    if frame.shape != mask.shape:
        raise UserError(f"{path}: mask of {mask.shape} pixels for a frame of {frame.shape}; they must be alike")
    values = np.unique(mask)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise UserError(f"{path}: mask with values {values[:4].tolist()}...; expected 0 and one other: keep one label")
    return np.array(frame, dtype=np.uint8), (mask > 0).astype(np.uint8)
