"""A made-up repository with experiments, as `dvc exp show --json` of 3.67.1 answers, and the leaderboard made of it."""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from nightshift.commands import experiments, leaderboard
from nightshift.commands.experiments import Experiment, State

HASHES = {path: "1" * 32 for path in (*experiments.SOURCES, *experiments.PREPARED, *experiments.CODE)}
COST = {"stage": "x", "seconds": 20.0, "peak_memory_bytes": 1, "peak_device_memory_bytes": 0, "threads": 1}


class Repository:
    """States as `dvc exp show` lists them, and the files of their revisions."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.files: dict[tuple[str, str], str] = {}
        self.costs: dict[str, dict[str, Any]] = {}
        self.changed: list[str] = ["nightshift/evaluation/measures.py"]

    def add(
        self,
        rev,
        name=None,
        rank=8,
        delta=0.1,
        state=None,
        under=None,
        locked_rank=None,
        error=None,
        arms=None,
        reference="frozen",
        **changed,
    ):
        """A workspace or commit, or under its revision an experiment in a `state`.

        `arms`: more of them, by name the Dice above the reference's; `changed`: hashes by path's stem.
        """
        hashes = {path: changed.get(Path(path).stem, md5) for path, md5 in HASHES.items()}
        deltas = {"lora": delta} | (arms or {})
        names = ["frozen", *deltas]
        costs = {f"reports/cost/{a}/{s}.json": f"{s}{a}{rev}" for s in experiments.STEPS for a in names}
        sections = {"frozen": {"kind": "frozen"}, "lora": {"kind": "lora", "rank": rank}}
        params = {"use": {"data": "synthetic"}, "arms": sections | {a: {"kind": "lora", "rank": 1} for a in arms or {}}}
        locked = json.loads(json.dumps(params))
        locked["arms"]["lora"]["rank"] = locked_rank or rank
        outs = {"reports/comparison/report.html": "report"} | {f"reports/curves/{a}.csv": f"curve-{a}" for a in names}
        lock = {"compare": {"params": {"params.yaml": locked}, "of": [hashes, deltas]}}
        lock["compare"]["outs"] = [{"path": path, "md5": md5} for path, md5 in outs.items()]
        self.files[rev, "dvc.lock"] = yaml.safe_dump({"stages": lock})
        self.files[rev, experiments.METRICS] = json.dumps(metrics(deltas, reference))
        about = {"machine": {"gpu": "none"}, "revision": "a"}
        self.costs |= {md5: COST | about for md5 in costs.values()}
        data = {
            "rev": rev,
            "timestamp": None if rev == "workspace" else f"2026-11-24T05:{10 + len(self.files)}:51",
            "params": {"params.yaml": {"data": params}},
            "metrics": {},  # it has no lists, so nothing is read from it
            "deps": {path: {"hash": md5, "size": 1, "nfiles": None} for path, md5 in hashes.items()},
            "outs": {
                path: {"hash": md5, "size": 1, "nfiles": None, "use_cache": True, "is_data_source": False}
                for path, md5 in costs.items()
            },
            "meta": {},
        }
        error = {"msg": error, "type": ""} if error else None
        new = {"rev": rev, "name": name, "data": data, "error": error, "experiments": None}
        if under is None:
            self.states.append(new)
        else:
            executor = {"state": state, "name": "dvc-task", "local": None} if state else None
            base = next(one for one in self.states if one["rev"] == under)
            base["experiments"] = [*(base["experiments"] or []), {"revs": [new], "executor": executor, "name": name}]
        return data

    def asked(self) -> experiments.Repository:
        return experiments.Repository(
            lambda rev, path: self.files.get((rev, path)), self.costs.get, lambda one, other: self.changed
        )

    def rows(self, head="a" * 40) -> dict[str, Experiment]:
        """By name or revision, in order."""
        states = [State.model_validate(state) for state in self.states]
        found = experiments.collect(states, self.asked())
        return {", ".join(one.names) or one.revision: one for one in experiments.ranked(found, head, self.asked())}


def metrics(deltas: dict[str, float], reference: str) -> dict[str, Any]:
    """What compare writes, with a Dice of 0.5 for the frozen arm."""
    dice = {"frozen": {"dice": 0.5, "ci95": [0.45, 0.55]}}
    dice |= {arm: {"dice": 0.5 + delta, "ci95": None} for arm, delta in deltas.items()}
    against = {
        arm: {"delta": delta, "ci95": [delta - 0.02, delta + 0.02], "p": 0.01, "p_holm": 0.02, "verdict": "better"}
        for arm, delta in deltas.items()
    }
    rest = {"level": 0.05, "patients_needed": None, "cases": 9, "patients": 9, "folds": 1, "seeds": 1}
    return {
        "reference": reference,
        "verdict": "lora",
        "recommended": "lora",
        "arms": dice,
        "against": {arm: value for arm, value in against.items() if arm != reference},
    } | rest


def written(
    repository: Repository, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str
) -> tuple[str, list[dict[str, str]]]:
    monkeypatch.setattr(experiments, "load", lambda history: list(repository.rows().values()))
    parser = argparse.ArgumentParser()
    leaderboard.add_arguments(parser)
    leaderboard.main(parser.parse_args(["-o", str(folder), *more]))
    with (folder / "leaderboard.csv").open(encoding="utf-8", newline="") as handle:
        return (folder / "leaderboard.html").read_text(encoding="utf-8"), list(csv.DictReader(handle))
