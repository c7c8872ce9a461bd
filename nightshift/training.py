"""The loop that both arms share, and the choice of epoch and threshold by validation.

Same head, same data order (from seed and epoch alone), same budget; what differs is which parameters an arm trains.
A run that was stopped or killed goes on where its last checkpoint was, and ends with the same bytes.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from nightshift import checkpoints, cost, encoder
from nightshift.arms import ENCODED, MODELS, Arm, ArmCases
from nightshift.cases import PREPARED, Cases
from nightshift.checkpoints import Interrupted
from nightshift.compute import device as chosen_device
from nightshift.compute import give_memory_back, seed_everything
from nightshift.errors import UserError
from nightshift.files import read_json, replacing, write_csv, write_json
from nightshift.inventory import hash_folder
from nightshift.metrics import THRESHOLDS
from nightshift.progress import say, steps_bar
from nightshift.settings import ArmName, Settings, Train, hardware
from nightshift.shards import Shards
from nightshift.steps import add_gradients, at_once, learning_rate_factor, optimiser_of, validate
from nightshift.weights import RECORD

CURVES = ("seed", "epoch", "train_loss", "val_loss", "val_dice")


@dataclass
class Place:
    """Where a run is: `batch` batches of `epoch` are done; their losses, the curves, and the best epoch so far."""

    epoch: int
    batch: int
    losses: list[float]
    curves: list[dict[str, Any]]
    best: dict[str, Any] | None


@dataclass(frozen=True)
class Trained:
    """What training chose; the arm holds the parameters of that epoch. `curves`: a row per epoch."""

    epoch: int
    threshold: float
    val_dice: float
    curves: list[dict[str, Any]]


class Run:
    """One arm being trained with one seed, and its checkpoints in `folder`."""

    def __init__(self, arm: Arm, settings: Train, seed: int, device: torch.device, folder: Path) -> None:
        self.arm, self.settings, self.seed, self.device, self.folder = arm.to(device), settings, seed, device, folder
        self.parameters = {name: p for name, p in arm.named_parameters() if p.requires_grad}
        self.optimiser = optimiser_of(arm, settings)
        self.place = Place(1, 0, [], [], None)
        self.best: dict[str, Tensor] = {}
        self.saved_at = time.monotonic()

    def save(self) -> None:
        """Parameters, optimiser, random state, the best so far, and the place."""
        tensors = {f"parameter.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{key}": value for key, value in state.items()}
        tensors["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["random_cuda"] = torch.cuda.get_rng_state(self.device)
        step = self.place.epoch * 10**6 + self.place.batch
        checkpoints.save(self.folder, step, {k: v.cpu().clone() for k, v in tensors.items()}, vars(self.place))
        self.saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from the last checkpoint, where there is one."""
        found = checkpoints.latest(self.folder)
        if found is None:
            return
        tensors, values = found
        self.place = Place(**values)
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
        torch.set_rng_state(tensors["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random_cuda"], self.device)
        if self.place.epoch <= self.settings.epochs:
            say(f"seed {self.seed}: going on in epoch {self.place.epoch}, after {self.place.batch} batches")

    def step(self, batch: dict[str, Tensor], step: int, steps: int, cases: ArmCases) -> None:
        """One batch. Raises UserError naming its cases when the loss is not finite, and what to lower out of memory."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * learning_rate_factor(step, steps, self.settings.warmup)
        self.optimiser.zero_grad()
        loss = add_gradients(self.arm, batch, self.settings, self.device).item()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm)
        if not math.isfinite(loss) or not torch.isfinite(norm):
            names = ", ".join(cases.cases[int(i)].case_id for i in batch["index"])
            raise UserError(
                f"the loss is not finite in epoch {self.place.epoch}, cases {names}; look at these, or lower "
                "train.learning_rate"
            )
        self.optimiser.step()
        self.place.losses.append(loss * len(batch["index"]))
        self.place.batch += 1

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


def train(
    arm: Arm,
    train_cases: ArmCases,
    val_cases: ArmCases,
    settings: Train,
    seed: int,
    device: torch.device,
    folder: Path,
    name: ArmName,
) -> Trained:
    """Train the parameters of `arm` that require gradients; the best epoch by validation Dice wins.

    Checkpoints go to `folder` after every epoch, and within one every `checkpoint_minutes` of hardware.yaml.
    Raises UserError as `Run.step` does, Interrupted after Ctrl-C or SIGTERM.
    """
    if arm.checkpointing:
        give_memory_back()
    label = f"{name}, seed {seed}"
    run = Run(arm, settings, seed, device, folder)
    run.resume()
    every, place = hardware().checkpoint_minutes * 60, run.place
    per_epoch = -(-len(train_cases) // settings.batch_size)
    steps = settings.epochs * per_epoch
    with (
        checkpoints.stop_asked() as stop_asked,
        steps_bar(label, steps, (place.epoch - 1) * per_epoch + place.batch) as done,
    ):
        while place.epoch <= settings.epochs:
            arm.train()
            for batch in _rest_of_epoch(train_cases, settings, seed, place):
                run.step(batch, (place.epoch - 1) * per_epoch + place.batch, steps, train_cases)
                done(1)
                if stop_asked() or (place.batch < per_epoch and time.monotonic() - run.saved_at >= every):
                    run.save()
                if stop_asked():
                    raise Interrupted(f"stopped in epoch {place.epoch}; the same command goes on from there")
            run.end_epoch(train_cases, val_cases)
            run.save()
            row = place.curves[-1]
            say(
                f"{label}: epoch {row['epoch']}/{settings.epochs}, training loss {row['train_loss']:.4f}, "
                f"validation loss {row['val_loss']:.4f}, Dice {row['val_dice']:.4f}"
            )
    with torch.no_grad():
        for name, p in run.parameters.items():
            p.copy_(run.best[name])
    return Trained(**place.best, curves=place.curves)


def _rest_of_epoch(cases: ArmCases, settings: Train, seed: int, place: Place) -> DataLoader:
    """The batches of the epoch that are still to do: its order follows from seed and epoch alone."""
    random = torch.Generator().manual_seed(seed * 10**6 + place.epoch)
    order = torch.randperm(len(cases), generator=random).tolist()
    size = settings.batch_size
    batches = [order[first : first + size] for first in range(0, len(order), size)]
    # With a generator of its own, the loader draws nothing from torch's, whose state is in the checkpoint.
    return DataLoader(cases, batch_sampler=batches[place.batch :], generator=random)


def train_arm(
    name: ArmName,
    settings: Settings,
    start: int,
    adapt: Callable[[encoder.ViT], Any],
    save: Callable[[Any, Path], None],
) -> None:
    """Train one model per seed -> models/NAME/seed-N and reports/curves/NAME.csv.

    Raises UserError if a case has no angles, and as `train` does.
    """
    own, stage = settings.train_for(name), f"train_{name}"
    parts = {
        split: ArmCases(Cases(PREPARED / split), Shards(ENCODED / name / split, "pt") if start else None, settings)
        for split in ("train", "val")
    }
    checkpoints.tidy(f"encode_{name}", ENCODED / name)
    shared = {
        "arm": name,
        "data_hash": hash_folder(*(PREPARED / split for split in parts)),
        "weights": read_json(RECORD),
        "settings": _settings_of(name, settings),
    }
    identity = checkpoints.fingerprint(**shared, device=str(chosen_device()), threads=hardware().threads)
    curves: list[dict[str, Any]] = []
    with (
        cost.recorded(stage) as record,
        checkpoints.run_folder(stage, identity) as states,
        replacing(MODELS / name) as folder,
    ):
        folder.mkdir()  # now: a folder that cannot be written must not cost a night
        for seed in own.seeds:
            seed_everything(seed)
            arm = Arm(encoder.configured(settings), start, settings)
            adapted = adapt(arm.neck.trunk)
            record["parameters_trained"] = encoder.count_parameters(arm)
            before = time.perf_counter()
            place = states / f"seed-{seed}"
            try:
                trained = train(arm, parts["train"], parts["val"], own, seed, chosen_device(), place, name)
            except (torch.OutOfMemoryError, MemoryError):
                raise UserError(_out_of_memory(name, own, arm)) from None
            record["seconds_per_epoch"] = round((time.perf_counter() - before) / own.epochs, 3)
            curves += trained.curves
            out = folder / f"seed-{seed}"
            out.mkdir()
            save_file(arm.segmenter.cpu().state_dict(), out / "head.safetensors")
            save(adapted, out)
            chosen = {"epoch": trained.epoch, "threshold": trained.threshold, "val_dice": round(trained.val_dice, 6)}
            write_json(out / "card.json", {"seed": seed} | chosen | shared)
            say(f"{name}, seed {seed}: epoch {trained.epoch}, validation Dice {trained.val_dice:.3f}")
        write_csv(Path("reports/curves") / f"{name}.csv", CURVES, curves)
        checkpoints.finished(stage, identity, folder)
    print(f"{name} arm, {len(own.seeds)} model(s): {(MODELS / name).as_posix()}")


def _out_of_memory(name: ArmName, own: Train, arm: Arm) -> str:
    micro = at_once(own)
    if micro > 1:
        advice = f"set {name}.micro_batch={micro // 2}"
    elif name == "lora" and not arm.checkpointing:
        advice = "set lora.activation_checkpointing=true"
    else:
        advice = "lower encoder.resolution"
    return f"out of memory with {micro} case(s) at a time: {advice}; `python -m stages.plan` says what fits"


def _settings_of(name: ArmName, settings: Settings) -> dict[str, Any]:
    """What this arm depends on, and nothing of the other one's: dvc.yaml tracks the same keys."""
    sections = ("use", "encoder", "view", "head", *(["lora"] if name == "lora" else []))
    own = {"train": settings.train_for(name).model_dump(), "preset": settings.preset.model_dump()}
    return {section: getattr(settings, section).model_dump() for section in sections} | own
