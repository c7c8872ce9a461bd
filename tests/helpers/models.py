"""Very small models, and trainings of them, for tests."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from nightshift.arms.lora import AdaptedModel
from nightshift.backbone import encoder
from nightshift.backbone.pretrained import identity
from nightshift.config.params import ArmSettings
from nightshift.config.sections import Predict
from nightshift.core.records import ArmVerdict, Prefix
from nightshift.data.dataset import Cases, Frames
from nightshift.data.locations import PREPARED
from nightshift.data.samples import TrainingCases
from nightshift.data.shards import Shards
from nightshift.engine.device import seed_everything
from nightshift.evaluation.evaluate import evaluate_arm
from nightshift.evaluation.rules import Rule
from nightshift.feature_cache import encode_arm, encode_cases, encode_nothing
from nightshift.model.card import Card
from nightshift.model.kinds import kind_of, prefix_of
from nightshift.model.segmentation import SegmentationModel
from nightshift.training import trainer
from nightshift.training.arm import train_arm

CPU = torch.device("cpu")
MINI = {
    "img_size": 56,
    "pretrain_img_size": 28,
    "patch_size": 14,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "drop_path_rate": 0.1,
    "window_size": 2,
    "global_blocks": [1, 2],
    "d_model": 16,
    "scale_factors": [4.0, 2.0, 1.0, 0.5],
    "seed": 0,
    "hub": "none",
}
SMALL = {
    "use.encoder": "mini",
    "head.width": 8,
    "train.epochs": 2,
    "train.batch_size": 2,
    "arms.lora.rank": 2,
    "arms.lora.blocks": {"last": 2},
}
PLAIN = Predict(mirror=False, hysteresis=False)
UNET = {"kind": "unet", "channels": [4, 8, 8]}
WITHOUT_ENCODER = {"arms.unet": UNET, "arms.vesselness": {"kind": "vesselness"}}


def new_model(settings: ArmSettings, start: int = 1, seed: int = 0) -> SegmentationModel:
    """A model of the arm's kind that starts at block `start`, on random weights."""
    seed_everything(seed)
    kind = AdaptedModel if settings.arm.kind == "lora" else SegmentationModel
    return kind(encoder.build(settings.preset), start, settings)


def tokens_of(settings: ArmSettings, blocks: int, folder: Path) -> Shards:
    """The tokens after `blocks` blocks of all prepared cases, kept in `folder`."""
    frames = Frames(PREPARED)
    count = len(frames) if blocks else 0
    encode_cases(encoder.build(settings.preset), frames, count, Prefix(blocks=blocks), settings, folder)
    return Shards(folder, "pt")


def trained_model(
    settings: ArmSettings,
    prepared: dict[str, Cases],
    seed: int = 0,
    tokens: Shards | None = None,
    cases: type[TrainingCases] = TrainingCases,
) -> tuple[SegmentationModel, trainer.Trained, TrainingCases]:
    """A model trained on the prepared cases, what training chose, and its training cases."""
    model = new_model(settings, seed=seed)
    parts = cases(prepared["train"], tokens, settings), TrainingCases(prepared["val"], None, settings)
    folder = Path(tempfile.mkdtemp(dir="."))
    return model, trainer.train(model, *parts, settings.train, seed, CPU, folder, settings.name), parts[0]


def batch(count: int = 2, side: int = 56) -> torch.Tensor:
    """Images (count, 3, side, side) from -1 to 1, always the same."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def changed(settings: ArmSettings, **sections: dict[str, Any]) -> ArmSettings:
    """The settings with keys of sections changed: `changed(settings, train={"epochs": 3})`."""
    return settings.model_copy(
        update={name: getattr(settings, name).model_copy(update=values) for name, values in sections.items()}
    )


def card_of(settings: ArmSettings, seed: int = 3, threshold: float = 0.05) -> Card:
    """A card of a model that nobody has trained."""
    return Card(
        fold=0,
        seed=seed,
        epoch=1,
        learning_rate=0.003,
        tried={},
        threshold=threshold,
        val_dice=0.5,
        data_hash="0",
        weights={"path": "random"},
        cases={"train": 5, "val": 2},
        patients=5,
        settings=settings,
    )


def pretend_trained(settings: ArmSettings, source: Path | None, folder: Path) -> Path:
    """Save a model of the arm, which starts from the weights in `source`, with noise for the training; the folder."""
    seed_everything(0)
    model = kind_of(settings).build(settings)
    for p in model.parameters():
        if p.requires_grad:
            p.data = p.data + 0.01 * torch.randn(p.shape)
    folder.mkdir(parents=True)
    kind_of(settings).save(model, folder)
    weights = {"path": str(source), **identity(source)} if source else {"path": "random"}
    card_of(settings).model_copy(update={"weights": weights}).write(folder / "card.json")
    return folder


def rule_of_card(card: Card) -> Rule:
    """One threshold, the card's."""
    return Rule(mirror=False, threshold=card.threshold)


def train_and_evaluate(settings: ArmSettings, masks: Predict = PLAIN) -> None:
    """models/NAME and reports/evaluation/NAME from data/prepared."""
    prefix = prefix_of(settings)
    ArmVerdict(ok=True, cause="", cure="", prefix=prefix).write(Path(f"reports/probe/arms/{settings.name}.json"))
    if prefix is None:
        encode_nothing(settings.name)
    else:
        encode_arm(settings.name, settings, prefix)
    train_arm(settings)
    evaluate_arm(settings.name, masks)
