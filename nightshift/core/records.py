"""JSON records that one stage writes and others read: one pydantic model for writer and readers."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nightshift.console.errors import UserError
from nightshift.core.io import read_json, write_json


class Record(BaseModel):
    """Strict: an unknown key, a missing one or a value of another type is an error."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    def write(self, path: Path) -> None:
        """Write as indented JSON, without keys that are None."""
        write_json(path, self.model_dump(exclude_none=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in `path`. Raises UserError for a file that is missing or is not what its stage writes."""
        try:
            return cls.model_validate(read_json(path))
        except ValidationError as error:
            first = error.errors()[0]
            names = [str(name) for name in first["loc"] if not str(name).startswith("<")]  # <>: a member of a union
            key = ".".join(names) or "the file"
            raise UserError(f"{path}: {key}: {first['msg']}; `dvc repro` makes it anew") from None
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); `dvc repro` makes it anew") from None


SHOWN = 5  # of what a sentence lists
LEVELS = 3  # of the neck's levels, finest first, those that the head uses


class Prefix(Record):
    """The frozen part of an encoder whose output is kept: `blocks` of the trunk, and what is kept of each case.

    `tokens` after that many blocks, or the neck's `levels`; with 0 blocks nothing is kept.
    """

    blocks: int
    output: Literal["tokens", "levels"] = "tokens"


class ArmVerdict(Record):
    """reports/probe/arms/ARM.json: whether the configured encoder runs, and is right, as this arm uses it.

    `prefix`: None for an arm without an encoder.
    """

    ok: bool
    cause: str = ""
    cure: str = ""
    prefix: Prefix | None = None


class Fold(Record):
    """Ids of the cases that a fold trains on, chooses by, and tests."""

    train: list[str]
    val: list[str]
    test: list[str]


class Folds(Record):
    """data/prepared/folds.json. With several folds every case is tested in exactly one of them."""

    folds: list[Fold]


class Cost(Record):
    """reports/cost/ARM/STEP.json: what a stage took. `seconds` include those of processes that were killed or stopped.

    `seconds_tuning`: of them, those of learning rates that were tried and not taken. `cases_before`: cases encoded by
    killed or stopped processes, whose time is not known.
    """

    stage: str
    seconds: float
    seconds_tuning: float | None = None
    peak_memory_bytes: int
    peak_device_memory_bytes: int
    parameters_trained: int | None = None
    seconds_per_epoch: float | None = None
    cases: int | None = None
    cases_before: int | None = None
    cases_per_second: float | None = None
    processes: int | None = None
    threads: int
    machine: dict[str, str]
    revision: str


class SkippedCase(Record):
    """A problem of a data set: `where` in it, `what` is wrong and what to do; `case_id` is empty where unknown."""

    where: str
    case_id: str
    what: str


class Skipped(Record):
    """reports/skipped.json: what prepare left out of `total` cases; empty where nothing is wrong."""

    total: int
    skipped: list[SkippedCase]


class SimilarCase(Record):
    """One frame of a pair; `split`: its part, or `fold N` that tests it; `file` is empty where it may name a person."""

    case_id: str
    split: str
    file: str


class SimilarPair(Record):
    """Two frames in different parts of the split, and their correlation (see nightshift/ingest/similar_frames.py)."""

    correlation: float
    first: SimilarCase
    second: SimilarCase


class SimilarFrames(Record):
    """reports/similar.json: how alike frames in different parts of the split are, where patient ids are missing.

    `cases`: those without a patient id. `pairs_across`: pairs in different parts of at least `threshold`, which are
    probably of one cine or one patient, so that Dice may be too high. `most_alike`: up to five, the most alike first.
    """

    threshold: float
    cases: int
    pairs_across: int
    most_alike: list[SimilarPair]


class BetweenSets(Record):
    """reports/external.json: what may connect the `first` data set and the `second`, external one, by their names.

    `patients`: ids that are in both. `similar`: pairs of one frame of each. All empty where there is no second set.
    """

    first: str = ""
    second: str = ""
    patients: list[str] = Field(default_factory=list)
    similar: SimilarFrames | None = None

    def warnings(self) -> list[str]:
        """A sentence each on patients and on frames that may be in both sets."""
        sets, count, found = f"{self.first} and {self.second}", len(self.patients), []
        if count:
            shown = ", ".join(self.patients[:SHOWN]) + (f" and {count - SHOWN} more" if count > SHOWN else "")
            found.append(
                f"{sets} both have patients with the ids {shown}. If they are the same people, take them out of one "
                "set: nothing may be tested that was trained on. If not, rename them."
            )
        if self.similar and (n := self.similar.pairs_across):
            one = self.similar.most_alike[0]
            found.append(
                f"{n} pair{'s' * (n != 1)} of frames of {sets} look{'s' * (n == 1)} alike, {one.first.case_id} and "
                f"{one.second.case_id} with a correlation of {one.correlation:.2f}. If they are of one patient, the "
                "second set is no independent test: take them out of one set."
            )
        return found


class ModelResult(Record):
    """Test Dice of one trained model, mean over patients, with Student's 95 % interval; None: too few for one.

    `card`: `Card.digest` of the model, by which a reader knows that it is this very one.
    """

    card: str
    dice: float
    ci95: list[float] | None = None
    cases: int
    patients: int


class ModelResults(Record):
    """reports/comparison/models.json: what the comparison says, for the models' own cards. No case is named in it.

    `answer`: the report's first sentence; `recommended`: the arm; `limits`: what could be wrong, a sentence each;
    `models`: by arm, then by folder, as `fold-0/seed-0`.
    """

    answer: str
    recommended: str | None = None
    limits: list[str]
    models: dict[str, dict[str, ModelResult]]
