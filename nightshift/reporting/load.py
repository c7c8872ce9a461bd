"""Results of arms, as the stages of each arm wrote them, read and checked: what the comparison is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nightshift.console.errors import UserError
from nightshift.core.records import ArmVerdict, Cost
from nightshift.core.tables import AGAIN, read_table
from nightshift.evaluation.measures import CALIBRATION, CALIBRES, MEASURES, MILLIMETRES
from nightshift.model.card import Card

STEPS = ("encode", "train", "evaluate")  # stages of an arm that record what they cost
ANGLES = ("primary_angle", "secondary_angle")
RUN = ("fold", "seed")  # which model
TABLES = ("cases", "external")  # of cases, as evaluation writes them
WHO = ("case_id", "patient_id", *ANGLES)
NUMBERS = (*(name for name in MEASURES if name not in CALIBRES), *CALIBRATION)  # that every case has
CURVES = ("train_loss", "val_dice")
TRAINED = ("parameters_trained", "seconds_per_epoch", "cases_per_second")  # what a training's cost must have


@dataclass(frozen=True)
class ArmResults:
    """What is known of one arm. Only a run of the pipeline has more than cases and pictures.

    `cases`: a row per test case, fold and seed, as reports/evaluation/ARM/cases.csv, angles in degrees or NaN.
    `external`: the same of every case of a second data set, fold and seed, as external.csv; empty where there is none.
    `pictures`: folder of frames, truths and predictions. `seed`: whose predictions are shown. `ablations`,
    `reliability`, `curves`: as their files. `cards`: of the trained models, by fold and seed. `costs`: by step.
    `probe`: the probe's verdict on this arm.
    """

    cases: pd.DataFrame
    pictures: Path
    seed: int = 0
    external: pd.DataFrame = field(default_factory=pd.DataFrame)
    ablations: pd.DataFrame = field(default_factory=pd.DataFrame)
    reliability: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    cards: list[Card] = field(default_factory=list)
    costs: dict[str, Cost] = field(default_factory=dict)
    probe: ArmVerdict | None = None

    @property
    def seconds(self) -> float | None:
        """To encode and train; None where it is not known."""
        return self.costs["encode"].seconds + self.costs["train"].seconds if self.costs else None

    @property
    def trained(self) -> bool:
        """Whether something was trained; not of a filter, of which validation chooses all, nor of a folder of masks."""
        return any(card.epoch for card in self.cards)

    @property
    def has_encoder(self) -> bool:
        """Whether SAM 3's encoder is known to be part of it."""
        return self.probe is not None and self.probe.prefix is not None


def read_arms(names: Iterable[str], reference: str, root: Path = Path()) -> dict[str, ArmResults]:
    """Results of `names` alone, the reference first: folders of other arms may be left from earlier runs.

    Raises:
        UserError: a file is missing, or is not what its stage writes.
    """
    return reference_first({name: read_arm(name, root) for name in names}, reference)


def reference_first(arms: Mapping[str, ArmResults], reference: str) -> dict[str, ArmResults]:
    """The same arms, the reference first, as all that compares them expects."""
    return {reference: arms[reference]} | dict(arms)


def read_arm(name: str, root: Path = Path()) -> ArmResults:
    """Results of one arm below `root`, the workspace or a copy of another run's files.

    Raises:
        UserError: a file is missing, or is not what its stage writes.
    """
    folder, curve = root / "reports/evaluation" / name, root / f"reports/curves/{name}.csv"
    cards = [Card.read(path) for path in (root / "models" / name).glob("fold-*/seed-*/card.json")]
    if not cards:
        raise UserError(f"models/{name}: no fold-F/seed-S/card.json in it yet; `dvc repro` makes it")
    cards.sort(key=lambda card: (card.fold, card.seed))
    cases, external = (read_cases(folder / f"{name}.csv", may_be_empty=name == "external") for name in TABLES)
    ablations = read_table(
        folder / "ablations.csv",
        integers=RUN,
        numbers=("dice",),
        texts=("case_id", "patient_id", "ablation"),
        may_be_empty=True,  # no encoder and no view that could be taken away
    )
    if not set(ablations["case_id"]) <= set(cases["case_id"]):
        raise UserError(f"{folder.as_posix()}/ablations.csv: not the cases of cases.csv; {AGAIN}")
    drawn = CURVES if any(card.epoch for card in cards) else CURVES[1:]  # without training there is no loss of it
    curves = read_table(curve, integers=(*RUN, "epoch"), numbers=drawn)
    models = {(card.fold, card.seed) for card in cards}
    for table, path in ((cases, folder / "cases.csv"), (external, folder / "external.csv"), (curves, curve)):
        if len(table) and set(zip(table["fold"], table["seed"], strict=True)) != models:
            raise UserError(f"{path.as_posix()}: not the folds and seeds that models/{name} has; {AGAIN}")
    return ArmResults(
        cases=cases,
        pictures=folder / "pictures",
        seed=cards[0].seed,
        external=external,
        ablations=ablations,
        reliability=read_table(
            folder / "reliability.csv", integers=("pixels",), numbers=("low", "high"), empty=("probability", "vessel")
        ),
        curves=curves,
        cards=cards,
        costs=_costs(root / "reports/cost" / name),
        probe=ArmVerdict.read(root / f"reports/probe/arms/{name}.json"),
    )


def read_cases(path: Path, *, may_be_empty: bool) -> pd.DataFrame:
    """A table of cases as evaluation writes it. Raises UserError as `read_table` does."""
    return read_table(
        path,
        integers=RUN,
        numbers=NUMBERS,
        texts=WHO[:2],
        empty=(*ANGLES, *CALIBRES),
        optional=MILLIMETRES,
        may_be_empty=may_be_empty,
    )


def _costs(folder: Path) -> dict[str, Cost]:
    """By step. Raises UserError for a file that is missing or does not say enough."""
    costs: dict[str, Cost] = {step: Cost.read(folder / f"{step}.json") for step in STEPS}
    train = costs["train"]
    needed = TRAINED[:1] if train.parameters_trained == 0 else TRAINED
    if missing := [key for key in needed if getattr(train, key) is None]:
        raise UserError(f"{folder.as_posix()}/train.json: no key '{missing[0]}'; {AGAIN}")
    return costs


def group_names(cases: pd.DataFrame) -> list[str]:
    """The columns of a table of cases that come from the user's own data set, to group the report by."""
    ours = {*RUN, *WHO, *MEASURES, *CALIBRATION, *MILLIMETRES}
    return [name for name in cases.columns if name not in ours]
