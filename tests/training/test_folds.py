"""All trainings of an arm: folds that see nothing of their test cases, seeds, learning rates, patience, patients."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.models import PLAIN
from PIL import Image

from nightshift.console.errors import UserError
from nightshift.core.io import read_csv, read_json, remove, write_csv
from nightshift.data import dataset
from nightshift.data.dataset import SPACING, open_part, read_folds
from nightshift.data.locations import DETAILS, PREPARED
from nightshift.data.shards import Shards
from nightshift.evaluation.evaluate import evaluate_arm
from nightshift.feature_cache import EncodeSettings, encode_arm
from nightshift.model.kinds import prefix_of
from nightshift.training import arm as arm_module
from nightshift.training import state
from nightshift.training.arm import Training, side_by_side, train_arm, trainings_of


def test_every_case_is_tested_once_by_each_seed_of_its_fold(folds):
    settings = folds(4, {"train.seeds": [0, 3]})
    assert len(Shards(Path("data/encoded/frozen")).index) == 8 == read_json("reports/cost/frozen/encode.json")["cases"]
    train_arm(settings)
    evaluate_arm("frozen", PLAIN)
    rows = read_csv("reports/evaluation/frozen/cases.csv")
    tested = [(int(row["fold"]), row["case_id"]) for row in rows if row["seed"] == "3"]
    assert tested == [(fold, case) for fold, one in enumerate(read_folds().folds) for case in one.test]
    assert sorted(case for _, case in tested) == [f"case-{i}" for i in range(8)] and len(rows) == 2 * 8
    of_second = [
        (row["fold"], row["seed"], row["case_id"]) for row in read_csv("reports/evaluation/frozen/external.csv")
    ]
    assert of_second == [(str(fold), seed, f"case-{i}") for fold in range(4) for seed in "03" for i in (20, 21)]
    models = sorted(path.parent.as_posix() for path in Path("models/frozen").rglob("card.json"))
    assert models == [f"models/frozen/fold-{fold}/seed-{seed}" for fold in range(4) for seed in (0, 3)]
    for i, (_, case) in enumerate(tested):  # pictures are numbered as the rows of a seed
        (original,) = [one for fold in range(4) for one in open_part(fold, "test") if one.case_id == case]
        picture = np.asarray(Image.open(f"reports/evaluation/frozen/pictures/frame-{i:05d}.png"))
        np.testing.assert_array_equal(picture, original.frame)
    assert read_json("models/frozen/fold-3/seed-3/card.json")["tried"] == {}
    curves = read_csv("reports/curves/frozen.csv")
    assert [(row["fold"], row["seed"]) for row in curves] == [(str(f), s) for f in range(4) for s in "03"]


def test_encode_opens_no_mask_and_train_no_test_case(folds, monkeypatch):
    settings = folds(4)
    remove(PREPARED / "masks")
    remove(Path("data/encoded"))
    encode_arm("frozen", EncodeSettings(**settings.model_dump(include=set(EncodeSettings.model_fields))),
               prefix_of(settings))  # fmt: skip
    folds(4)
    opened, real = [], dataset.Cases.__getitem__

    def noted(cases, i):
        opened.append(cases.rows[i]["case_id"])
        return real(cases, i)

    monkeypatch.setattr(dataset.Cases, "__getitem__", noted)
    train_model, at = arm_module.train_model, iter(read_folds().folds)

    def checked(*arguments):
        result, fold = train_model(*arguments), next(at)
        assert set(opened) == {*fold.train, *fold.val} and not set(opened) & set(fold.test)
        opened.clear()
        return result

    monkeypatch.setattr(arm_module, "train_model", checked)
    train_arm(settings)
    assert next(at, None) is None


def test_where_a_case_of_one_fold_has_no_spacing_all_folds_are_measured_in_pixels(folds):
    settings = folds(4, arm="unet")
    train_arm(settings)
    rows = [{"row_spacing": 0.5, "column_spacing": 0.5} for _ in range(8)]
    write_csv(PREPARED / DETAILS, SPACING, rows)
    evaluate_arm("unet", PLAIN)
    assert all(row["hd95_mm"] for row in read_csv("reports/evaluation/unet/cases.csv"))
    write_csv(PREPARED / DETAILS, SPACING, [*rows[:-1], dict.fromkeys(SPACING, "")])
    evaluate_arm("unet", PLAIN)
    assert "hd95_mm" not in read_csv("reports/evaluation/unet/cases.csv")[0]


@pytest.mark.parametrize("count", [1, 4])
def test_fewer_patients_are_among_more(folds, count):
    folds(count)
    everyone = {row["patient_id"] for row in open_part(0, "train").rows}
    chosen = [{row["patient_id"] for row in open_part(0, "train", n).rows} for n in range(1, len(everyone) + 1)]
    assert [len(one) for one in chosen] == list(range(1, len(everyone) + 1))
    assert all(less < more for less, more in pairwise(chosen)) and chosen[-1] == everyone
    with pytest.raises(UserError, match=rf"train\.patients 9: there are {len(everyone)} to train on in fold 0"):
        open_part(0, "train", 9)


def test_an_arm_trains_on_as_many_patients_as_asked(folds):
    settings = folds(1, {"train.patients": 2}, "unet")
    train_arm(settings)
    card = read_json("models/unet/fold-0/seed-0/card.json")
    assert card["patients"] == card["cases"]["train"] == 2 < len(open_part(0, "train"))


def test_the_first_seed_of_a_fold_tries_each_learning_rate_and_the_best_one_is_taken(folds, monkeypatch):
    settings = folds(2, {"train.seeds": [5, 6], "train.learning_rate": [0.001, 0.003, 0.01]}, "unet")
    best, trained, train_model = {0: 0.003, 1: 0.01}, [], arm_module.train_model

    def planted(single, parts, *arguments):
        fold = int(parts["val"].cases.rows[0]["case_id"] not in read_folds().folds[0].val)
        (seed,), rate = single.train.seeds, single.train.rate
        trained.append((fold, seed, rate))
        model, result = train_model(single, parts, *arguments)
        object.__setattr__(result, "val_dice", 0.9 if rate == best[fold] else 0.5)
        return model, result

    monkeypatch.setattr(arm_module, "train_model", planted)
    train_arm(settings)
    assert sorted(trained) == sorted(
        [(fold, 5, rate) for fold in (0, 1) for rate in (0.001, 0.003, 0.01)] + [(0, 6, 0.003), (1, 6, 0.01)]
    )
    for fold in (0, 1):
        for seed in (5, 6):
            card = read_json(f"models/unet/fold-{fold}/seed-{seed}/card.json")
            assert card["learning_rate"] == best[fold]
            assert card["tried"] == {f"{rate:g}": 0.9 if rate == best[fold] else 0.5 for rate in (0.001, 0.003, 0.01)}
    cost = read_json("reports/cost/unet/train.json")
    assert 0 < cost["seconds_tuning"] < cost["seconds"]
    evaluate_arm("unet", PLAIN)
    assert not list(Path(".nightshift/checkpoints/train@unet").iterdir())  # those not taken went, too


def test_patience_ends_a_training_after_its_best_epoch(folds, monkeypatch):
    settings = folds(1, {"train.epochs": {"patience": 2, "at_most": 9}}, "unet")
    dice = iter([0.2, 0.4, 0.3, 0.3, 0.9])
    monkeypatch.setattr(state, "validate", lambda *_: (0.5, np.full(17, next(dice))))
    train_arm(settings)
    curves = read_csv("reports/curves/unet.csv")
    assert [float(row["val_dice"]) for row in curves] == [0.2, 0.4, 0.3, 0.3]
    assert read_json("models/unet/fold-0/seed-0/card.json")["epoch"] == 2


def test_another_seed_or_rate_trains_nothing_again_that_is_still_kept(folds, capsys):
    train_arm(folds(2, {"train.learning_rate": 0.003}, "unet"))
    before = read_json("models/unet/fold-1/seed-0/card.json")
    capsys.readouterr()
    train_arm(folds(2, {"train.learning_rate": [0.003, 1e-9], "train.seeds": [0, 1]}, "unet"))
    out = capsys.readouterr().out
    assert out.count("taken from the run that finished") == 2
    assert "fold 0, seed 0, learning rate 0.003: epoch" not in out and "fold 1, seed 1, learning rate" in out
    after = read_json("models/unet/fold-1/seed-0/card.json")
    assert after["tried"]["0.003"] == before["val_dice"]


def test_trainings_in_their_order(folds):
    settings = folds(2, {"train.seeds": [0, 1], "train.learning_rate": [0.1, 0.2]}, "unet")
    assert trainings_of(settings) == [
        Training(fold, seed, rate) for fold in (0, 1) for seed, rate in ((0, 0.1), (0, 0.2), (1, None))
    ]


@pytest.mark.parametrize(
    ("trainings", "processes", "apart"), [(1, 1, True), (1, 2, False), (2, 2, True), (3, 2, False), (5, 2, True)]
)
def test_trainings_side_by_side(checkout, trainings, processes, apart):
    Path("hardware.yaml").write_text(f"device: cpu\nprocesses: {processes}\n")
    assert side_by_side(trainings) == apart
