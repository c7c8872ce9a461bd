"""Every result of the repository, as `dvc exp show` knows them: what is comparable, in which order, what differs.

DVC's own table is not enough for two things. It leaves lists out of metrics, so intervals are read from the metrics
file of each revision. And its params are those that a revision's files name, though a part of the pipeline may have
run, or none after an edit: settings are read from dvc.lock, which has those that the numbers were made with.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nightshift.console.errors import UserError
from nightshift.config.yaml_io import at, parse

ARMS = ("frozen", "lora")
STEPS = ("encode", "train", "evaluate")
METRICS = "reports/comparison/metrics.json"
INVENTORY = "data/inventory.json"
SPLITS = ("data/prepared/train", "data/prepared/val", "data/prepared/test")
CODE = ("nightshift/evaluation/measures.py", "nightshift/evaluation/evaluate.py", "nightshift/reporting/significance.py")  # what makes the numbers
WORKSPACE = "workspace"  # DVC's name for it, where a revision has a hash

Params = dict[str, dict[str, Any]]  # by file, as the file has them; in dvc.lock a key may be dotted
Settings = dict[str, dict[str, str]]  # by section of params.yaml or file of conf/, values as text
Read = Callable[[str, str], str | None]  # the text of a file at a revision, None where it has no such file
Cached = Callable[[str], dict[str, Any] | None]  # the JSON object of this hash, None where DVC's cache has none


@dataclass
class Experiment:
    """A result, or an experiment that has none (yet).

    `revisions`: all that hold this very result, full hashes or WORKSPACE; `names`: experiments, branches, workspace;
    `created`: local time, empty for the workspace; `metrics`: of METRICS, None without a result, and `state` says why;
    `seconds`: by arm, encoding to evaluation, None where not on record here; `rank`: from 1, None with `why` not.
    """

    names: list[str]
    revisions: list[str]
    created: str
    settings: Settings
    hashes: dict[str, str | None] = field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    state: str = "done"
    seconds: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(ARMS))
    rank: int | None = None
    why: str = ""

    @property
    def revision(self) -> str:
        """Seven digits; empty for what is only in the workspace."""
        return next((rev[:7] for rev in self.revisions if rev != WORKSPACE), "")


def load() -> list[Experiment]:
    """All experiments of the repository that the current folder is the root of, ranked.

    Raises UserError: no git or DVC repository, or DVC fails.
    """
    head = _output("git", "rev-parse", "--verify", "HEAD").strip()
    states = json.loads(_output(sys.executable, "-m", "dvc", "exp", "show", "--json", "--all-commits"))
    cache = Path(_output(sys.executable, "-m", "dvc", "cache", "dir").strip()) / "files" / "md5"
    return ranked(collect(states, _read, lambda md5: _cached(cache / md5[:2] / md5[2:])), head)


def collect(states: list[dict[str, Any]], read: Read, cached: Cached) -> list[Experiment]:
    """One per result, in no order, from the JSON of `dvc exp show`. The same dvc.lock is the same result."""
    found: dict[str, Experiment] = {}
    order = ("experiment", "commit", WORKSPACE)  # of names, where several have one result
    for kind, name, rev, state, data in sorted(_entries(states), key=lambda entry: order.index(entry[0])):
        new = Experiment([name] if name else [], [rev], (data.get("timestamp") or "")[:16].replace("T", " "), {})
        lock = read(rev, "dvc.lock") or ""
        params = {file: values.get("data") or {} for file, values in data.get("params", {}).items()}
        locked = _locked(lock)
        metrics = _metrics(read(rev, METRICS)) if locked else None
        if state == "done" and metrics is None:
            state = "no results"
        elif state == "done" and (_mixed(data) or (kind == "experiment" and not _run_with(params, locked))):
            state = "ran only in part"
        if state == "done" and lock in found:
            found[lock].names += new.names
            found[lock].revisions.append(rev)
        elif state == "done":
            new.settings, new.metrics = _settings(locked), metrics
            new.hashes = {path: data["deps"].get(path, {}).get("hash") for path in (INVENTORY, *SPLITS, *CODE)}
            new.seconds = {arm: _seconds(arm, data["outs"], cached) for arm in ARMS}
            found[lock] = new
        elif kind == "experiment" or (kind == WORKSPACE and state != "no results"):
            new.settings, new.state = _settings(params), state
            found[rev] = new
    return list(found.values())


def _entries(states: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, str, dict[str, Any]]]:
    """(experiment, commit or workspace, name, revision, state, data) of each; a failed one has its base's metrics."""
    for base in states:
        kind = WORKSPACE if base["rev"] == WORKSPACE else "commit"
        name = WORKSPACE if kind == WORKSPACE else base["name"] or ""
        yield kind, name, base["rev"], _state(base, None), base["data"] or {}
        for group in base["experiments"] or []:
            tip = group["revs"][0]
            name = tip["name"] or group["name"] or tip["rev"][:7]
            yield "experiment", name, tip["rev"], _state(tip, group["executor"]), tip["data"] or {}


