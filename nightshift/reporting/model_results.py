"""What the comparison says of each trained model, for its card."""

from collections.abc import Mapping
from pathlib import Path

from nightshift.core.records import ModelResult, ModelResults
from nightshift.data.locations import model_folder
from nightshift.model.card import Card
from nightshift.reporting.about import About
from nightshift.reporting.load import ArmResults
from nightshift.reporting.significance import mean_interval, per_unit, round6, size
from nightshift.reporting.summary import Comparison
from nightshift.reporting.text_limits import limits, not_alike


def model_results(arms: Mapping[str, ArmResults], comparison: Comparison, about: About, answer: str) -> ModelResults:
    """The results of the models of all arms.

    Args:
        arms: the results of a run of the pipeline.
        comparison: their numbers.
        about: the run.
        answer: the report's first sentence.
    """
    metrics = comparison.metrics
    return ModelResults(
        answer=answer,
        recommended=metrics.recommended,
        limits=[*about.unnamed, *not_alike(arms), *limits(arms, metrics.level)],
        models={
            name: {model_folder(Path(), card.fold, card.seed).as_posix(): _result(card, arm) for card in arm.cards}
            for name, arm in arms.items()
        },
    )


def _result(card: Card, arm: ArmResults) -> ModelResult:
    """Of one model on the test cases of its fold."""
    rows = arm.cases[(arm.cases["fold"] == card.fold) & (arm.cases["seed"] == card.seed)]
    dice, (cases, patients) = per_unit(rows, "dice"), size(rows)
    return ModelResult(
        card=card.digest,
        dice=round6(dice.mean()),
        ci95=mean_interval(dice.to_numpy()),
        cases=cases,
        patients=patients,
    )
