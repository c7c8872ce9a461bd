"""One case as a source has it, before anything is prepared, and the list of what is wrong with a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from nightshift.carm import Angles
from nightshift.console.errors import UserError

if TYPE_CHECKING:  # numpy is imported where a file is read: `inputs` lists files at every `dvc repro`
    import numpy as np

Pixels: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"


@dataclass(frozen=True)
class SourceCase:
    """One frame to segment, as the source has it.

    Attributes:
        case_id: unique in the source.
        patient_id: empty where the source has none.
        angles: primary (+ LAO / - RAO) and secondary (+ cranial / - caudal) in degrees, None where unknown.
        split: train, val or test; empty where the source has none.
        files: all that `read` opens, the frame's first and the mask's second.
        read: gives frame and mask, both (H, W) uint8, the mask 0 or 1. Raises UserError.
        where: the place in the source that a message names, as `set/manifest.csv, line 7`.
        spacing: millimetres per pixel (row, column), None where unknown.
        groups: further columns of the source by name, for grouping in the report.
        in_part: gives the case as it is in a part of the split, where its mask depends on that and the split is still
            to be made. Such a case cannot be read, and `files` has all its masks. Raises UserError: no mask there.
    """

    case_id: str
    patient_id: str
    angles: Angles | None
    split: str
    files: tuple[Path, ...]
    read: Callable[[], tuple[Pixels, Pixels]]
    where: str = ""
    spacing: tuple[float, float] | None = None
    groups: dict[str, str] = field(default_factory=dict)
    in_part: Callable[[str], SourceCase] | None = None


@dataclass(frozen=True)
class Problem:
    """`where`: place in the source; `what`: file, what is wrong with it, what to do; `case_id`: empty if unknown."""

    where: str
    case_id: str
    what: str


class Problems(list[str]):
    """What is wrong with a source, a line each: what, where, what to do."""

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Suppress a UserError of the block and append its text, so that the caller goes on with the next row."""
        try:
            yield
        except UserError as error:
            self.append(" ".join(str(error).split()))

    def stop(self) -> None:
        """Raises UserError with the first problem and the number of problems, if there are any."""
        if self:
            more = f" ({len(self)} problems in all: nightshift check)" if len(self) > 1 else ""
            raise UserError(self[0] + more)


@contextmanager
def error_prefix(where: str, edit: Callable[[str], str] = str) -> Iterator[None]:
    """Put `where` in front of the text of a UserError of the block, unless it begins with it already.

    Args:
        where: the place that the message is about, as `set/manifest.csv, line 7`.
        edit: applied to the whole text, for example to hide names in it.
    """
    try:
        yield
    except UserError as error:
        text = str(error)
        raise UserError(edit(text if text.startswith(f"{where}: ") else f"{where}: {text}")) from None


def checked(frame: Pixels, mask: Pixels, path: Path) -> tuple[Pixels, Pixels]:
    """Frame and mask (H, W), uint8, the mask 0 or 1.

    Args:
        frame: (H, W), uint8.
        mask: (H, W), of 0 and at most one other value.
        path: the mask's file, for messages.

    Raises:
        UserError: frame and mask of different sizes, a mask of more than one label.
    """
    import numpy as np

    if frame.shape != mask.shape:
        raise UserError(f"{path}: mask of {mask.shape} pixels for a frame of {frame.shape}; they must be alike")
    values = np.unique(mask)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise UserError(f"{path}: mask with values {values[:4].tolist()}...; expected 0 and one other: keep one label")
    return np.array(frame, dtype=np.uint8), (mask > 0).astype(np.uint8)
