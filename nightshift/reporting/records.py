"""JSON records that the comparison writes or reads: one pydantic model for the writer and all readers."""

from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from nightshift.core.io import write_json
from nightshift.core.records import Record

Interval = list[float] | None  # [low, high]; None: too few patients for one
Verdict = Literal["better", "worse", "undecided"]


class ArmDice(Record):
    """Dice of an arm, mean over patients, and Student's 95 % interval of that mean."""

    dice: float
    ci95: Interval


class Against(Record):
    """Dice of an arm minus that of the reference: mean over patients, 95 % interval and p.

    They are of the sign-flip test; with several seeds they hold for other seeds too (`significance.paired_test`).
    `p_holm` is corrected for the number of arms that are compared with the reference; `verdict` rests on it.
    """

    delta: float
    ci95: Interval
    p: float
    p_holm: float
    verdict: Verdict


class ExternalMetrics(Record):
    """As the same keys of Metrics, of a second data set."""

    arms: dict[str, ArmDice]
    against: dict[str, Against]
    cases: int
    patients: int


class Metrics(Record):
    """reports/comparison/metrics.json.

    `verdict`: the arm with the highest Dice if every other arm is told from it at `level`, else `undecided`; None of a
    single arm, which there is nothing to compare with.
    `recommended`: the cheapest arm that is not worse than the best by more than compare.margin; None without costs.
    `patients_needed`: by a next study, where the verdict is undecided and a number can be told. `against`: every arm
    but the reference. `seeds`: models of each arm, of that with the fewest. `external`: of a second data set.
    """

    reference: str
    verdict: str | None
    recommended: str | None
    level: float
    patients_needed: int | None
    arms: dict[str, ArmDice]
    against: dict[str, Against]
    cases: int
    patients: int
    folds: int
    seeds: int
    external: ExternalMetrics | None = None

    def write(self, path: Path) -> None:
        """Write as indented JSON, what is None as null: every key is there in every run."""
        write_json(path, self.model_dump())


class Hypothesis(Record):
    """What the probe makes of one suspect."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    verdict: str
    because: str


class Cause(Record):
    """What an outcome of the probe means, and what cures it."""

    means: str
    cure: str


class ProbeVerdict(Record):
    """reports/probe/verdict.json, as far as the report shows it."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    torch: str
    sam3: str
    hypotheses: dict[str, Hypothesis]
    causes: dict[str, Cause] = Field(default_factory=dict)
