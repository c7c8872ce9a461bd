"""Every result of the repository, as `dvc exp show` knows them: which are comparable, their order, what differs.

DVC's own table is not enough for two things. It leaves lists out of metrics, so intervals are read from the metrics
file of each revision. And its params are those that a revision's files name, though a part of the pipeline may have
run, or none after an edit: settings are read from dvc.lock, which has those that the numbers were made with.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from nightshift.commands import dvc_adapter
from nightshift.config.yaml_io import value_at
from nightshift.console.errors import UserError
from nightshift.core.records import Cost
from nightshift.jobs import stale_metrics
from nightshift.reporting.records import Against, Metrics

STEPS = ("encode", "train", "evaluate")
METRICS = stale_metrics.METRICS.as_posix()
SOURCES = ("data/inventory.json", "data/raw/synthetic.json")  # of the user, and simulated
PREPARED = ("data/prepared/cases", "data/prepared/masks", "data/prepared/folds.json")
CODE = ("nightshift/evaluation", "nightshift/reporting")  # dependencies of compare, with what makes the numbers
NUMBERS = ("nightshift/evaluation", "nightshift/reporting/significance.py")  # of these the files that make them
WORKSPACE = "workspace"  # DVC's name for it, where a revision has a hash
Kind = Literal["experiment", "commit", "workspace"]


class Hash(BaseModel):
    """Of a dependency or an output, as dvc.lock has it."""

    hash: str | None = None


class File(BaseModel):
    """A file of params."""

    data: dict[str, Any] | None = None


class Data(BaseModel):
    """What `dvc exp show --json` says about a revision, as far as it is used here."""

    timestamp: str | None = None
    params: dict[str, File] = {}
    deps: dict[str, Hash] = {}
    outs: dict[str, Hash] = {}


class Failure(BaseModel):
    """Why DVC cannot read a revision."""

    msg: str


class Executor(BaseModel):
    """How an experiment of the queue is doing."""

    state: str


class State(BaseModel):
    """The workspace, a commit or an experiment, as `dvc exp show --json` lists it."""

    rev: str
    name: str | None = None
    data: Data | None = None
    error: Failure | None = None
    experiments: list["Group"] | None = None


class Group(BaseModel):
    """The revisions of one experiment, the last one first."""

    revs: list[State]
    executor: Executor | None = None
    name: str | None = None


@dataclass
class Experiment:
    """A result, or an experiment that has none (yet).

    Attributes:
        names: experiments, branches, workspace that hold this very result.
        revisions: all of them as full hashes, or WORKSPACE.
        created: local time, empty for the workspace.
        settings: values of params.yaml as text, by section and key; `arms` by name.
        hashes: of the data and the code that make results comparable.
        metrics: None without a result, and `state` says why.
        seconds: by arm, encoding to evaluation, None where not on record here.
        rank: from 1; None with `why` not.
        lock: the text of dvc.lock, where there is a result.
    """

    names: list[str]
    revisions: list[str]
    created: str
    settings: dict[str, Any]
    hashes: dict[str, str | None] = field(default_factory=dict)
    metrics: Metrics | None = None
    state: str = "done"
    seconds: dict[str, float | None] = field(default_factory=dict)
    rank: int | None = None
    why: str = ""
    lock: str = ""

    @property
    def revision(self) -> str:
        """Seven digits; empty for what is only in the workspace."""
        return next((rev[:7] for rev in self.revisions if rev != WORKSPACE), "")

    @property
    def best(self) -> tuple[str, Against] | None:
        """The arm that is farthest above the reference, and by how much; None where nothing is compared with it."""
        against = self.metrics.against if self.metrics else {}
        return max(against.items(), key=lambda item: item[1].delta, default=None)


@dataclass(frozen=True)
class Repository:
    """What is asked of git and DVC about revisions.

    Attributes:
        read: the text of a file at a revision, None where it has no such file.
        cached: the JSON object with this hash, None where DVC's cache has none.
        differ: files of NUMBERS that are not the same in two revisions.
    """

    read: Callable[[str, str], str | None]
    cached: Callable[[str], dict[str, Any] | None]
    differ: Callable[[str, str], list[str]]


def load(*, history: bool = False) -> list[Experiment]:
    """The workspace, the experiments and the tips of local branches, ranked; with `history` every commit that has one.

    Raises UserError: no git or DVC repository, or DVC fails.
    """
    tips = dvc_adapter.tips()
    states = TypeAdapter(list[State]).validate_json(dvc_adapter.show_experiments(history))
    cache = dvc_adapter.cache_folder()
    repository = Repository(_read, lambda md5: dvc_adapter.cached_json(cache, md5), _differ)
    if not history:
        for state in states:
            if state.rev not in (WORKSPACE, *tips):
                state.data = None  # what an experiment is based on
    return ranked(collect(states, repository), tips[0], repository)


def collect(states: Sequence[State], repository: Repository) -> list[Experiment]:
    """One per result, in no order. The same dvc.lock is the same result."""
    found: dict[str, Experiment] = {}
    order = ("experiment", "commit", WORKSPACE)  # of names, where several have one result
    for kind, name, rev, state, data in sorted(_entries(states), key=lambda entry: order.index(entry[0])):
        new = Experiment([name] if name else [], [rev], (data.timestamp or "")[:16].replace("T", " "), {})
        lock = repository.read(rev, "dvc.lock") or ""
        files = {file: values.data or {} for file, values in data.params.items()}
        locked = _locked(lock)
        new.metrics, problem = _metrics(repository.read(rev, METRICS))
        if state == "done" and (not locked or problem):
            state = problem or "ran only in part"
        elif state == "done" and (_mixed(data) or (kind == "experiment" and not _run_with(files, locked))):
            state = "ran only in part"
        new.state = state
        if state == "done" and lock in found:
            found[lock].names += new.names
            found[lock].revisions.append(rev)
        elif state == "done":
            new.lock, new.settings = lock, _settings(locked)
            new.hashes = {path: data.deps[path].hash for path in (*SOURCES, *PREPARED, *CODE) if path in data.deps}
            arms = new.metrics.arms if new.metrics else {}
            new.seconds = {arm: _seconds(arm, data, repository) for arm in arms}
            found[lock] = new
        elif kind == "experiment" or (kind == WORKSPACE and locked):
            new.settings, new.metrics = _settings(files), None
            found[rev] = new
    return list(found.values())


def _entries(states: Sequence[State]) -> Iterator[tuple[Kind, str, str, str, Data]]:
    """(kind, name, revision, state, data) of each; a failed one has its base's metrics."""
    for base in states:
        workspace = base.rev == WORKSPACE
        if base.data or base.error or workspace:
            name = WORKSPACE if workspace else base.name or ""
            yield "workspace" if workspace else "commit", name, base.rev, _state(base, None), base.data or Data()
        for group in base.experiments or []:
            tip = group.revs[0]
            name = tip.name or group.name or tip.rev[:7]
            yield "experiment", name, tip.rev, _state(tip, group.executor), tip.data or Data()


