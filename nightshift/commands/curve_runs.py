"""The runs that make up a learning curve, those that are missing, and the results of those that are done.

A run belongs to the curve if the workspace as it stands, with the changes of the command line and the run's own
train.patients, would make the same: the settings of all arms as their stages read them (presets and versions of
packages too), the code that these stages depend on, and the data. Names do not matter, nor do settings that no arm
follows from, such as `compare`. So an experiment that was made by hand belongs, and after an edit none of before does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from nightshift.commands import dvc_adapter, queue_actions, queue_runs
from nightshift.commands.collect import code_of, contents_at, contents_of
from nightshift.commands.experiments import SOURCES
from nightshift.commands.notes import Note
from nightshift.config import params
from nightshift.config.yaml_io import parse, value_at
from nightshift.console.errors import UserError
from nightshift.core.tables import read_table
from nightshift.model.card import NAME as CARD
from nightshift.model.card import Card

KEY = "train.patients"
ON_THEIR_WAY = ("queued", "running")


@dataclass(frozen=True)
class Run:
    """`patients` as the setting is: a number as text, or `all`. `state`: `done`, or that of queue_runs.py."""

    name: str
    revision: str
    patients: str
    state: str


class Curve:
    """The curve of the workspace's settings with `changes`, as `params.read` takes them, without one of KEY.

    Raises UserError for settings that are not valid, and for an arm with a number of patients of its own.
    """

    def __init__(self, changes: Sequence[str]) -> None:
        self.changes = list(changes)
        self.settings = params.read(changes)
        if own := [name for name, arm in self.settings.arms.items() if "patients" in arm.overrides()]:
            raise UserError(f"arms.{own[0]}.patients is set: all arms of a curve have those of {KEY}; remove it")
        self._cache = dvc_adapter.cache_folder()
        kinds = {f"nightshift/arms/{arm.kind}.py" for arm in self.settings.arms.values()}
        self._code = sorted({*code_of(params.read().arms), *kinds})  # dvc.yaml has no arm that only -S adds

    def runs(self) -> dict[str, Run]:
        """The run of each number of patients that has one, by `patients`; one that is done before all others.

        Raises UserError outside of a DVC repository.
        """
        found = {}
        for task in queue_runs.runs():
            if task.state in (*ON_THEIR_WAY, "killed") and (patients := self._patients(task.revision, finished=False)):
                found[patients] = Run(task.name, task.revision, patients, task.state)
        data = None
        for name, revision in reversed(dvc_adapter.experiments().items()):
            lock = dvc_adapter.locked(dvc_adapter.file_at(revision, "dvc.lock"))
            patients = self._patients(revision, finished=True) if self._is_whole(lock) else None
            if patients is None or (patients in found and found[patients].state == "done"):
                continue
            files = dvc_adapter.files_of(lock, "deps")
            sources = [files.get(path) for path in SOURCES]
            data = data or sources
            if sources == data:  # as the newest of them had it
                found[patients] = Run(name, revision, patients, "done")
        return found

    def queue(self, numbers: Sequence[str], runs: dict[str, Run]) -> list[str]:
        """Queue those of `numbers` that no run is there for, or on its way, and see that a worker is at it.

        Returns those that were queued. Raises UserError for settings that are not valid, before anything is queued.
        """
        from nightshift.commands.planning import fold_sizes  # torch: seconds

        wanted = [params.read([*self.changes, f"{KEY}={number}"]).train.patients for number in numbers]
        most = min(fold.patients for fold in fold_sizes(self.settings.data))
        if many := [number for number in wanted if number != "all" and number > most]:
            raise UserError(f"-S {KEY}={many[0]}: there are {most} to train on; take fewer, or all")
        queue_actions.check_known_to_git(self.settings, self.settings.arms)
        missing = []
        for number in numbers:
            run = runs.get(number)
            if run and run.state == "killed":
                queue_runs.forget(queue_runs.find(run.name))
            elif run:
                continue
            name = f"curve-{number}-{datetime.now():%m%d-%H%M%S}"
            queue_actions.put_in(name, [], list(self.settings.arms), [*self.changes, f"{KEY}={number}"], Note())
            missing.append(number)
        if missing or any(run.state in ON_THEIR_WAY for run in runs.values()):
            dvc_adapter.dvc("queue", "start")
        return missing

    def cases(self, run: Run) -> pd.DataFrame:
        """The test cases of a run that is done: a row per `arm`, `seed` and case, with `dice` and `patients`.

        `patients` is the number that the arms were trained on; where folds have different ones, their mean.
        """
        outs = dvc_adapter.files_of(dvc_adapter.locked(dvc_adapter.file_at(run.revision, "dvc.lock")), "outs")
        tables = []
        for arm in self.settings.arms:
            path = dvc_adapter.cached(self._cache, outs[_cases_of(arm)])
            table = read_table(path, integers=("seed",), numbers=("dice",), texts=("case_id", "patient_id"))
            tables.append(table.assign(arm=arm))
        cards = [Card.read(path) for path in self._cards(outs)]
        patients = round(sum(card.patients for card in cards) / len(cards))
        return pd.concat(tables, ignore_index=True).assign(patients=patients)

    def _cards(self, outs: dict[str, str]) -> list[Path]:
        """Of the reference's models; those of all arms have the same patients."""
        files = dvc_adapter.cached_folder(self._cache, outs.get(f"models/{self.settings.compare.reference}", ""))
        return [path for name, path in files.items() if Path(name).name == CARD and path.is_file()]

    def _patients(self, revision: str, *, finished: bool) -> str | None:
        """A revision's KEY if it belongs to this curve, else None."""
        patients = value_at(parse(dvc_adapter.file_at(revision, params.PARAMS.as_posix()) or ""), KEY)
        try:
            wanted = contents_of(params.read([*self.changes, f"{KEY}={patients}"]), list(self.settings.arms))
            same = contents_at(revision, list(wanted), finished=finished) == wanted
        except UserError:  # settings of another version, or no such key
            return None
        return str(patients) if same and not dvc_adapter.changed_files(revision, self._code) else None

    def _is_whole(self, lock: dict[str, Any]) -> bool:
        """Whether every stage ran after those that it depends on, and the cache has the results of all arms."""
        made = dvc_adapter.files_of(lock, "outs")
        mixed = any(made.get(path, md5) != md5 for path, md5 in dvc_adapter.files_of(lock, "deps").items())
        results = [dvc_adapter.cached(self._cache, made.get(_cases_of(arm), "")) for arm in self.settings.arms]
        return not mixed and all(path.is_file() for path in results) and bool(self._cards(made))


def _cases_of(arm: str) -> str:
    return f"reports/evaluation/{arm}/cases.csv"
