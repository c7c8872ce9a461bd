"""Trackers show the numbers of the curve, once each, and nothing of them ends a training or changes its bytes."""

import math
import signal
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from accelerate import tracking
from accelerate.tracking import TensorBoardTracker
from accelerate.utils import LoggerType
from helpers.engine import folded, outputs, stage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nightshift.config import params
from nightshift.config.hardware import Tracker, hardware
from nightshift.config.params import ArmSettings
from nightshift.core.hashing import hash_folder
from nightshift.core.io import read_csv, remove
from nightshift.engine import checkpoints
from nightshift.feature_cache import encode_nothing
from nightshift.jobs import trackers
from nightshift.jobs.trackers import tracked
from nightshift.training import state
from nightshift.training.arm import train_arm

HARDWARE = "device: cpu\nthreads: 1\nprocesses: {}\ntrackers: [{}]\n"
MEASURED = ("train_loss", "val_loss", "val_dice")
CURVE = [
    {"seed": 0, "epoch": epoch, "train_loss": 1 / epoch, "val_loss": 2 / epoch, "val_dice": 0.1 * epoch}
    for epoch in (1, 2, 3)
]
SETTINGS = {"arm": {"rank": 2, "blocks": [0, 1], "init": None}}


def events(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads in the folder of a run: by name (step, value), in the order of the files."""
    read = EventAccumulator(str(run), purge_orphaned_data=False).Reload()
    return {name: [(one.step, one.value) for one in read.Scalars(name)] for name in read.Tags()["scalars"]}


def as_in_the_csv(rows: list[dict[str, str]]) -> dict[str, list[tuple[int, float]]]:
    return {name: [(int(row["epoch"]), float(np.float32(row[name]))) for row in rows] for name in MEASURED}


def runs() -> list[Path]:
    return sorted(path for path in trackers.FOLDER.iterdir() if path.is_dir() and path.name != "mlflow")


def mlflow_runs():
    """All runs in the database beside the runs, with (step, value) of each metric."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{(trackers.FOLDER / 'mlflow.db').absolute().as_posix()}")
    (project,) = [one for one in client.search_experiments() if one.name == trackers.PROJECT]
    found = client.search_runs([project.experiment_id])
    curves = {
        run.info.run_name: {
            name: [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
        for run in found
    }
    assert len(curves) == len(found)
    return found, curves


def test_hardware_yaml_has_the_names_of_accelerate():
    assert set(get_args(Tracker)) == set(LoggerType.list())


def wanted(*names: str, processes: int = 1) -> None:
    Path("hardware.yaml").write_text(HARDWARE.format(processes, ", ".join(names)))
    hardware.cache_clear()


def removed(arm: str) -> None:
    """Its training and its models, so that it is trained again."""
    remove(checkpoints.FOLDER / f"train@{arm}")
    remove(Path("models") / arm)


@pytest.fixture
def unet(project) -> ArmSettings:
    """Settings of an arm that trains in a second: three epochs of three steps."""
    encode_nothing("unet")
    return params.read().arm("unet")


def test_a_resumed_training_has_each_epoch_once_and_the_same_bytes(unet, monkeypatch):
    train_arm(unet)
    expected = hash_folder(Path("models/unet"))
    assert not trackers.FOLDER.exists()  # none by default
    removed("unet")
    wanted("tensorboard")
    with monkeypatch.context() as patch:
        steps, step = iter(range(1, 10)), state.TrainingState.step

        def stopped(*arguments):
            if next(steps) == 5:
                raise checkpoints.Interrupted("stopped")
            return step(*arguments)

        patch.setattr(state.TrainingState, "step", stopped)
        with pytest.raises(checkpoints.Interrupted):
            train_arm(unet)
    (run,) = runs()
    assert [len(values) for values in events(run).values()] == [1, 1, 1]
    train_arm(unet)
    assert hash_folder(Path("models/unet")) == expected
    (training,) = (checkpoints.FOLDER / "train@unet").iterdir()
    assert runs() == [run] and run.name == f"unet-seed-0-{training.name[:8]}"
    rows = read_csv("reports/curves/unet.csv")
    assert len(rows) == 3 and events(run) == as_in_the_csv(rows)


def test_a_tracker_that_breaks_is_one_line_and_the_training_ends_with_the_same_bytes(unet, monkeypatch, capsys):
    """Here it breaks in the second epoch; another one goes on."""
    train_arm(unet)
    expected = hash_folder(Path("models/unet"))
    removed("unet")
    log, epochs = TensorBoardTracker.log, iter((True, False))

    def breaks(*arguments, **options):
        if not next(epochs):
            raise OSError("No space\nleft on device")
        log(*arguments, **options)

    monkeypatch.setattr(TensorBoardTracker, "log", breaks)
    wanted("tensorboard", "wandb")
    capsys.readouterr()
    train_arm(unet)
    said = [line for line in capsys.readouterr().out.splitlines() if "does not show" in line]
    assert said == [
        "unet, seed 0: wandb does not show this training: not installed; python -m pip install wandb",
        "unet, seed 0: tensorboard does not show this training: No space left on device",
    ]
    assert hash_folder(Path("models/unet")) == expected
    assert [len(values) for values in events(runs()[0]).values()] == [1, 1, 1]


@pytest.mark.parametrize("method", ["start", "store_init_configuration", "log", "finish"])
def test_wherever_a_tracker_breaks_it_is_one_line(checkout, monkeypatch, capsys, method):
    def breaks(*_, **__):
        raise RuntimeError

    monkeypatch.setattr(TensorBoardTracker, method, breaks)
    wanted("tensorboard")
    with tracked("lora, seed 0", "0" * 16, {"epochs": 3}) as track:
        for end in (1, 2, 3):
            track(CURVE[:end])
    assert capsys.readouterr().out == "lora, seed 0: tensorboard does not show this training: RuntimeError\n"


def test_without_the_package_it_is_one_line(checkout, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "_available_trackers", [])
    wanted("tensorboard", "tensorboard")
    with tracked("lora, seed 0", "0" * 16, {}) as track:
        track(CURVE)
    said = "lora, seed 0: tensorboard does not show this training: not installed; python -m pip install tensorboard\n"
    assert capsys.readouterr().out == said
    wanted("all")
    with tracked("lora, seed 0", "0" * 16, {}) as track:
        track(CURVE)
    assert capsys.readouterr().out == "" and not trackers.FOLDER.exists()


def test_a_tracker_that_comes_later_has_all_epochs(checkout, monkeypatch):
    """And MLflow's run is the same one after a resume; a step without a number is left out."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # restored afterwards
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    untrained = [CURVE[0] | {"train_loss": math.nan}, *CURVE[1:]]
    for names, end in ((["tensorboard"], 1), (["tensorboard", "mlflow"], 2), (["tensorboard", "mlflow"], 3)):
        wanted(*names)
        with tracked("lora, fold 0, seed 0, learning rate 1e-05", "ab" * 8, SETTINGS) as track:
            track(untrained[:end])
    (run,) = runs()
    assert run.name == "lora-fold-0-seed-0-learning-rate-1e-05-abababab"
    assert [step for step, _ in events(run)["train_loss"]] == [2, 3]
    (found,), curves = mlflow_runs()
    expected = {name: [(row["epoch"], round(row[name], 6)) for row in untrained] for name in MEASURED}
    expected["train_loss"] = expected["train_loss"][1:]
    assert curves == {run.name: expected} and found.info.status == "FINISHED"
    assert found.data.params == {"arm.rank": "2", "arm.blocks": "[0, 1]", "arm.init": "null"}


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_in_its_run(project):
    for name in ("encode@lora", "train@lora"):
        assert stage(name).returncode == 0
    expected = outputs("lora")
    removed("lora")
    wanted("tensorboard", "mlflow")
    killed = stage("train@lora", "step", 5)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = stage("train@lora")
    assert again.returncode == 0 and "does not show" not in again.stdout, again.stdout + again.stderr
    assert outputs("lora") == expected
    rows = read_csv("reports/curves/lora.csv")
    (run,) = runs()
    assert len(rows) == 3 and events(run) == as_in_the_csv(rows)
    (found,), curves = mlflow_runs()
    assert curves[run.name] == {name: [(int(row["epoch"]), float(row[name])) for row in rows] for name in MEASURED}
    assert found.data.params["arm.rank"] == "2" and found.info.status == "FINISHED"


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 4])
def test_several_processes_have_one_run_for_each_training(project, change, count):
    """Three folds are trained by two processes that are joined, four by each of them alone."""
    folded(change, count, "frozen")
    wanted("tensorboard", "mlflow", processes=2)
    done = stage("train@frozen")
    assert done.returncode == 0 and "does not show" not in done.stdout, done.stdout + done.stderr
    rows = read_csv("reports/curves/frozen.csv")
    shown = [events(run) for run in runs()]
    assert shown == [as_in_the_csv([row for row in rows if row["fold"] == str(fold)]) for fold in range(count)]
    assert len(mlflow_runs()[0]) == count
