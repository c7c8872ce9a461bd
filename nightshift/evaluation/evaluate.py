"""Trained models on the test cases: how well masks fit, and what is lost without the right view or the encoder.

Masks are measured at the frame's own size. Threshold and epoch come from the card, that is from validation. Each model
is tested on the test cases of its fold, and on all cases of a second data set where there is one.
"""

import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from nightshift.carm import FAR, Angles, apart
from nightshift.config.params import ArmSettings, EncoderArmSettings
from nightshift.config.sections import Predict
from nightshift.console.progress import bar
from nightshift.core.io import replacing, write_csv, write_json
from nightshift.core.tables import write_table
from nightshift.data.dataset import SPACING, Case, Cases, free_name, open_part, read_folds
from nightshift.data.locations import EXTERNAL, MODELS
from nightshift.data.samples import angles_of
from nightshift.engine import checkpoints
from nightshift.engine.device import device, seed_everything
from nightshift.evaluation.calibration import calibration, reliability
from nightshift.evaluation.measures import CALIBRATION, MEASURES, MILLIMETRES, all_measures, dice, millimetres
from nightshift.evaluation.rules import NAME, Rule, Rules, rule_of
from nightshift.jobs import resources
from nightshift.model.base import ArmModel
from nightshift.model.card import Card, read_card
from nightshift.model.kinds import kind_of
from nightshift.model.predictor import CachedPredictor, threshold_mask

WHO = ("fold", "seed", "case_id", "patient_id", "primary_angle", "secondary_angle")
COLUMNS = (*WHO, *MEASURES, *CALIBRATION)
ABLATIONS = ("fold", "seed", "case_id", "patient_id", "ablation", "dice")
Cells = dict[str, str | float | int]  # of one row, by column


def evaluate_model(
    model: ArmModel,
    cases: Cases,
    card: Card,
    rule: Rule,
    pictures: Path,
    progress: Callable[[Iterable[int]], Iterable[int]],
    spaced: bool,
    first: int = 0,
) -> tuple[list[Cells], list[Cells]]:
    """A row (COLUMNS) per case with masks by `rule`, and one (ABLATIONS) per case and ablation.

    After COLUMNS come MILLIMETRES, where every test case of every fold is `spaced`, and the cases' groups.
    Maps and masks go to pictures/probability-SEED-NNNNN.png and prediction-SEED-NNNNN.png, numbered from `first`.
    """
    rows: list[Cells] = []
    ablated: list[Cells] = []
    for i in progress(range(len(cases))):
        case = cases[i]
        angles = angles_of(case, card.settings.view.mode)
        predictor = CachedPredictor(model, case.frame, rule.mirror)
        probability = predictor.probability_map(angles)
        mask = threshold_mask(probability, rule.threshold, rule.low)
        write_map(probability, mask, pictures, card.seed, first + i)
        rows.append(row := measured(case, probability, mask, (card.fold, card.seed), spaced))
        for ablation, (view, tokens) in _ablations(cases, i, case, angles, card.settings).items():
            found = threshold_mask(predictor.probability_map(view, tokens), rule.threshold, rule.low)
            ablated.append(
                {key: row[key] for key in ABLATIONS[:4]} | {"ablation": ablation, "dice": dice(found, case.mask)}
            )
    return rows, ablated


def external_rows(
    model: ArmModel, cases: Cases, card: Card, rule: Rule, progress: Callable[[Iterable[int]], Iterable[int]]
) -> list[Cells]:
    """The rows of `evaluate_model`, for cases of a second data set: no pictures, no ablations."""
    rows, spaced = [], all_spaced(cases)
    for i in progress(range(len(cases))):
        case = cases[i]
        angles = angles_of(case, card.settings.view.mode)
        probability = CachedPredictor(model, case.frame, rule.mirror).probability_map(angles)
        mask = threshold_mask(probability, rule.threshold, rule.low)
        rows.append(measured(case, probability, mask, (card.fold, card.seed), spaced))
    return rows


def all_spaced(*parts: Cases) -> bool:
    """Whether the size of a pixel is known of every case."""
    return all(row.get(SPACING[0]) for cases in parts for row in cases.rows)


def measured(case: Case, probability: np.ndarray, mask: np.ndarray, run: tuple[int, int], spaced: bool) -> Cells:
    """COLUMNS of one case, its groups, and where every case of its set is `spaced` MILLIMETRES.

    Args:
        case: with its true mask.
        probability: (H, W) uint16, as `CachedPredictor` makes it.
        mask: (H, W) bool, made of it.
        run: fold and seed of the model.
        spaced: as `all_spaced`.
    """
    values = (*run, case.case_id, case.patient_id, *(case.angles or ("", "")))
    spacing = case.spacing if spaced else None
    found = all_measures(mask, case.mask, spacing) | calibration(probability, case.mask)
    if spacing is not None:
        found |= millimetres(mask, case.mask, spacing)
    groups = {free_name(name, COLUMNS + MILLIMETRES): value for name, value in case.groups.items()}
    return dict(zip(WHO, values, strict=True)) | found | groups


