"""How long one frame takes: a prediction, and the evaluation of a test case with its ablations.

An opened LoRA model has its adapters merged and computes what the frozen arm computes; unmerged it is measured beside.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from helpers.models import card_of, rule_of_card

from benchmarks.gpu_epochs import SIDE, write_noise
from benchmarks.gpu_rows import Bench, Measurement, speed_rows
from benchmarks.timing import Row
from nightshift.data.dataset import Cases
from nightshift.evaluation.evaluate import evaluate_model
from nightshift.model.kinds import kind_of
from nightshift.model.predictor import CachedPredictor


def measurements(bench: Bench) -> Iterator[Measurement]:
    """Both arms, batch 1."""
    for arm in ("frozen", "lora"):
        yield f"predict_{arm}", lambda arm=arm: predict_rows(arm, bench)
    yield "evaluate_frozen", lambda: evaluate_rows(bench)


def predict_rows(arm: str, bench: Bench) -> Iterator[Row]:
    """From a frame in memory to its probability map."""
    settings = bench.settings(arm)
    model = kind_of(settings).build(settings, str(bench.device)).to(bench.device).eval()
    frame = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    name = "frozen, and lora merged" if arm == "frozen" else "lora unmerged"
    yield from speed_rows(
        f"predict/{name}", lambda: CachedPredictor(model, frame).probability_map((0.0, 0.0)), bench, 1
    )


def evaluate_rows(bench: Bench) -> Iterator[Row]:
    """A test case: maps, masks, measures and ablations."""
    settings, count = bench.settings("frozen"), 2
    model = kind_of(settings).build(settings, str(bench.device)).to(bench.device).eval()
    with tempfile.TemporaryDirectory() as temporary:
        cases: Cases = write_noise(Path(temporary) / "cases", count)
        card, folder = card_of(settings), Path(temporary)
        rule = rule_of_card(card)
        yield from speed_rows(
            "evaluate/as_it_is",
            lambda: evaluate_model(model, cases, card, rule, folder, iter),
            bench,
            count,
        )
