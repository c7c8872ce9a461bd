"""Trained models and bundles on cases that they have not seen, measured as the evaluation does."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from nightshift.carm import Angles
from nightshift.commands.predict import open_model, rule_of_models
from nightshift.config.params import ArmSettings
from nightshift.console.errors import UserError
from nightshift.console.progress import bar
from nightshift.core.io import replacing
from nightshift.data.dataset import Cases
from nightshift.data.locations import project_of
from nightshift.data.samples import angles_of
from nightshift.evaluation.calibration import reliability
from nightshift.evaluation.evaluate import Cells, all_spaced, measured, write_cells, write_map, write_pictures
from nightshift.evaluation.rules import NAME, Rule
from nightshift.model import card as model_card
from nightshift.model.predictor import CachedPredictor, threshold_mask
from nightshift.reporting.load import ArmResults, read_cases

Map = np.ndarray[tuple[int, ...], np.dtype[np.uint16]]
Maps = Callable[[np.ndarray, Angles], Map]  # of a frame (H, W) uint8 and its view; (H, W), MAP_MAX is 1


@dataclass(frozen=True)
class Judged:
    """A model to judge, of a bundle or of the project.

    `rule`: how masks are made; `mode`: of the view, as view.mode; `data_hash`: of the data it was trained on, with
    `fold` of them. `start` opens it.
    """

    fold: int
    seed: int
    rule: Rule
    mode: Literal["film", "none"]
    data_hash: str
    start: Callable[[], Maps]


def open_judged(folder: Path) -> Judged:
    """The bundle, or the trained model, in `folder`. Raises UserError for another folder, or a damaged one."""
    if (folder / "bundle.json").is_file():
        return _of_bundle(folder)
    if not (folder / model_card.NAME).is_file():
        raise UserError(
            f"{folder}: no bundle.json and no {model_card.NAME} in it; expected a bundle, or a trained model, as "
            "models/lora/fold-0/seed-0"
        )
    card = model_card.read_card(folder)
    settings = model_card.settings_of(card, folder)
    rules = project_of(folder) / "reports/evaluation" / settings.name / NAME
    rule = rule_of_models({folder: card}, rules if rules.is_file() else None)
    start = partial(_maps_of_model, folder, settings, rule.mirror)
    return Judged(card.fold, card.seed, rule, settings.view.mode, card.data_hash, start)


def _of_bundle(folder: Path) -> Judged:
    from nightshift.export.bundle import open_bundle  # type: ignore[import-untyped]  # onnxruntime

    bundle = open_bundle(folder)
    record = bundle.record
    return Judged(
        fold=record.fold,
        seed=record.seed,
        rule=Rule(mirror=False, threshold=record.threshold, low=record.low),
        mode="film" if record.uses_view else "none",
        data_hash=record.data_hash,
        start=lambda: lambda frame, angles: bundle.maps([frame], [angles])[0],
    )


def _maps_of_model(folder: Path, settings: ArmSettings, mirror: bool) -> Maps:
    model = open_model(folder, settings)
    return lambda frame, angles: CachedPredictor(model, frame, mirror).probability_map(angles)


def judge(name: str, judged: Judged, cases: Cases, out: Path) -> ArmResults:
    """Measure every case, and write cases.csv and pictures/ into the folder `out`, as the evaluation of an arm.

    Raises UserError for a case without angles where the model uses them.
    """
    maps, spaced, run = judged.start(), all_spaced(cases), (judged.fold, judged.seed)
    rows: list[Cells] = []
    with replacing(out) as folder:
        (folder / "pictures").mkdir(parents=True)
        write_pictures(cases, folder / "pictures")
        for i in bar(f"compare {name}", "case")(range(len(cases))):
            case = cases[i]
            probability = maps(case.frame, angles_of(case, judged.mode))
            mask = threshold_mask(probability, judged.rule.threshold, judged.rule.low)
            write_map(probability, mask, folder / "pictures", judged.seed, i)
            rows.append(measured(case, probability, mask, run, spaced))
        write_cells(folder / "cases.csv", rows)
        pooled = reliability(folder / "pictures")
    return ArmResults(
        read_cases(out / "cases.csv", may_be_empty=False), out / "pictures", judged.seed, reliability=pooled
    )
