"""`nightshift leaderboard --mlflow URI`: finished experiments as runs of MLflow. Nothing is read back from there.

A result is known by its dvc.lock, as in the leaderboard: its run has the hash as a tag, and is not made a second time.
"""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nightshift.commands import dvc_adapter
from nightshift.commands.experiments import Experiment, text_of
from nightshift.config.yaml_io import dotted
from nightshift.console.errors import UserError
from nightshift.core.io import read_csv
from nightshift.reporting.records import Against, ArmDice, Interval

if TYPE_CHECKING:
    from mlflow import MlflowClient

PACKAGE = "mlflow==3.17.2"
PROJECT = "nightshift"  # MLflow's experiment; that of the trackers is another one
LOCK, LEFT_OUT = "nightshift.lock", "nightshift.left_out"  # tags of a run
REPORT = "reports/comparison/report.html"
MEASURED = ("train_loss", "val_loss", "val_dice")  # columns of a curve
BATCH = 100  # params or metrics at once: MLflow takes no more params


def export(found: Sequence[Experiment], uri: str) -> None:
    """Make a run of every experiment that is finished and has none at `uri`, a tracking URI.

    Raises UserError: no MLflow here, and whatever MLflow says is wrong.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        raise UserError(f"--mlflow: MLflow is not installed; python -m pip install {PACKAGE}") from None
    finished, cache = [one for one in found if one.metrics], dvc_adapter.cache_folder()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of 7, which take four minutes
    try:
        client = MlflowClient(uri)
        project = _project(client, uri)
    except Exception as error:  # of SQLAlchemy, for one: what is wrong is the URI
        raise UserError(f"--mlflow {uri}: {str(error).splitlines()[0]}") from None
    try:
        new = sum(_exported(client, project, one, cache) for one in finished)
    except MlflowException as error:
        raise UserError(f"--mlflow {uri}: {error}; the same command goes on from there") from None
    print(f"{new} of {len(finished)} experiments exported to {uri}, the others were there")


def _project(client: "MlflowClient", uri: str) -> str:
    """The id of MLflow's experiment. Artifacts lie beside a SQLite file, and elsewhere where the server puts them."""
    if known := client.get_experiment_by_name(PROJECT):
        return known.experiment_id
    file = uri.removeprefix("sqlite:///")
    beside = (Path(file).absolute().parent / "mlflow-artifacts").as_uri() if file != uri else None
    return client.create_experiment(PROJECT, artifact_location=beside)


def _exported(client: "MlflowClient", project: str, one: Experiment, cache: Path) -> bool:
    """Make the run of an experiment: False where it is there, with all files that DVC's cache has."""
    files = dict(_files(one, cache))
    name, missing = ", ".join(one.names) or one.revision, [path for path, file in files.items() if not file.is_file()]
    tags = {LOCK: hashlib.sha256(one.lock.encode()).hexdigest(), LEFT_OUT: ", ".join(missing), **_tags(one)}
    for run in client.search_runs([project], f"tags.`{LOCK}` = '{tags[LOCK]}'"):
        if run.info.status == "FINISHED" and run.data.tags.get(LEFT_OUT) == tags[LEFT_OUT]:
            return False
        client.delete_run(run.info.run_id)  # was not finished, or the cache has other files now
    if missing:
        print(f"{name}: left out, as DVC's cache has them no more: {', '.join(missing)}")
    run_id = client.create_run(project, tags=tags, run_name=name).info.run_id
    _log(client, run_id, one, {path: file for path, file in files.items() if path not in missing})
    client.set_terminated(run_id)
    return True


def _files(one: Experiment, cache: Path) -> Iterator[tuple[str, Path]]:
    """What is exported from DVC's cache: the path in the project, and where it lies if it does."""
    made = dvc_adapter.files_of(dvc_adapter.locked(one.lock), "outs")
    arms = one.metrics.arms if one.metrics else {}
    for path in (*(f"reports/curves/{arm}.csv" for arm in arms), REPORT):
        yield path, dvc_adapter.cached(cache, made.get(path, ""))


def _tags(one: Experiment) -> dict[str, str]:
    assert one.metrics is not None  # it is finished
    texts = {"reference": one.metrics.reference, "verdict": one.metrics.verdict, "recommended": one.metrics.recommended}
    verdicts = {f"{arm}.verdict": against.verdict for arm, against in one.metrics.against.items()}
    known = {key: text for key, text in (texts | verdicts).items() if text}
    return known | {"nightshift.revision": one.revision, "nightshift.created": one.created}


def _log(client: "MlflowClient", run_id: str, one: Experiment, files: Mapping[str, Path]) -> None:
    """Write the settings, the numbers, the curves and the report into a run."""
    from mlflow.entities import Metric, Param

    now = int(time.time() * 1000)
    params = [Param(key, text_of(value)) for key, value in dotted(one.settings) if not isinstance(value, dict)]
    points = [(key, value, 0) for key, value in _numbers(one).items()]
    points += [point for path, file in files.items() if path != REPORT for point in _points(Path(path).stem, file)]
    metrics = [Metric(key, value, now, step) for key, value, step in points]
    for start in range(0, max(len(params), len(metrics)), BATCH):
        end = start + BATCH
        client.log_batch(run_id, metrics=metrics[start:end], params=params[start:end])
    if REPORT in files:
        with tempfile.TemporaryDirectory() as folder:
            client.log_artifact(run_id, shutil.copyfile(files[REPORT], Path(folder) / Path(REPORT).name))


def _numbers(one: Experiment) -> dict[str, float]:
    """All numbers of the comparison that there are; `external/` has those of a second data set."""
    assert one.metrics is not None  # it is finished
    numbers: dict[str, float | None] = {f"{arm}/seconds": seconds for arm, seconds in one.seconds.items()}
    for above, metrics in (("", one.metrics), ("external/", one.metrics.external)):
        if metrics is not None:
            numbers |= {f"{above}cases": metrics.cases, f"{above}patients": metrics.patients}
            numbers |= _of_arms(above, metrics.arms, metrics.against)
    numbers |= {"folds": one.metrics.folds, "seeds": one.metrics.seeds}
    return {key: value for key, value in numbers.items() if value is not None}


def _of_arms(above: str, arms: Mapping[str, ArmDice], against: Mapping[str, Against]) -> dict[str, float | None]:
    numbers: dict[str, float | None] = {}
    for arm, own in arms.items():
        numbers |= _with_interval(f"{above}{arm}/dice", own.dice, own.ci95)
    for arm, other in against.items():
        numbers |= _with_interval(f"{above}{arm}/delta", other.delta, other.ci95)
        numbers |= {f"{above}{arm}/p": other.p, f"{above}{arm}/p_holm": other.p_holm}
    return numbers


def _with_interval(key: str, value: float, interval: Interval) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {key: value, f"{key}_low": low, f"{key}_high": high}


def _points(arm: str, curve: Path) -> Iterator[tuple[str, float, int]]:
    """(name, value, epoch) of each number in an arm's curves."""
    for row in read_csv(curve):
        for name in MEASURED:
            if row[name]:
                key = f"{arm}/fold-{row['fold']}/seed-{row['seed']}/{name}"
                yield key, float(row[name]), int(row["epoch"])
