"""The model card of a bundle: what the model is, what it was trained on, how good it is, and what limits that.

There is no patient, no case, no machine and no path of one in it.
"""

from collections import Counter
from pathlib import Path, PureWindowsPath

import yaml

from nightshift.carm import QUADRANTS, quadrant
from nightshift.config.params import EncoderArmSettings
from nightshift.core.records import ModelResult, ModelResults, Record
from nightshift.core.templates import templates
from nightshift.data.dataset import data_hash, open_part
from nightshift.data.locations import FOLDS, PREPARED, model_folder, project_of
from nightshift.evaluation.rules import Rule
from nightshift.model.card import Card

JSON, MARKDOWN = "model_card.json", "MODEL_CARD.md"
RESULTS = Path("reports/comparison/models.json")


class Views(Record):
    """The views of the training cases: lowest and highest angle in degrees, and how many cases by quadrant."""

    primary: list[float]
    secondary: list[float]
    quadrants: dict[str, int]


class Judgement(Record):
    """What the comparison says of the model: `result` is its own, the rest of the arms, as in ModelResults."""

    result: ModelResult
    answer: str
    recommended: str | None = None
    limits: list[str]


class ModelCard(Record):
    """model_card.json.

    `encoder`: its size in words, None of an arm without one. `weights`: name of the pretrained file, `random`, or
    `none`; `weights_sha256` of it. `uses_view`: the C-arm angles are an input; `views`: None where they are none, or
    the training cases are not in data/prepared any more. `cases`: by part; `patients`: to train on. `settings`: YAML.
    `judged`: None where the project's last comparison is not of this model with this rule.
    """

    arm: str
    kind: str
    fold: int
    seed: int
    encoder: str | None = None
    resolution: int
    precision: str
    weights: str
    weights_sha256: str | None = None
    uses_view: bool
    views: Views | None = None
    cases: dict[str, int]
    patients: int
    epoch: int
    threshold: float
    low: float | None = None
    mirror: bool
    val_dice: float
    data_hash: str
    settings: str
    judged: Judgement | None = None


def model_card(folder: Path, card: Card, rule: Rule, evaluated: bool) -> ModelCard:
    """The model card of a trained model.

    Args:
        folder: models/ARM/fold-F/seed-S of a project, whose data/prepared and reports/comparison are read, if they
            are of this very model.
        card: in it.
        rule: how masks are made.
        evaluated: whether the project's evaluation made them so.

    Raises:
        UserError: a file of the project is not what its stage writes.
    """
    settings, project = card.settings, project_of(folder)
    sha256 = card.weights.get("sha256")
    return ModelCard(
        arm=settings.name,
        kind=settings.arm.kind,
        fold=card.fold,
        seed=card.seed,
        encoder=_encoder(settings) if isinstance(settings, EncoderArmSettings) else None,
        resolution=settings.resolution,
        precision=settings.precision,
        weights=_name(str(card.weights["path"])),
        weights_sha256=None if sha256 is None else str(sha256),
        uses_view=settings.view.mode == "film",
        views=_views(project, card),
        cases=card.cases,
        patients=card.patients,
        epoch=card.epoch,
        threshold=rule.threshold,
        low=rule.low,
        mirror=rule.mirror,
        val_dice=card.val_dice,
        data_hash=card.data_hash,
        settings=_yaml(settings.model_dump(mode="json", exclude_none=True)),
        judged=_judgement(project, card) if evaluated else None,
    )


def as_markdown(card: ModelCard) -> str:
    """The model card for people, MODEL_CARD.md."""
    environment = templates(Path(__file__).parent / "templates", keep_trailing_newline=True)
    return environment.get_template(f"{MARKDOWN}.j2").render(card=card)


def _encoder(settings: EncoderArmSettings) -> str:
    one = settings.preset
    return f"the architecture of SAM 3, {one.depth} blocks of width {one.embed_dim}, patches of {one.patch_size} pixels"


def _name(weights: str) -> str:
    """`random`, `none`, or the name of the file without the folder that it lay in, on whichever system."""
    return PureWindowsPath(weights).name


def _yaml(settings: dict[str, object]) -> str:
    """Settings as YAML, without the folders of weights."""
    for section in settings.values():
        if isinstance(section, dict) and "weights" in section:
            section["weights"] = _name(section["weights"])
    return yaml.safe_dump(settings, sort_keys=False)


def _views(project: Path, card: Card) -> Views | None:
    """Of the training cases; None where no view is used, and where the prepared data are others."""
    prepared = project / PREPARED
    if card.settings.view.mode == "none" or not (prepared / FOLDS).is_file() or data_hash(prepared) != card.data_hash:
        return None
    rows = open_part(card.fold, "train", card.settings.train.patients, prepared).rows
    views = [(float(row["primary_angle"]), float(row["secondary_angle"])) for row in rows]
    count = Counter(quadrant(*view) for view in views)
    primary, secondary = ([min(angles), max(angles)] for angles in zip(*views, strict=True))
    return Views(primary=primary, secondary=secondary, quadrants={name: count[name] for name in QUADRANTS})


def _judgement(project: Path, card: Card) -> Judgement | None:
    """Of the project's last comparison; None where that has another model in this one's place, or none."""
    if not (project / RESULTS).is_file():
        return None
    results = ModelResults.read(project / RESULTS)
    name = model_folder(Path(), card.fold, card.seed).as_posix()
    found = results.models.get(card.settings.name, {}).get(name)
    if found is None or found.card != card.digest:
        return None
    return Judgement(result=found, answer=results.answer, recommended=results.recommended, limits=results.limits)
