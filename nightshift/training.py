"""The loop that both arms share, and the choice of epoch and threshold by validation.

Same head, same data order (from seed and epoch alone), same budget; what differs is which parameters an arm trains.
A run that was stopped or killed goes on where its last checkpoint was, and ends with the same bytes.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import default_collate

from nightshift import checkpoints, cost, encoder, ranks
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
        for rank, states in enumerate(ranks.of_all(self._random())):
            tensors |= {f"random.{rank}.{i}": state for i, state in enumerate(states)}
        step = self.place.epoch * 10**6 + self.place.batch
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
            loss = add_gradients(self.arm, batch, self.settings, self.device, len(indices)).item()
        noted = torch.tensor([loss, *asked()], device=self.device)
        for p in self.parameters.values():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        ranks.add_up([noted, *(p.grad for p in self.parameters.values())])
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip_norm)
        if not torch.isfinite(noted[0]) or not torch.isfinite(norm):
            names = ", ".join(cases.cases[i].case_id for i in indices)
            where = f"in epoch {self.place.epoch}, cases {names}"
            raise UserError(f"the loss is not finite {where}; look at these, or lower train.learning_rate")
        self.optimiser.step()
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
            for indices in _order(len(train_cases), settings.batch_size, seed, place.epoch)[place.batch :]:
                step = (place.epoch - 1) * per_epoch + place.batch
                stop, due = run.step(
                    indices, step, steps, train_cases, lambda: [stop_asked(), time.monotonic() - run.saved_at >= every]
                )
                done(1)
                if stop or (due and place.batch < per_epoch):
                    run.save()
                if stop:
                    raise Interrupted(f"stopped in epoch {place.epoch}; the same command goes on from there")
            run.end_epoch(train_cases, val_cases)
            run.save()
            row = place.curves[-1]
            if ranks.rank() == 0:
                say(
                    f"{label}: epoch {row['epoch']}/{settings.epochs}, training loss {row['train_loss']:.4f}, "
                    f"validation loss {row['val_loss']:.4f}, Dice {row['val_dice']:.4f}"
                )
    with torch.no_grad():
        for name, p in run.parameters.items():
            p.copy_(run.best[name])
    return Trained(**place.best, curves=place.curves)


def _order(cases: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch, indices of cases: they follow from seed and epoch alone."""
    order = torch.randperm(cases, generator=torch.Generator().manual_seed(seed * 10**6 + epoch)).tolist()
    return [order[first : first + batch_size] for first in range(0, cases, batch_size)]


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
    own = settings.train_for(name)
    parts = {
        split: ArmCases(Cases(PREPARED / split), Shards(ENCODED / name / split, "pt") if start else None, settings)
        for split in ("train", "val")
    }
    shared = {
        "arm": name,
        "data_hash": hash_folder(*(PREPARED / split for split in parts)),
        "weights": read_json(RECORD),
        "settings": _settings_of(name, settings),
    }
    curves: list[dict[str, Any]] = []
    with _places(name, shared) as (record, states, folder):
        for seed in own.seeds:
            seed_everything(seed)
            arm = Arm(encoder.configured(settings), start, settings)
            adapted = adapt(arm.neck.trunk)
            if ranks.rank():
                torch.manual_seed(seed + 10**6 * ranks.rank())  # dropout of its own; the weights are those of rank 0
            record["parameters_trained"] = encoder.count_parameters(arm)
            before = time.perf_counter()
            place = states / f"seed-{seed}"
            try:
                trained = train(arm, parts["train"], parts["val"], own, seed, chosen_device(), place, name)
            except (torch.OutOfMemoryError, MemoryError):
                raise UserError(_out_of_memory(name, own, arm)) from None
            record["seconds_per_epoch"] = round((time.perf_counter() - before) / own.epochs, 3)
            curves += trained.curves
            if ranks.rank():
                continue
            out = folder / f"seed-{seed}"
            out.mkdir()
            save_file(arm.segmenter.cpu().state_dict(), out / "head.safetensors")
            save(adapted, out)
            chosen = {"epoch": trained.epoch, "threshold": trained.threshold, "val_dice": round(trained.val_dice, 6)}
            write_json(out / "card.json", {"seed": seed} | chosen | shared)
            say(f"{name}, seed {seed}: epoch {trained.epoch}, validation Dice {trained.val_dice:.3f}")
        if ranks.rank() == 0:
            write_csv(Path("reports/curves") / f"{name}.csv", CURVES, curves)
    if ranks.rank() == 0:
        print(f"{name} arm, {len(own.seeds)} model(s): {(MODELS / name).as_posix()}")


@contextmanager
def _places(name: ArmName, shared: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Path, Path]]:
    """The cost record, the folder of checkpoints and that of models; only rank 0 has them and writes."""
    if ranks.rank():
        yield {}, Path(), Path()
        return
    stage, where = f"train_{name}", {"device": chosen_device().type, "threads": hardware().threads}
    checkpoints.tidy(f"encode_{name}", ENCODED / name)
    identity = checkpoints.fingerprint(**shared, **where, processes=ranks.size())
    with (
        cost.recorded(stage) as record,
        checkpoints.run_folder(stage, identity) as states,
        replacing(MODELS / name) as folder,
    ):
        folder.mkdir()  # now: a folder that cannot be written must not cost a night
        record["processes"] = ranks.size()
        yield record, states, folder
        checkpoints.finished(stage, identity, folder)


def _out_of_memory(name: ArmName, own: Train, arm: Arm) -> str:
    micro, kept = at_once(own), name == "lora" and not arm.checkpointing
    less = "set lora.activation_checkpointing=true" if kept else "lower encoder.resolution"
    advice = f"set {name}.micro_batch={micro // 2}" if micro > 1 else less
    return f"out of memory with {micro} case(s) at a time: {advice}; `python -m stages.plan` says what fits"


def _settings_of(name: ArmName, settings: Settings) -> dict[str, Any]:
    """What this arm depends on, and nothing of the other one's: dvc.yaml tracks the same keys."""
    sections = ("use", "encoder", "view", "head", *(["lora"] if name == "lora" else []))
    own = {"train": settings.train_for(name).model_dump(), "preset": settings.preset.model_dump()}
    return {section: getattr(settings, section).model_dump() for section in sections} | own
