"""What a training says of itself while it runs, for `nightshift watch`: a file in the folder of its checkpoints."""

import os
import platform
from pathlib import Path

import psutil

from nightshift.config.params import ArmSettings
from nightshift.core.io import read_csv
from nightshift.core.records import Record

NAME = "running.json"
CURVE = "curve.csv"  # of one training, beside it: a row per finished epoch
CURVES = ("fold", "seed", "epoch", "train_loss", "val_loss", "val_dice")


class Running(Record):
    """Which training it is, and the process that does it or did.

    `epochs`: at most; `before`: those that were done when the process started; `run`: of DVC's queue, empty in the
    workspace; `started`: of the process, in seconds since 1970, as its number may be given to another one later.
    """

    arm: str
    fold: int
    seed: int
    learning_rate: float
    epochs: int
    before: int
    run: str
    device: str
    host: str
    process: int
    started: float

    @property
    def alive(self) -> bool | None:
        """Whether its process runs; None for one of another machine, or of which this user may not know it."""
        if self.host != platform.node():
            return None
        try:
            return abs(psutil.Process(self.process).create_time() - self.started) < 1
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # on Windows, of a process that is another user's
            return None


def note(folder: Path, settings: ArmSettings, fold: int, device: str) -> None:
    """Write into `folder`, that of its checkpoints, that this process does the training of `settings`."""
    train = settings.train
    Running(
        arm=settings.name,
        fold=fold,
        seed=train.seeds[0],
        learning_rate=train.rate,
        epochs=train.most_epochs,
        before=len(read_csv(folder / CURVE)) if (folder / CURVE).is_file() else 0,
        run=os.environ.get("DVC_EXP_NAME", ""),
        device=device,
        host=platform.node(),
        process=os.getpid(),
        started=psutil.Process().create_time(),
    ).write(folder / NAME)
