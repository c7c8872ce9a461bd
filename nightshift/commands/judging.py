"""Trained models and bundles on cases that they have not seen, measured as the evaluation does."""

from pathlib import Path
from typing import Literal

from nightshift.commands.models import Models, is_bundle, models_of, rules_of_project
from nightshift.console.errors import UserError
from nightshift.console.progress import bar
from nightshift.core.io import replacing
from nightshift.data.dataset import Cases
from nightshift.data.samples import angles_of
from nightshift.evaluation.calibration import reliability
from nightshift.evaluation.evaluate import Cells, all_spaced, measured, write_cells, write_map, write_pictures
from nightshift.model import card as model_card
from nightshift.model.predictor import threshold_mask
from nightshift.reporting.load import ArmResults, read_cases


def open_judged(folder: Path) -> Models:
    """The bundle, or the trained model with the rule of its evaluation, in `folder`.

    Raises UserError for a folder with several models or none, and as `models_of` does.
    """
    cards = {} if is_bundle(folder) else model_card.read_cards(folder)
    if len(cards) > 1:
        raise UserError(f"{folder}: {len(cards)} models; give one of them, as {next(iter(cards)).as_posix()}")
    place = next(iter(cards), folder)
    return models_of(place, rules=rules_of_project(place))


def judge(name: str, models: Models, cases: Cases, out: Path) -> ArmResults:
    """Measure every case, and write cases.csv and pictures/ into the folder `out`, as the evaluation of an arm.

    Raises UserError for a case without angles where the model uses them.
    """
    mode: Literal["film", "none"] = "film" if models.takes_angles else "none"
    maps, spaced, run = models.makers[0](), all_spaced(cases), (models.fold, models.seed)
    rows: list[Cells] = []
    with replacing(out) as folder:
        (folder / "pictures").mkdir(parents=True)
        write_pictures(cases, folder / "pictures")
        for i in bar(f"compare {name}", "case")(range(len(cases))):
            case = cases[i]
            (probability,) = maps([case.frame], [angles_of(case, mode)])
            mask = threshold_mask(probability, models.rule.threshold, models.rule.low)
            write_map(probability, mask, folder / "pictures", models.seed, i)
            rows.append(measured(case, probability, mask, run, spaced))
        write_cells(folder / "cases.csv", rows)
        pooled = reliability(folder / "pictures")
    return ArmResults(
        read_cases(out / "cases.csv", may_be_empty=False), out / "pictures", models.seed, reliability=pooled
    )