def _ablations(
    cases: Cases, i: int, case: Case, angles: Angles, settings: ArmSettings
) -> dict[str, tuple[Angles, bool]]:
    """By name, the view that the model is given, and whether it is given the encoder's tokens, where it has one."""
    asked: dict[str, tuple[Angles, bool]] = {}
    if isinstance(settings, EncoderArmSettings):
        asked["no_tokens"] = (angles, False)
    if case.angles is not None and settings.arm.uses_view:
        asked["zero_angles"] = ((0.0, 0.0), True)
        if (other := wrong_angles(cases, i)) is not None:
            asked["wrong_angles"] = (other, True)
    return asked


def wrong_angles(cases: Cases, i: int) -> Angles | None:
    """The angles of another case at least FAR degrees away, always the same one; None where there is none.

    None too where case i has no angles itself: any could be its own.
    """
    views = [_angles(row) for row in cases.rows]
    own = views[i]
    far = [view for view in views if view is not None and own is not None and apart(view, own) >= FAR]
    return random.Random(i).choice(far) if far else None  # noqa: S311, no secret


def _angles(row: dict[str, str]) -> Angles | None:
    return (float(row["primary_angle"]), float(row["secondary_angle"])) if row["primary_angle"] else None


def write_pictures(cases: Cases, pictures: Path, first: int = 0) -> None:
    """Write frame-NNNNN.png and truth-NNNNN.png per case, by number: a case id is never used as a path."""
    for i in range(len(cases)):
        case = cases[i]
        Image.fromarray(case.frame).save(pictures / f"frame-{first + i:05d}.png")
        _save_mask(case.mask, pictures / f"truth-{first + i:05d}.png")


def write_map(probability: np.ndarray, mask: np.ndarray, pictures: Path, seed: int, number: int) -> None:
    """Write probability-SEED-NNNNN.png, 16 bit, and the mask made of it, prediction-SEED-NNNNN.png."""
    Image.fromarray(probability).save(pictures / f"probability-{seed}-{number:05d}.png")
    _save_mask(mask, pictures / f"prediction-{seed}-{number:05d}.png")


def _save_mask(mask: np.ndarray, path: Path) -> None:
    Image.fromarray((mask > 0).astype(np.uint8) * 255).save(path)


def means(cases: pd.DataFrame) -> dict[str, float | int]:
    """Means over cases and seeds, and how many cases and patients (a case without a patient id counts as one).

    A case where a measure is NaN is left out of its mean; a measure that no case has is left out.
    """
    once = cases.drop_duplicates("case_id")
    patients = once["patient_id"].where(once["patient_id"] != "", "case " + once["case_id"])
    known = [name for name in (*MEASURES, *CALIBRATION) if cases[name].notna().any()]
    found: dict[str, float | int] = {name: round(float(cases[name].mean()), 6) for name in known}
    return found | {"cases": len(once), "patients": int(patients.nunique())}


def evaluate_arm(name: str, predict: Predict) -> None:
    """Every model of the arm on the test cases of its fold, and on the second data set -> reports/evaluation/NAME.

    `predict`: how masks are made; what that takes beyond a model's card is chosen by the validation cases of its fold.
    Raises UserError for a model that is missing, damaged or of another encoder.
    """
    out, folds = Path("reports/evaluation") / name, read_folds().folds
    folders = {fold: sorted((MODELS / name / f"fold-{fold}").iterdir()) for fold in range(len(folds))}
    checkpoints.tidy(f"train@{name}", [folder for of_fold in folders.values() for folder in of_fold])
    rules: dict[str, Rule] = {}
    rows: list[Cells] = []
    ablated: list[Cells] = []
    second, of_second = Cases(EXTERNAL, details=True), list[Cells]()
    with resources.recorded(name, "evaluate") as record, replacing(out / "pictures") as pictures:
        seed_everything(0)
        pictures.mkdir()
        start, first = time.perf_counter(), 0
        spaced = all_spaced(*(open_part(fold, "test") for fold in folders))
        for fold, of_fold in folders.items():
            cases = open_part(fold, "test")
            write_pictures(cases, pictures, first)
            for folder in of_fold:
                card = read_card(folder)
                model = kind_of(card.settings).open_model(folder, card.settings).to(device())
                progress = bar(f"evaluate {name}, fold {fold}, seed {card.seed}", "case")
                rule = rule_of(model, card, predict, open_part(fold, "val"))
                rules[f"{folder.parent.name}/{folder.name}"] = rule
                found, more = evaluate_model(model, cases, card, rule, pictures, progress, spaced, first)
                rows += found
                ablated += more
                of_second += external_rows(model, second, card, rule, progress)
            first += len(cases)
        pooled = reliability(pictures)
        speed = (len(rows) + len(of_second)) / (time.perf_counter() - start)
        record |= {"cases": first + len(second), "cases_per_second": round(speed, 3)}
    Rules(rules=rules).write(out / NAME)
    write_cells(out / "cases.csv", rows)
    write_cells(out / "external.csv", of_second)
    write_csv(out / "ablations.csv", ABLATIONS, ablated)
    write_table(out / "reliability.csv", pooled)
    write_json(out / "metrics.json", means(pd.DataFrame(rows)))
    also = f" and {len(second)} cases of the second data set" if len(second) else ""
    print(f"{name} arm on {first} test cases{also}: {out.as_posix()}")


def write_cells(path: Path, rows: list[Cells]) -> None:
    """Write a table of `rows`, with a header also where there are none."""
    write_csv(path, list(dict.fromkeys([*COLUMNS, *(column for row in rows for column in row)])), rows)
