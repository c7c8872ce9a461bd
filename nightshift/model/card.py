"""The card of a trained model, card.json in its folder: all that is needed to use it, without params.yaml."""

import hashlib
from pathlib import Path
from typing import Annotated

from pydantic import Field

from nightshift.backbone.pretrained import identity, place_of
from nightshift.config.params import AnyArmSettings, ArmSettings, PlainArmSettings
from nightshift.console.errors import UserError
from nightshift.core.records import SHOWN, Record

NAME = "card.json"


class Card(Record):
    """What training chose by validation (`epoch`, `threshold`, `val_dice`), and what it was trained on.

    `learning_rate`: it was trained with; `tried`: validation Dice of each that was tried in its fold, by the rate,
    where there were several. `data_hash`: of the prepared frames, masks and folds; `cases`: how many of the fold, by
    part; `patients`: to train on. `weights`: data/weights/ARM.json as it was at training: path, and size and sha256;
    path `none` where nothing is pretrained.
    """

    fold: int
    seed: int
    epoch: int
    learning_rate: float
    tried: dict[str, float]
    threshold: Annotated[float, Field(ge=0, le=1)]
    val_dice: float
    data_hash: str
    weights: dict[str, str | int]
    cases: dict[str, int]
    patients: int
    settings: AnyArmSettings

    @property
    def digest(self) -> str:
        """SHA-256 of the card, which no other training has."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def read_card(folder: Path) -> Card:
    """The card in models/ARM/fold-F/seed-S. Raises UserError where there is none, or where it does not say enough."""
    file = folder / NAME
    if not file.is_file():
        models = sorted(path.parent.as_posix() for path in folder.rglob(NAME))
        hint = (
            f"it has {', '.join(models[:SHOWN])}"
            if models
            else "expected a trained model, as models/lora/fold-0/seed-0"
        )
        raise UserError(f"{folder}: no {NAME} in it; {hint}")
    card: Card = Card.read(file)
    return card


def read_cards(folder: Path) -> dict[Path, Card]:
    """The card of the model in `folder`, or of all models below it, as in models/ARM, by their folders.

    Raises UserError as `read_card` does, and where the models below are of several arms.
    """
    if (folder / NAME).is_file():
        return {folder: read_card(folder)}
    cards = {path.parent: read_card(path.parent) for path in sorted(folder.rglob(NAME))}
    if len({card.settings.name for card in cards.values()}) != 1:
        read_card(folder)
    return cards


def settings_of(card: Card, folder: Path, weights: Path | None = None) -> ArmSettings:
    """The card's settings, with the path of the very weights that the arm was trained on, by their hash.

    They are looked for where they were, or in `weights`, a file or a folder. Raises UserError for others, or
    where there are none.
    """
    was, settings = str(card.weights["path"]), card.settings
    if settings.weights is None or was == "random":
        if weights is not None:
            what = "on random weights" if was == "random" else "without an encoder"
            raise UserError(f"{folder} was trained {what}, not on {weights}; leave --weights out")
        return settings
    try:
        place = weights or place_of(settings.weights)
    except UserError:
        place = None
    if place is None or not place.exists():
        raise UserError(
            f"{folder} was trained on the weights {was}: no {place or 'such file'}; name it with --weights FILE"
        )
    found = identity(place)["sha256"]
    if found != card.weights["sha256"]:
        hashes = f"sha256 {found:.12}..., its card.json says {card.weights['sha256']:.12}..."
        raise UserError(
            f"{place}: not the weights that {folder} was trained on ({hashes}); name those with --weights FILE"
        )
    section = "arm" if isinstance(settings, PlainArmSettings) else "encoder"
    changed = getattr(settings, section).model_copy(update={"weights": str(place.absolute())})
    return settings.model_copy(update={section: changed})
