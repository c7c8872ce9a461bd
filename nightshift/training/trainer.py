"""The training loop that arms share, and the choice of epoch and threshold by validation.

The same head, the same order of the data (from seed and epoch alone), the same budget; arms differ in the parameters
that are trained. A training that was stopped or killed goes on after its last checkpoint and ends with the same bytes.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from nightshift.config.hardware import hardware
from nightshift.config.kinds import TrainedSection
from nightshift.config.params import ArmSettings
from nightshift.config.sections import Train
from nightshift.console.errors import UserError, is_out_of_memory
from nightshift.console.progress import say, steps_bar
from nightshift.data.samples import TrainingCases
from nightshift.engine import checkpoints, distributed
from nightshift.engine.checkpoints import Interrupted
from nightshift.engine.device import compiles, give_memory_back, seed_everything
from nightshift.engine.device import device as chosen_device
from nightshift.model.base import ArmModel
from nightshift.model.kinds import kind_of
from nightshift.training.batches import Batches
from nightshift.training.choice import choose
from nightshift.training.state import Trained, TrainingState
from nightshift.training.step import micro_batch_size

SEED_STRIDE = 10**6  # generators are seeded with seed * SEED_STRIDE + epoch: more than there are epochs


def train(
    model: ArmModel,
    train_cases: TrainingCases,
    val_cases: TrainingCases,
    settings: Train,
    seed: int,
    device: torch.device,
    folder: Path,
    label: str,
    report: Callable[[list[dict[str, float]]], None] = lambda curves: None,
) -> Trained:
    """Train the parameters of `model` that require gradients; the best epoch by validation Dice wins.

    Args:
        folder: for checkpoints, after every epoch and within one every `checkpoint_minutes` of hardware.yaml.
        label: for messages.
        report: is called after every epoch, in the first process, with the curves so far.

    Raises:
        UserError: as `TrainingState.step` does.
        Interrupted: after Ctrl-C or SIGTERM.
    """
    if model.activation_checkpointing and device.type == "cpu":
        give_memory_back()
    if (idle := distributed.size() - settings.batch_size) > 0 and distributed.rank() == 0:
        say(f"{label}: {idle} of {distributed.size()} processes have no case of a batch; raise train.batch_size")
    state = TrainingState(model, settings, seed, device, folder)
    if not state.resume():
        model.initialise(train_cases.batch(one) for one in _order(train_cases, 1, seed, epoch=0))
        state.average.load(state.parameters)
    every, progress, before = hardware().checkpoint_minutes * 60, state.progress, state.progress.seconds
    batches_of = Batches(train_cases, device)
    per_epoch = -(-len(train_cases) // settings.batch_size)
    steps = settings.most_epochs * per_epoch
    done_before = (progress.epoch - 1) * per_epoch + progress.batch
    with checkpoints.stop_asked() as stop_asked, steps_bar(label, steps, done_before) as advance:
        while not state.finished:
            model.train()
            order = _order(train_cases, settings.batch_size, seed, progress.epoch)[progress.batch :]
            shares = [indices[distributed.rank() :: distributed.size()] for indices in order]
            with batches_of(shares) as batches:
                for indices, batch in zip(order, batches, strict=True):
                    stop, due = state.step(
                        indices,
                        batch,
                        (progress.epoch - 1) * per_epoch + progress.batch,
                        steps,
                        train_cases,
                        lambda: [stop_asked(), time.monotonic() - state.saved_at >= every],
                    )
                    advance(1)
                    if stop or (due and progress.batch < per_epoch):
                        state.save()
                    if stop:
                        raise Interrupted(f"stopped in epoch {progress.epoch}; the same command goes on from there")
            state.end_epoch(train_cases, val_cases)
            state.save()
            if distributed.rank() == 0:
                report(progress.curves)
                _say_epoch(label, settings.most_epochs, progress.curves[-1])
    with torch.no_grad():
        for parameter_name, parameter in state.parameters.items():
            parameter.copy_(state.best[parameter_name])
    assert progress.best is not None  # there is at least one epoch
    return Trained(**progress.best, curves=progress.curves, seconds=progress.seconds, before=before)


def _say_epoch(label: str, epochs: int, row: dict[str, float]) -> None:
    say(
        f"{label}: epoch {row['epoch']}/{epochs}, training loss {row['train_loss']:.4f}, "
        f"validation loss {row['val_loss']:.4f}, Dice {row['val_dice']:.4f}"
    )


def _order(cases: TrainingCases, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The batches of an epoch, numbers of cases and of their variants: they follow from seed and epoch alone."""
    random, count = torch.Generator().manual_seed(seed * SEED_STRIDE + epoch), len(cases)
    order = torch.randperm(count, generator=random)
    if cases.online:
        order += count * (seed * SEED_STRIDE + epoch)  # a variant that no other epoch has
    elif variants := cases.settings.augment.variants:
        order += count * torch.randint(1 + variants, (count,), generator=random)
    return [part.tolist() for part in order.split(batch_size)]


def train_model(
    settings: ArmSettings,
    parts: dict[str, TrainingCases],
    folder: Path,
    label: str,
    report: Callable[[list[dict[str, float]]], None],
) -> tuple[ArmModel, Trained]:
    """Build the model of an arm and train it, or choose what it is where nothing is trained.

    Args:
        settings: of one training.
        parts: `train` and `val`.
        folder: for checkpoints.
        label: for messages.
        report: as for `train`.

    Raises:
        UserError: as `train` does, and out of memory.
    """
    (seed,), device = settings.train.seeds, chosen_device()
    seed_everything(seed)
    model = kind_of(settings).build(settings)
    if compiles():
        model.compile_parts()
    if distributed.rank():
        # dropout of its own; the weights are those of the first process
        torch.manual_seed(seed + SEED_STRIDE * distributed.rank())
    try:
        if model.candidates():
            return model, choose(model.to(device).eval(), parts["val"], seed, device)
        return model, train(model, parts["train"], parts["val"], settings.train, seed, device, folder, label, report)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(_out_of_memory(settings, model)) from None


def _out_of_memory(settings: ArmSettings, model: ArmModel) -> str:
    """What happened, and the key of the arm that takes less memory."""
    micro, arm = micro_batch_size(settings.train), f"arms.{settings.name}"
    if micro > 1:
        section = arm if isinstance(settings.arm, TrainedSection) else "train"  # the others have no keys of it
        advice = f"-S ++{section}.micro_batch={micro // 2}"
    elif hasattr(settings.arm, "activation_checkpointing") and not model.activation_checkpointing:
        advice = f"-S ++{arm}.activation_checkpointing=true"
    else:
        advice = "lower encoder.resolution" if settings.arm.has_encoder else f"lower {arm}.resolution"
    return f"out of memory with {micro} case(s) at a time; less: {advice}; `nightshift plan` says what fits"
