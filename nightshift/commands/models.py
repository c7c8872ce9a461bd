"""What MODEL names in the commands: a trained model, all models of an arm, or a bundle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean

from nightshift.config.params import ArmSettings
from nightshift.console.errors import UserError
from nightshift.core.hashing import hash_folder
from nightshift.data.locations import project_of
from nightshift.engine.device import device
from nightshift.evaluation.rules import NAME, Rule, Rules
from nightshift.model import card as model_card
from nightshift.model.base import ArmModel
from nightshift.model.card import Card
from nightshift.model.kinds import kind_of
from nightshift.model.predictor import MapMaker, map_maker


@dataclass(frozen=True)
class Models:
    """What MODEL names, in whatever form it is kept.

    `name` is for people; `hashes` tell other models at the same place apart, by path; `takes_angles`: it was trained
    with view angles; `fold`, `seed` and `data_hash`: of the first model, as in its card. Each of `makers` opens one
    model, whose maps include the mirror image where `rule.mirror` says so; masks are made by `rule` of the mean of all.
    """

    name: str
    hashes: dict[str, str]
    takes_angles: bool
    fold: int
    seed: int
    data_hash: str
    rule: Rule
    makers: Sequence[Callable[[], MapMaker]]


def is_bundle(folder: Path) -> bool:
    """Whether it has a bundle.json."""
    return (folder / "bundle.json").is_file()


def models_of(folder: Path, weights: Path | None = None, rules: Path | None = None) -> Models:
    """What is in `folder`.

    Args:
        folder: models/ARM/fold-F/seed-S, models/ARM or a bundle.
        weights: pretrained, where they have been moved.
        rules: how masks are made, as reports/evaluation/ARM/rules.json; None is by the models' own thresholds.

    Raises:
        UserError: what is missing or does not fit together.
    """
    if is_bundle(folder):
        if weights or rules:
            option = "--weights" if weights else "--rules"
            raise UserError(f"{folder}: a bundle, which has its own; leave {option} out")
        return _of_bundle(folder)
    cards = model_card.read_cards(folder)
    settings = {place: model_card.settings_of(one, place, weights) for place, one in cards.items()}
    card, rule = next(iter(cards.values())), rule_of_models(cards, rules)
    name = f"{card.settings.name}/fold-{card.fold}/seed-{card.seed}"
    return Models(
        name=name if len(cards) == 1 else f"{card.settings.name}, mean of {len(cards)} models",
        hashes={place.as_posix(): hash_folder(place) for place in cards},
        takes_angles=card.settings.view.mode == "film",
        fold=card.fold,
        seed=card.seed,
        data_hash=card.data_hash,
        rule=rule,
        makers=[partial(_maker, place, of_model, rule.mirror) for place, of_model in settings.items()],
    )


def _of_bundle(folder: Path) -> Models:
    from nightshift.export.bundle import open_bundle  # onnxruntime

    bundle = open_bundle(folder)
    record = bundle.record
    return Models(
        name=f"{record.name}/fold-{record.fold}/seed-{record.seed}",
        hashes={folder.as_posix(): bundle.digest},
        takes_angles=record.takes_angles,
        fold=record.fold,
        seed=record.seed,
        data_hash=record.data_hash,
        rule=Rule(mirror=False, threshold=record.threshold, low=record.low),  # its graph mirrors where it should
        makers=[lambda: bundle.maps],
    )


def rule_of_models(cards: dict[Path, Card], file: Path | None) -> Rule:
    """How the masks of these models are made: the mean of their thresholds, those of their cards or those in `file`.

    Raises UserError for a file that does not have every model.
    """
    if file is None:
        return Rule(mirror=False, threshold=mean(card.threshold for card in cards.values()))
    known, names = Rules.read(file).rules, [f"fold-{card.fold}/seed-{card.seed}" for card in cards.values()]
    if missing := [name for name in names if name not in known]:
        raise UserError(f"{file}: no {missing[0]} in it, only {', '.join(known)}; give that of the models' own arm")
    of_models = [known[name] for name in names]
    lower = [one.low for one in of_models if one.low is not None]  # all have one, or none
    threshold = mean(one.threshold for one in of_models)
    return Rule(mirror=of_models[0].mirror, threshold=threshold, low=mean(lower) if lower else None)


def rules_of_project(folder: Path) -> Path | None:
    """How the masks of the model models/ARM/fold-F/seed-S were made when it was evaluated; None where it was not."""
    rules = project_of(folder) / "reports/evaluation" / folder.absolute().parents[1].name / NAME
    return rules if (folder / model_card.NAME).is_file() and rules.is_file() else None


def _maker(folder: Path, settings: ArmSettings, mirror: bool) -> MapMaker:
    model: ArmModel = kind_of(settings).open_model(folder, settings).to(device())
    return map_maker(model, mirror)
