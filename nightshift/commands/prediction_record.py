"""predictions.json: what `nightshift predict` was asked, the files that were left out, and the masks.

It is there from the beginning, so that the same command goes on where it was stopped, and no other does.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightshift.carm import Angles
from nightshift.console.errors import UserError
from nightshift.console.progress import say
from nightshift.core.io import write_text

NAME = "predictions.json"
Format = Literal["png", "dicom-seg", "nifti"]


class LeftOut(BaseModel):
    """A file that has no masks, and why."""

    file: str
    reason: str


class LeftOutFiles(list[LeftOut]):
    """Files that have no masks, each told on the terminal as well.

    `skip`: a mistake of a file is no error, but leaves the file out.
    """

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip = skip

    def add(self, file: Path, reason: str) -> None:
        """Leave `file` out."""
        say(f"left out: {file}: {reason}")
        self.append(LeftOut(file=file.as_posix(), reason=reason))

    @contextmanager
    def about(self, file: Path) -> Iterator[None]:
        """Leave `file` out where the block raises UserError; without `skip` the error is raised."""
        try:
            yield
        except UserError as error:
            if not self.skip:
                raise
            self.add(file, " ".join(str(error).split()).removeprefix(f"{file}: "))


class AskedFile(BaseModel):
    """An input: `name` of its outputs, `frames` in it, and the `angles` that were given for it on the command line."""

    file: str
    name: str
    sha256: str
    frames: int
    angles: Angles | None


class Asked(BaseModel):
    """All that masks depend on.

    `models`: sha256 of all their files, by folder; `threshold`, `low` and `mirror` as in rules.json; `to`: the formats.
    """

    models: dict[str, str]
    threshold: float
    low: float | None
    mirror: bool
    to: list[Format]
    identifiers: bool
    files: list[AskedFile]


class Prediction(BaseModel):
    """A mask: the `file` of the frame, and the `name` of its PNG files, that of a cine with the frame's number from 0.

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


class Predictions(BaseModel):
    """DIR/predictions.json; it has `predictions` once it is `finished`."""

    model_config = ConfigDict(extra="forbid")

    finished: bool = False
    asked: Asked
    left_out: list[LeftOut]
    predictions: list[Prediction] = Field(default_factory=list)

    def write(self, folder: Path) -> None:
        """Write folder/predictions.json."""
        write_text(folder / NAME, self.model_dump_json(indent=2) + "\n")


def read_begun(out: Path) -> Predictions | None:
    """What an earlier command began in `out`; None where `out` is not there or empty.

    Raises UserError where anything else is there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        return Predictions.model_validate_json((out / NAME).read_bytes())
    except (OSError, ValidationError):
        raise UserError(f"{out}: is there already; name a new folder with -o, nothing is overwritten") from None


def check_same(begun: Asked, asked: Asked, out: Path) -> None:
    """Raises UserError where `out` was begun with something else than is `asked` now, naming it."""
    options = {
        "models": "another MODEL",
        "to": "other formats (--to)",
        "identifiers": "another choice of --identifiers",
        "files": "other inputs or angles",
    }
    for key, value in asked:
        if value != getattr(begun, key):
            raise UserError(
                f"{out}: was begun with {options.get(key, 'other --rules')}; give the same command to go on, "
                "or name a new folder with -o"
            )
