"""Shows trainings in TensorBoard, MLflow and what else accelerate knows: `trackers` of hardware.yaml.

    .nightshift/trackers/RUN/...      of one training, below DVC_ROOT: TensorBoard's events, and how far each tracker is
    .nightshift/trackers/mlflow.db    MLflow's, where MLFLOW_TRACKING_URI names no other place

They have the numbers of the curve and no others, and nothing depends on them. A tracker that is not installed, or that
raises anything, is left out of the training with one line, and the training goes on.
"""

import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from nightshift.config.hardware import hardware
from nightshift.config.yaml_io import dotted
from nightshift.console.progress import say
from nightshift.core.project import root
from nightshift.core.records import Record
from nightshift.engine import distributed

FOLDER = Path(".nightshift/trackers")
PROJECT = "nightshift-trainings"  # where a tracker sorts its runs by project
RESUMED = ("tensorboard", "mlflow", "wandb", "trackio", "dvclive")  # a second process can go on in a run of theirs
DIGITS = 8  # of the fingerprint, in the name of a run
STARTS = 60  # seconds to wait for another process that starts a tracker: two at once would both make MLflow's project
PLACE = ("fold", "seed", "epoch")  # keys of a row that are no measurements

Curves = list[dict[str, float]]


class Shown(Record):
    """How many rows of a curve a tracker has, and MLflow's name of the run."""

    rows: int = 0
    run_id: str | None = None


@contextmanager
def tracked(label: str, identity: str, settings: Mapping[str, Any]) -> Iterator[Callable[[Curves], None]]:
    """Yield a function that takes the curve of a training so far, a row per epoch, and shows the rows that are new.

    It does nothing in any but the first of the processes that share the training.

    Args:
        label: of the training, for messages, and with digits of `identity` the name of its run.
        identity: its fingerprint; a training that is resumed goes on in its run.
        settings: of the training.
    """
    names = _names() if distributed.rank() == 0 else []
    trackers = [_Tracker(name, label, identity, settings) for name in names]

    def track(curves: Curves) -> None:
        for one in trackers:
            one.show(curves)

    try:
        yield track
    finally:
        for one in trackers:
            one.finish()


def _names() -> list[str]:
    """The trackers of hardware.yaml, each once."""
    names: list[str] = list(dict.fromkeys(hardware().trackers))
    if "all" not in names:
        return names
    from accelerate.tracking import get_available_trackers

    return [str(name) for name in get_available_trackers()]


class _Tracker:
    """One of accelerate's trackers in one training. After its first error it does nothing any more."""

    def __init__(self, name: str, label: str, identity: str, settings: Mapping[str, Any]) -> None:
        self.name, self.label = name, label
        self.run = re.sub("[ ,]+", "-", f"{label} {identity[:DIGITS]}")
        self.folder = root().absolute() / FOLDER / self.run
        self.note = self.folder / f"{name}.json"
        self.tracker: Any = None
        with self._left_out_after_an_error():
            self._start(settings)

    @contextmanager
    def _left_out_after_an_error(self) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            say(f"{self.label}: {self.name} does not show this training: {reason}")
            tracker, self.tracker = self.tracker, None
            with suppress(Exception):  # MLflow starts no other run before the end of this one
                tracker.finish()

    def _start(self, settings: Mapping[str, Any]) -> None:
        from accelerate import tracking

        if self.name not in map(str, tracking.get_available_trackers()):
            raise ModuleNotFoundError(f"not installed; python -m pip install {self.name}")
        # accelerate's own logger wants a PartialState, which would wait for processes that train by themselves.
        tracking.logger = logging.getLogger(tracking.__name__)
        before = self.name in RESUMED and self.note.is_file()
        self.shown = Shown.read(self.note) if before else Shown()
        self.tracker = tracking.LOGGER_TYPE_TO_CLASS[self.name](**self._arguments())
        self.tracker.main_process_only = False  # as above: this is the first process, or one by itself
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.parent / "lock", timeout=STARTS):
            self.tracker.start()
        if not before:
            self.tracker.store_init_configuration(
                {key: _simple(value) for key, value in dotted(dict(settings)) if not isinstance(value, dict)}
            )
        run_id = self.tracker.tracker.info.run_id if self.name == "mlflow" else None
        self._note(Shown(rows=self.shown.rows, run_id=run_id))

    def _arguments(self) -> dict[str, Any]:
        """For the tracker's class: it names its run as we do, and goes on in it where it can."""
        if self.name == "mlflow":
            database = self.folder.parent / "mlflow.db"
            local = os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{database.as_posix()}")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # of 7, which take four minutes
            files = (self.folder.parent / "mlflow").as_uri() if local.endswith(database.as_posix()) else None
            names = {"experiment_name": PROJECT, "run_name": self.run}
            return {**names, "run_id": self.shown.run_id, "logging_dir": files}
        resumed = {"run_name": PROJECT, "name": self.run, "resume": "allow"}
        others: dict[str, dict[str, Any]] = {
            "tensorboard": {"run_name": self.run, "logging_dir": self.folder.parent},
            "aim": {"run_name": self.run, "logging_dir": self.folder.parent},
            "wandb": {**resumed, "id": self.run, "dir": self.folder},
            "trackio": resumed,
            # Not into the workspace, and no experiment of DVC.
            "dvclive": {"dir": str(self.folder / "dvclive"), "resume": True, "save_dvc_exp": False, "dvcyaml": None},
        }
        return others.get(self.name, {"run_name": self.run})

    def show(self, curves: Curves) -> None:
        """Show the rows of the curve so far that are not shown yet."""
        if self.tracker is None or len(curves) <= self.shown.rows:
            return
        with self._left_out_after_an_error():
            for row in curves[self.shown.rows :]:
                values = {key: round(value, 6) for key, value in row.items() if key not in PLACE}  # as the CSV has them
                known = {key: value for key, value in values.items() if not math.isnan(value)}
                self.tracker.log(known, step=int(row["epoch"]))
            self._note(self.shown.model_copy(update={"rows": len(curves)}))

    def _note(self, shown: Shown) -> None:
        self.shown = shown
        shown.write(self.note)

    def finish(self) -> None:
        """End the run, which a later process may go on with."""
        if self.tracker is not None:
            with self._left_out_after_an_error():
                self.tracker.finish()


def _simple(value: Any) -> bool | float | str:
    """A setting as trackers take it: no lists, and no null."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)
