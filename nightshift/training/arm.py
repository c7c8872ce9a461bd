"""All trainings of an arm: a model per fold and seed. Each training is locked, resumed and finished on its own.

Several processes may be at one arm, a second worker of the queue or `processes` of hardware.yaml: each takes the next
training that no other one has, and results are shared through the folders of checkpoints.py. With several learning
rates the first seed of a fold tries all of them, and the other seeds take the one with the best validation Dice.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nightshift.backbone.encoder import count_parameters
from nightshift.config.hardware import hardware
from nightshift.config.params import ArmSettings
from nightshift.console.progress import say
from nightshift.core.io import link, read_csv, read_json, replacing, write_csv
from nightshift.core.records import Record
from nightshift.data.dataset import data_hash, open_part, read_folds, unit_of
from nightshift.data.locations import ENCODED, MODELS, WEIGHTS, model_folder
from nightshift.data.samples import TrainingCases
from nightshift.data.shards import Shards
from nightshift.engine import checkpoints, distributed
from nightshift.engine.device import compiles, device
from nightshift.jobs import resources, running
from nightshift.jobs.running import CURVE, CURVES
from nightshift.jobs.trackers import tracked
from nightshift.model import card
from nightshift.model.kinds import kind_of, prefix_of
from nightshift.training.trainer import train_model

MODEL, RESULT = "model", "result.json"  # in the folder of a training
LONGEST = 1.25  # time of trainings side by side, over that of the same trainings evenly shared out


@dataclass(frozen=True)
class Training:
    """One training of an arm. `rate`: the learning rate; None: the best one of those that the first seed tried."""

    fold: int
    seed: int
    rate: float | None


class Result(Record):
    """What a training chose by validation, and what it took; `epoch` is 0 where nothing is trained."""

    learning_rate: float
    epoch: int
    epochs: int
    threshold: float
    val_dice: float
    parameters: int
    cases: dict[str, int]
    patients: int
    seconds: float
    seconds_of_epochs: float


def trainings_of(settings: ArmSettings) -> list[Training]:
    """Those of an arm, in the order in which one process does them. Raises UserError where nothing is prepared."""
    first, *others = settings.train.seeds
    rates = settings.rates
    later = rates[0] if len(rates) == 1 else None
    return [
        training
        for fold in range(len(read_folds().folds))
        for training in [*(Training(fold, first, rate) for rate in rates), *(Training(fold, s, later) for s in others)]
    ]


def side_by_side(trainings: int) -> bool:
    """Whether the processes of a run do a training each, rather than each training together.

    Together they wait for each other in every step; apart, some have nothing left to do in the last round. The bound is
    what that may cost.
    """
    rounds = -(-trainings // distributed.processes())
    return rounds * distributed.processes() <= LONGEST * trainings


def train_arm(settings: ArmSettings) -> None:
    """Train a model per fold and seed -> models/NAME/fold-F/seed-S and reports/curves/NAME.csv.

    Raises UserError if a case has no angles, and as `train_model` does.
    """
    name = settings.name
    trainings = Trainings(settings)
    if not distributed.leads():
        trainings.run()
        return
    checkpoints.tidy(f"encode@{name}", [ENCODED / name])
    with resources.recorded(name, "train") as record, replacing(MODELS / name) as folder:
        folder.mkdir()  # now: a folder that cannot be written must not end the run hours later
        trainings.run()
        record.update(trainings.cost())
        trainings.collect(folder)
    trainings.note_outputs()
    print(f"{name} arm, {len(trainings.chosen)} model(s): {(MODELS / name).as_posix()}")


class Trainings:
    """The trainings of one arm, and the results of those that are finished."""

    def __init__(self, settings: ArmSettings) -> None:
        self.settings, self.stage = settings, f"train@{settings.name}"
        self.all, self.results = trainings_of(settings), dict[Training, Result]()
        prefix = prefix_of(settings)
        self.kept = Shards(ENCODED / settings.name, "pt") if prefix is not None and prefix.blocks else None
        self.weights = read_json(ENCODED / settings.name / WEIGHTS)
        self.data_hash = data_hash()
        self.folds = read_folds().folds
        kind_of(settings)  # imports it: the fingerprint is of the code that is loaded
        self.shared = checkpoints.fingerprint(
            data_hash=self.data_hash,
            weights=self.weights,
            device=device().type,
            threads=hardware().threads,
            compiled=compiles(),
            processes=distributed.size(),
        )

    def run(self) -> None:
        """Do every training that no other process does, until all are finished."""
        waited = False
        while todo := [one for one in self.all if one not in self.results]:
            before = len(self.results)
            for training in todo:
                rate = self.rate(training)
                if rate is None:  # the first seed has still to try
                    continue
                with self._claimed(training, rate) as folder:
                    if folder is not None:
                        self.results[training] = self._result(training, rate, folder)
            if len(self.results) == before:
                if not waited:
                    print(f"other processes are at what is left of {self.stage}; this one waits for them", flush=True)
                waited = True
                time.sleep(checkpoints.POLL)

    def rate(self, training: Training) -> float | None:
        """The learning rate of a training; None where it is not known yet."""
        return training.rate or self._best(training.fold)

    def _best(self, fold: int) -> float | None:
        """The learning rate with the best validation Dice in a fold, the first of equals; None while one is missing."""
        tried = [one for one in self.all if one.fold == fold and one.rate is not None]
        if any(one not in self.results for one in tried):
            return None
        return max(tried, key=lambda one: self.results[one].val_dice).rate

    @property
    def chosen(self) -> list[Training]:
        """The trainings whose models the arm has: of a fold and seed the one with the best learning rate."""
        return [one for one in self.all if one.rate in (None, self._best(one.fold))]

    def _identity(self, training: Training, rate: float) -> str:
        """The fingerprint of all that the training depends on, and of nothing of the others."""
        return checkpoints.digest(
            shared=self.shared,
            fold=self.folds[training.fold].model_dump(include={"train", "val"}),
            settings=self.settings.single(rate, training.seed).model_dump(),
        )

    @contextmanager
    def _claimed(self, training: Training, rate: float) -> Iterator[Path | None]:
        """The folder of the training, locked; None where another process has it. One process has the lock for all."""
        identity = self._identity(training, rate)
        if distributed.size() == 1:
            with checkpoints.claimed(self.stage, identity) as folder:
                yield folder
        elif distributed.rank():
            yield checkpoints.folder_of(self.stage, identity)
        else:
            with checkpoints.run_folder(self.stage, identity) as folder:
                yield folder

    def _result(self, training: Training, rate: float, folder: Path) -> Result:
        """Of a training, which is done where it is not finished."""
        if distributed.of_first((folder / checkpoints.FINISHED).is_file()):
            if distributed.leads():
                checkpoints.say_finished(self.stage, folder)
            (found,) = distributed.of_first([Result.read(folder / RESULT)] if distributed.rank() == 0 else [])
            return found
        start, settings = time.perf_counter(), self.settings.single(rate, training.seed)
        parts = {part: self._open(training.fold, part) for part in ("train", "val")}
        if distributed.rank() == 0:
            running.note(folder, settings, training.fold, str(device()))
        label = ", ".join(
            [settings.name]
            + [f"fold {training.fold}"] * (len(self.folds) > 1)
            + [f"seed {training.seed}"]
            + [f"learning rate {rate:g}"] * (len(self.settings.rates) > 1)
        )
        with tracked(label, folder.name, settings.model_dump(mode="json")) as track:

            def report(curves: list[dict[str, float]]) -> None:
                write_csv(folder / CURVE, CURVES, [{"fold": training.fold, **row} for row in curves])
                self._write_curves(self.all)
                track(curves)

            model, trained = train_model(settings, parts, folder, label, report)
            if distributed.rank() == 0:
                report(trained.curves)
        result = Result(
            learning_rate=rate,
            epoch=trained.epoch,
            epochs=len(trained.curves) if trained.epoch else 0,
            threshold=trained.threshold,
            val_dice=round(trained.val_dice, 6),
            parameters=count_parameters(model),
            cases={part: len(cases) for part, cases in parts.items()},
            patients=len({unit_of(row["case_id"], row["patient_id"]) for row in parts["train"].cases.rows}),
            seconds=round(time.perf_counter() - start + trained.before, 3),
            seconds_of_epochs=round(trained.seconds, 3),
        )
        if distributed.rank() == 0:
            with replacing(folder / MODEL) as out:
                out.mkdir()
                kind_of(settings).save(model.cpu(), out)
            result.write(folder / RESULT)
            checkpoints.finished(self.stage, folder.name, folder / MODEL)
            checkpoints.forget(folder)
            say(f"{label}: epoch {result.epoch}, validation Dice {result.val_dice:.3f}")
        return result

    def _open(self, fold: int, part: str) -> TrainingCases:
        patients = self.settings.train.patients if part == "train" else "all"
        return TrainingCases(open_part(fold, part, patients), self.kept, self.settings)

    def _folder(self, training: Training) -> Path | None:
        """Of a training; None where its learning rate is not known yet."""
        rate = self.rate(training)
        return checkpoints.folder_of(self.stage, self._identity(training, rate)) if rate is not None else None

    def _write_curves(self, trainings: list[Training]) -> None:
        """Write what there is of the curves; of several learning rates of one seed those of the last one."""
        rows: dict[tuple[int, int], list[dict[str, str]]] = {}
        for one in trainings:
            if (folder := self._folder(one)) is not None and (folder / CURVE).is_file():
                rows[one.fold, one.seed] = read_csv(folder / CURVE)
        table = Path("reports/curves") / f"{self.settings.name}.csv"
        write_csv(table, CURVES, [row for of in rows.values() for row in of])

    def cost(self) -> dict[str, float]:
        """What all trainings took, whichever process did them."""
        results = self.results.values()
        seconds, epochs = sum(one.seconds for one in results), sum(one.epochs for one in results)
        cost: dict[str, float] = {
            "seconds": round(seconds, 3),
            "parameters_trained": next(iter(results)).parameters,
            "processes": distributed.processes(),
        }
        if len(self.settings.rates) > 1:
            cost["seconds_tuning"] = round(seconds - sum(self.results[one].seconds for one in self.chosen), 3)
        if epochs:
            in_epochs = sum(one.seconds_of_epochs for one in results)
            cost["seconds_per_epoch"] = round(in_epochs / epochs, 3)
            cost["cases_per_second"] = round(sum(one.epochs * one.cases["train"] for one in results) / in_epochs, 3)
        return cost

    def collect(self, folder: Path) -> None:
        """Write the models and their cards into `folder`, and the curves of the chosen trainings."""
        self._write_curves(self.chosen)
        for training in self.chosen:
            states, result = self._folder(training), self.results[training]
            assert states is not None  # it is finished
            out = model_folder(folder, training.fold, training.seed)
            shutil.copytree(states / MODEL, out, copy_function=link)
            card.Card(
                fold=training.fold,
                seed=training.seed,
                epoch=result.epoch,
                learning_rate=result.learning_rate,
                tried=self._tried(training.fold),
                threshold=result.threshold,
                val_dice=result.val_dice,
                data_hash=self.data_hash,
                weights=self.weights,
                cases=result.cases,
                patients=result.patients,
                settings=self.settings,
            ).write(out / card.NAME)

    def _tried(self, fold: int) -> dict[str, float]:
        """Validation Dice by learning rate, where a fold tried several."""
        if len(self.settings.rates) == 1:
            return {}
        return {f"{one.rate:g}": self.results[one].val_dice for one in self.all if one.fold == fold and one.rate}

    def note_outputs(self) -> None:
        """Note which model each training went into, so that `tidy` finds them; those not chosen with the chosen one."""
        for training in self.all:
            states = self._folder(training)
            assert states is not None
            model = model_folder(MODELS / self.settings.name, training.fold, training.seed)
            checkpoints.finished(self.stage, states.name, model)