def _state(state: State, executor: Executor | None) -> str:
    if executor and executor.state != "success":
        return executor.state
    return f"not readable: {state.error.msg}" if state.error else "done"


def _metrics(text: str | None) -> tuple[Metrics | None, str]:
    """METRICS as it is written, or None and why not."""
    if text is None:
        return None, "ran only in part"
    try:
        return Metrics.model_validate_json(text, strict=False), ""
    except ValidationError:
        return None, "a result of another version"


def _locked(lock: str) -> dict[str, dict[str, Any]]:
    """The params by file that compare last ran with, which is all settings; empty where it has not run."""
    params = dvc_adapter.locked(lock).get("compare", {}).get("params")
    return params if isinstance(params, dict) else {}


def _mixed(data: Data) -> bool:
    """Whether a stage wrote something else since the stage after it ran."""
    deps, outs = data.deps, data.outs
    return any(None is not deps[path].hash != outs[path].hash is not None for path in deps.keys() & outs.keys())


def _run_with(files: dict[str, dict[str, Any]], locked: dict[str, dict[str, Any]]) -> bool:
    """Whether the params that the lock has are those of the files."""
    return all(
        text_of(value_at(files.get(file, {}), key)) == text_of(value)
        for file, values in locked.items()
        for key, value in values.items()
    )


def text_of(value: Any) -> str:
    """A setting as text, the same for equal settings."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _settings(files: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return dict(files.get("params.yaml", {}))


def _seconds(arm: str, data: Data, repository: Repository) -> float | None:
    total = 0.0
    for step in STEPS:
        out = data.outs.get(f"reports/cost/{arm}/{step}.json")
        content = repository.cached(out.hash) if out and out.hash else None
        if content is None:
            return None
        total += Cost.model_validate(content).seconds
    return total


def ranked(experiments: list[Experiment], head: str, repository: Repository) -> list[Experiment]:
    """In order: those comparable with the workspace, else with `head`, else with the newest; then the others.

    An experiment is as good as its best arm is above its reference, in mean Dice over patients.
    """
    done = sorted((e for e in experiments if e.metrics), key=lambda e: e.created, reverse=True)
    firsts = (e for rev in (WORKSPACE, head) for e in done if rev in e.revisions)
    first = next(firsts, done[0] if done else None)
    for one in experiments:
        one.why = _other(one, first, repository) if one.metrics and first else one.state
    order = sorted((e for e in done if not e.why), key=lambda e: -e.best[1].delta if e.best else 0.0)
    for place, one in enumerate(order, start=1):
        one.rank = place
    return [*order, *(e for e in done if e.why), *(e for e in experiments if not e.metrics)]


def _other(one: Experiment, first: Experiment, repository: Repository) -> str:
    """Why `one` cannot be compared with `first`; empty where it can."""
    if one.metrics is None or first.metrics is None or one.best is None:
        return "one arm alone"
    new = {path for path in one.hashes.keys() | first.hashes.keys() if one.hashes.get(path) != first.hashes.get(path)}
    prepared = new & set(PREPARED)  # the sources are also those of a second data set
    data = ("other data" if new & set(SOURCES) else "other split") if prepared else ""
    files = repository.differ(first.revisions[-1], one.revisions[-1]) if new & set(CODE) else []
    code = f"other code ({', '.join(files)})" if files else ""
    same = one.metrics.reference == first.metrics.reference
    reference = "" if same else f"another reference ({one.metrics.reference})"
    return "; ".join(filter(None, (data, code, reference)))


def _read(revision: str, path: str) -> str | None:
    if revision != WORKSPACE:
        return dvc_adapter.file_at(revision, path)
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return None


def _differ(one: str, other: str) -> list[str]:
    known = [revision for revision in (one, other) if revision != WORKSPACE]
    try:
        return dvc_adapter.changed_files(known[0], NUMBERS, *known[1:])
    except UserError:  # a revision that git has no more
        return list(NUMBERS)