def _state(state: dict[str, Any], executor: dict[str, Any] | None) -> str:
    if executor and executor["state"] != "success":
        return executor["state"]
    return f"not readable: {state['error']['msg']}" if state["error"] else "done"


def _metrics(text: str | None) -> dict[str, Any] | None:
    """METRICS as it is written, None where it is not what compare writes."""
    try:
        metrics = json.loads(text or "null")
        numbers = [metrics["dice"][key] for key in (*ARMS, "delta", "p")]
    except (ValueError, KeyError, TypeError):
        return None
    return metrics if all(isinstance(number, int | float) for number in numbers) else None


def _locked(lock: str) -> Params:
    """What compare last ran with, which is all settings; empty where it has not run."""
    try:
        return parse(lock)["stages"]["compare"]["params"]
    except (yaml.YAMLError, KeyError, TypeError):
        return {}


def _mixed(data: dict[str, Any]) -> bool:
    """Whether a stage wrote something else since the stage after it ran."""
    deps, outs = data["deps"], data["outs"]
    return any(None is not deps[path]["hash"] != outs[path]["hash"] is not None for path in deps.keys() & outs.keys())


def _run_with(params: Params, locked: Params) -> bool:
    """Whether the params that the lock has are those of the files."""
    return all(
        _text(at(params.get(file, {}), key)) == _text(value)
        for file, values in locked.items()
        for key, value in values.items()
    )


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _settings(params: Params) -> Settings:
    found: Settings = {}
    for file, values in params.items():
        if file.startswith("conf/"):
            found[file] = {key: _text(value) for key, value in values.items()}
        elif file == "params.yaml":
            for key, value in values.items():
                section, _, rest = key.partition(".")
                inner = {rest: value} if rest or not isinstance(value, dict) else value
                found.setdefault(section, {}).update({name: _text(v) for name, v in inner.items()})
    return found


def _seconds(arm: str, outs: dict[str, Any], cached: Cached) -> float | None:
    hashes = [outs.get(f"reports/cost/{step}_{arm}.json", {}).get("hash") for step in STEPS]
    costs = [cached(md5) if md5 else None for md5 in hashes]
    return sum(cost["seconds"] for cost in costs if cost) if all(cost and "seconds" in cost for cost in costs) else None


def ranked(experiments: list[Experiment], head: str) -> list[Experiment]:
    """In order: by difference those comparable with the workspace, else `head`, else the newest; then the others."""
    done = sorted((e for e in experiments if e.metrics), key=lambda e: e.created, reverse=True)
    firsts = (e for rev in (WORKSPACE, head) for e in done if rev in e.revisions)
    reference = next(firsts, done[0] if done else None)
    for one in experiments:
        one.why = _other(one, reference) if one.metrics and reference else one.state
    order = sorted((e for e in done if not e.why), key=lambda e: -e.metrics["dice"]["delta"])
    for place, one in enumerate(order, start=1):
        one.rank = place
    return [*order, *(e for e in done if e.why), *(e for e in experiments if not e.metrics)]


def _other(one: Experiment, reference: Experiment) -> str:
    """Why `one` cannot be compared with the reference; empty where it can."""
    new = {path for path in one.hashes if one.hashes[path] != reference.hashes[path]}
    code = [Path(path).name for path in CODE if path in new]
    data = "other data" if INVENTORY in new else "other split" if new & set(SPLITS) else ""
    return "; ".join(text for text in (data, f"other code ({', '.join(code)})" if code else "") if text)


def differing(experiments: list[Experiment]) -> dict[str, list[str]]:
    """Settings that are not equal in all, named as `dvc exp run -S` takes them: the text of each experiment.

    Those of a preset are compared among the experiments that use it: that others do not is in `use`.
    """
    found: dict[str, list[str]] = {}
    for section in dict.fromkeys(section for one in experiments for section in one.settings):
        having = [one.settings[section] for one in experiments if section in one.settings]
        for key in dict.fromkeys(key for values in having for key in values):
            if len({values.get(key) for values in having}) > 1:
                name = f"{section}:{key}" if section.startswith("conf/") else f"{section}.{key}".rstrip(".")
                found[name] = [one.settings.get(section, {}).get(key, "") for one in experiments]
    return found


def _read(revision: str, path: str) -> str | None:
    try:
        if revision == WORKSPACE:
            return Path(path).read_text(encoding="utf-8")
        return _output("git", "show", f"{revision}:./{path}")
    except (OSError, UserError):
        return None


def _cached(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _output(*command: str) -> str:
    """Raises UserError with the last line that the command said."""
    try:
        return subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    except FileNotFoundError:
        raise UserError(f"{command[0]} is not installed, or not on the PATH") from None
    except subprocess.CalledProcessError as error:
        said = (error.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")
        raise UserError(f"`{' '.join(command[:5])}` failed: {said}") from None
