"""The state of one training: where it is, its checkpoints, one step, and the end of an epoch."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nightshift.config.sections import Patience, Train
from nightshift.console.errors import UserError
from nightshift.console.progress import say
from nightshift.data.samples import TrainingCases
from nightshift.engine import checkpoints, distributed
from nightshift.model.base import ArmModel
from nightshift.model.predictor import THRESHOLDS
from nightshift.training.average import Average
from nightshift.training.step import add_gradients, learning_rate_factor, micro_batch_size, optimiser_of
from nightshift.training.validation import validate

EPOCH_STRIDE = 10**6  # checkpoints are numbered epoch * EPOCH_STRIDE + batch: more than an epoch has batches


@dataclass(frozen=True)
class Trained:
    """What training chose; the model holds the parameters of that epoch. `curves`: a row per epoch.

    `seconds`: that it took; `before`: how many of them in processes that were stopped or killed.
    """

    epoch: int
    threshold: float
    val_dice: float
    curves: list[dict[str, float]]
    seconds: float
    before: float


@dataclass
class Progress:
    """How far a training is: `batch` batches of `epoch` are done.

    `losses`: summed over the cases of each batch of this epoch; `curves`: a row per finished epoch; `best`: the best
    epoch so far (epoch, threshold, val_dice); `scaler`: state of float16's gradient scaler; `seconds`: spent, in this
    process and in earlier ones that were stopped or killed.
    """

    epoch: int
    batch: int
    losses: list[float]
    curves: list[dict[str, float]]
    best: dict[str, Any] | None
    scaler: dict[str, float]
    seconds: float


class TrainingState:
    """A model being trained with one seed, and its checkpoints in `folder`."""

    def __init__(self, model: ArmModel, settings: Train, seed: int, device: torch.device, folder: Path) -> None:
        self.model, self.settings, self.seed = model.to(device), settings, seed
        self.device, self.folder = device, folder
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimiser = optimiser_of(model, settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=model.precision == "fp16")
        self.scaler.scale(torch.zeros((), device=device))  # sets it up, also where this process has no case in a batch
        self.progress = Progress(1, 0, [], [], None, {}, 0.0)
        self.best: dict[str, Tensor] = {}
        self.average = Average(self.parameters, settings.ema)
        self.saved_at = time.monotonic()

    def save(self) -> None:
        """Parameters, optimiser, random state, the best so far, and the progress."""
        tensors = {f"parameter.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        tensors |= {f"average.{name}": value for name, value in self.average.values.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{key}": value for key, value in state.items()}
        for rank, states in enumerate(distributed.of_all(self._random())):
            tensors |= {f"random.{rank}.{i}": state for i, state in enumerate(states)}
        step = self.progress.epoch * EPOCH_STRIDE + self.progress.batch
        self.progress.scaler = self.scaler.state_dict()
        self.progress.seconds += time.monotonic() - self.saved_at
        if distributed.rank() == 0:
            checkpoints.save(self.folder, step, {k: v.cpu() for k, v in tensors.items()}, vars(self.progress))
        self.saved_at = time.monotonic()

    def _random(self) -> list[Tensor]:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return [torch.get_rng_state(), *cuda]

    def resume(self) -> bool:
        """Load the last checkpoint, which the first process has; whether there is one."""
        found = distributed.of_first(checkpoints.latest(self.folder) if distributed.rank() == 0 else None)
        if found is None:
            return False
        tensors, values = found
        self.progress = Progress(**values)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(self.progress.scaler)
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tensors[f"parameter.{name}"])
        self.best = {name: tensors[f"best.{name}"] for name in self.parameters if f"best.{name}" in tensors}
        self.average.load({name: tensors[f"average.{name}"] for name in self.average.values})
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, i, key = name.split(".")
                state.setdefault(int(i), {})[key] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors[f"random.{distributed.rank()}.0"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"random.{distributed.rank()}.1"], self.device)
        if distributed.rank() == 0 and not self.finished:
            say(f"seed {self.seed}: going on in epoch {self.progress.epoch}, after {self.progress.batch} batches")
        return True

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or the best one is as long ago as `patience` of `epochs` says."""
        done, epochs = self.progress.epoch - 1, self.settings.epochs
        if isinstance(epochs, Patience) and self.progress.best is not None:
            return done >= min(epochs.at_most, self.progress.best["epoch"] + epochs.patience)
        return done >= self.settings.most_epochs

    def step(
        self,
        indices: list[int],
        batch: dict[str, Tensor],
        step: int,
        steps: int,
        cases: TrainingCases,
        asked: Callable[[], list[bool]],
    ) -> list[bool]:
        """Train on one batch, of which this process takes its share.

        Args:
            indices: cases of the whole batch.
            batch: the share of this process on the device, empty for none.
            step: number of this step, of `steps` in all; they give the learning rate.
            cases: of which the batch is.
            asked: questions to all processes, asked during the step.

        Returns:
            For each question, whether any process says yes.

        Raises:
            UserError: naming the cases of the batch, when the loss is not finite.
        """
        for group in self.optimiser.param_groups:
            rate = self.settings.rate * group["factor"]
            group["lr"] = rate * learning_rate_factor(step, steps, self.settings.warmup)
        self.optimiser.zero_grad()
        loss = torch.zeros((), device=self.device)
        if batch:
            epoch = self.progress.epoch
            loss = add_gradients(self.model, batch, self.settings, len(indices), epoch, self.scaler.scale)
        answers = [torch.full((), float(yes), device=self.device) for yes in asked()]
        summed = torch.stack((loss, *answers))
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()]
        for p, gradient in zip(self.parameters.values(), gradients, strict=True):
            p.grad = gradient
        distributed.add_up([summed, *gradients])
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm)
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() >= 1  # float16: it skips the step, scales less
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update(step)
        mean, *said, longest = torch.cat((summed, norm[None])).tolist()  # the one wait for the GPU: all is under way
        if not math.isfinite(mean) or not (math.isfinite(longest) or overflow):
            names = ", ".join(cases.cases.rows[i % len(cases)]["case_id"] for i in indices)
            where = f"in epoch {self.progress.epoch}, cases {names}"
            raise UserError(f"the loss is not finite {where}; look at these, or lower train.learning_rate")
        self.progress.losses.append(mean * len(indices))
        self.progress.batch += 1
        return [yes > 0 for yes in said]

    def end_epoch(self, train_cases: TrainingCases, val_cases: TrainingCases) -> None:
        """Validate, add a row to the curves, keep the best parameters; with the average of them, where there is one."""
        with self.average.in_use():
            self._end_epoch(train_cases, val_cases)

    def _end_epoch(self, train_cases: TrainingCases, val_cases: TrainingCases) -> None:
        progress, size = self.progress, micro_batch_size(self.settings)
        cldice = self.settings.cldice(progress.epoch)
        val_loss, dice = validate(self.model, val_cases, size, self.device, cldice)
        if not math.isfinite(val_loss):
            raise UserError(f"the validation loss is not finite in epoch {progress.epoch}; lower train.learning_rate")
        top = int(dice.argmax())
        row = {"seed": self.seed, "epoch": progress.epoch, "train_loss": sum(progress.losses) / len(train_cases)}
        progress.curves.append(row | {"val_loss": val_loss, "val_dice": float(dice[top])})
        if progress.best is None or dice[top] > progress.best["val_dice"]:
            progress.best = {"epoch": progress.epoch, "threshold": THRESHOLDS[top], "val_dice": float(dice[top])}
            for name, p in self.parameters.items():  # one by one: all of them may be a third of the memory
                self.best[name] = p.detach().cpu().clone()
        progress.epoch, progress.batch, progress.losses = progress.epoch + 1, 0, []
