"""One arm being trained with one seed: its place in the run, a step, the end of an epoch, saving and going on."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from nightshift.engine import checkpoints
from nightshift.engine import distributed as ranks
from nightshift.model.segmentation import Arm, ArmCases
from nightshift.console.errors import UserError
from nightshift.evaluation.measures import THRESHOLDS
from nightshift.console.progress import say
from nightshift.config.params import Train
from nightshift.training.step import add_gradients, at_once, learning_rate_factor, optimiser_of, validate


@dataclass
class Place:
    """Where a run is: `batch` batches of `epoch` are done; losses, curves, best epoch so far, time spent."""

    epoch: int
    batch: int
    losses: list[float]
    curves: list[dict[str, Any]]
    best: dict[str, Any] | None
    scaler: dict[str, float]
    seconds: float  # that all this took, in this process and in those before it that were stopped or killed


class Run:
    """One arm being trained with one seed, and its checkpoints in `folder`."""

    def __init__(self, arm: Arm, settings: Train, seed: int, device: torch.device, folder: Path) -> None:
        self.arm, self.settings, self.seed, self.device, self.folder = arm.to(device), settings, seed, device, folder
        self.parameters = {name: p for name, p in arm.named_parameters() if p.requires_grad}
        self.optimiser = optimiser_of(arm, settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=arm.precision == "fp16")
        self.place = Place(1, 0, [], [], None, {}, 0.0)
        self.best: dict[str, Tensor] = {}
        self.saved_at = time.monotonic()

    def save(self) -> None:
        """Parameters, optimiser, random state, the best so far, and the place."""
        tensors = {f"parameter.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{key}": value for key, value in state.items()}
        for rank, states in enumerate(ranks.of_all(self._random())):
            tensors |= {f"random.{rank}.{i}": state for i, state in enumerate(states)}
        step = self.place.epoch * 10**6 + self.place.batch
        self.place.scaler = self.scaler.state_dict()
        self.place.seconds += time.monotonic() - self.saved_at
        if ranks.rank() == 0:
            checkpoints.save(self.folder, step, {k: v.cpu().clone() for k, v in tensors.items()}, vars(self.place))
        self.saved_at = time.monotonic()

    def _random(self) -> list[Tensor]:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return [torch.get_rng_state(), *cuda]

    def resume(self) -> None:
        """Go on from the last checkpoint, where there is one; rank 0 has it."""
        found = ranks.of_first(checkpoints.latest(self.folder) if ranks.rank() == 0 else None)
        if found is None:
            return
        tensors, values = found
        self.place = Place(**values)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(self.place.scaler)
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tensors[f"parameter.{name}"])
        self.best = {name: tensors[f"best.{name}"] for name in self.parameters if f"best.{name}" in tensors}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("optimiser."):
                _, i, key = name.split(".")
                state.setdefault(int(i), {})[key] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(tensors[f"random.{ranks.rank()}.0"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors[f"random.{ranks.rank()}.1"], self.device)
        if ranks.rank() == 0 and self.place.epoch <= self.settings.epochs:
            say(f"seed {self.seed}: going on in epoch {self.place.epoch}, after {self.place.batch} batches")

    def step(
        self, indices: list[int], step: int, steps: int, cases: ArmCases, asked: Callable[[], list[bool]]
    ) -> list[bool]:
        """One batch, this rank's share of it; for each thing that is asked, whether any rank says yes.

        Raises UserError naming the cases of the batch when the loss is not finite.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * learning_rate_factor(step, steps, self.settings.warmup)
        self.optimiser.zero_grad()
        loss, share = 0.0, indices[ranks.rank() :: ranks.size()]
        if share:
            batch = default_collate([cases[i] for i in share])
            loss = add_gradients(self.arm, batch, self.settings, self.device, len(indices), self.scaler.scale).item()
        noted = torch.tensor([loss, *asked()], device=self.device)
        for p in self.parameters.values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        ranks.add_up([noted, *(p.grad for p in self.parameters.values())])
        self.scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm)
        overflow = self.scaler.is_enabled() and self.scaler.get_scale() >= 1  # float16: it skips the step, scales less
        if not torch.isfinite(noted[0]) or not (torch.isfinite(norm) or overflow):
            names = ", ".join(cases.cases[i % len(cases)].case_id for i in indices)
            where = f"in epoch {self.place.epoch}, cases {names}"
            raise UserError(f"the loss is not finite {where}; look at these, or lower train.learning_rate")
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.place.losses.append(noted[0].item() * len(indices))
        self.place.batch += 1
        return (noted[1:] > 0).tolist()

    def end_epoch(self, train_cases: ArmCases, val_cases: ArmCases) -> None:
        """Validate, note the curves, keep the best parameters."""
        place = self.place
        val_loss, dice = validate(self.arm, val_cases, at_once(self.settings), self.device)
        if not math.isfinite(val_loss):
            raise UserError(f"the validation loss is not finite in epoch {place.epoch}; lower train.learning_rate")
        top = int(dice.argmax())
        row = {"seed": self.seed, "epoch": place.epoch, "train_loss": sum(place.losses) / len(train_cases)}
        place.curves.append(row | {"val_loss": val_loss, "val_dice": float(dice[top])})
        if place.best is None or dice[top] > place.best["val_dice"]:
            place.best = {"epoch": place.epoch, "threshold": THRESHOLDS[top], "val_dice": float(dice[top])}
            self.best = {name: p.detach().cpu().clone() for name, p in self.parameters.items()}
        place.epoch, place.batch, place.losses = place.epoch + 1, 0, []
