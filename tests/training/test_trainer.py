"""Training with a very small encoder: conditioning, repeatability, losses, and an arm from end to end."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.data import source_case, written
from helpers.models import CPU, PLAIN, UNET, batch, card_of, new_model, rule_of_card, tokens_of, trained_model
from PIL import Image

from nightshift.console.errors import UserError
from nightshift.core.io import read_csv, read_json
from nightshift.core.records import ArmVerdict
from nightshift.data.dataset import data_hash
from nightshift.data.letterbox import square_to_frame
from nightshift.data.samples import TrainingCases, angles_of
from nightshift.engine.device import seed_everything
from nightshift.evaluation import evaluate, measures
from nightshift.feature_cache import EncodeSettings, encode_arm, encode_nothing
from nightshift.model.head import SegmentationHead, view_features
from nightshift.model.kinds import kind_of
from nightshift.model.predictor import THRESHOLDS
from nightshift.training import arm, state, step, validation
from nightshift.training.arm import train_arm
from nightshift.training.losses import loss_of


def test_view_features_are_periodic():
    features = view_features(torch.tensor([[-180.0, 10], [180, 10], [90, 10], [0, 10]]))
    assert features.shape == (4, 12)
    torch.testing.assert_close(features[0], features[1], rtol=0, atol=1e-5)
    assert min((features[k] - features[3]).norm() for k in (0, 2)) > 1
    expected = [f(math.radians(k * a)) for a in (90, 10) for f in (math.sin, math.cos) for k in (1, 2, 3)]
    np.testing.assert_allclose(features[2], expected, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize(("mode", "ignored"), [("none", True), ("film", False)])
def test_the_view_matters_unless_mode_is_none(small, mode, ignored):
    arm = new_model(small({"view.mode": mode})).eval()
    here, there = (arm(None, torch.tensor([angles] * 2), batch()) for angles in ((0.0, 0.0), (60.0, -30.0)))
    assert torch.equal(here, there) is ignored
    around = arm(None, torch.tensor([[-300.0, 330.0]] * 2), batch())
    torch.testing.assert_close(around, there, rtol=0, atol=1e-4)


def test_a_case_without_angles(small, tmp_path):
    cases = written(tmp_path / "c", [source_case(1, angles=None)])
    with pytest.raises(UserError, match=r"case 'case-1' has no view angles.*view\.mode: film.*view\.mode=none"):
        TrainingCases(cases, None, small())[0]
    item = TrainingCases(cases, None, small({"view.mode": "none"}))[0]
    assert item["angles"].tolist() == [0, 0]
    assert angles_of(replace(cases[0], angles=(1.0, 2.0)), "film") == (1.0, 2.0)


@torch.no_grad()
@pytest.mark.parametrize("detail", [True, False])
def test_detail_is_a_stem_of_the_image(small, detail):
    settings = small({"head.detail": detail})
    seed_everything(0)
    head = SegmentationHead(16, settings.head, settings.view)
    levels = [torch.randn(2, 16, side, side) for side in (16, 8, 4, 2)]
    angles = torch.zeros(2, 2)
    if detail:
        assert not torch.allclose(head(levels, angles, batch()), head(levels, angles, -batch()), atol=1e-4)
    else:
        assert torch.equal(head(levels, angles, batch()), head(levels, angles, None))
    for i in range(3):  # each of the levels counts, the coarsest is not used
        changed = [level + torch.randn_like(level) * (k == i) for k, level in enumerate(levels)]
        assert not torch.allclose(head(changed, angles, batch()), head(levels, angles, batch()), atol=1e-4)


@pytest.mark.parametrize("name", ["frozen", "lora"])
def test_same_seed_same_bits_and_only_what_should_be_trained(small, prepared, name):
    settings = small({"arms.lora.dropout": 0.1}, name)
    before = new_model(settings).state_dict()
    arm, one, _ = trained_model(settings, prepared)
    again, two, _ = trained_model(settings, prepared)
    assert one.curves == two.curves
    assert (one.epoch, one.threshold, one.val_dice) == (two.epoch, two.threshold, two.val_dice)
    assert all(torch.equal(a, b) for a, b in zip(arm.state_dict().values(), again.state_dict().values(), strict=True))
    assert trained_model(settings, prepared, seed=1)[1].curves != one.curves
    state = arm.state_dict()
    changed = {name for name in state if not torch.equal(state[name], before[name])}
    assert changed == {n for n in state if n.startswith("head.") or (name == "lora" and "lora_" in n)}


def test_the_best_epoch_is_kept(small, prepared):
    arm, best, _ = trained_model(small({"train.epochs": 6, "train.learning_rate": 0.05}), prepared, seed=2)
    dice = [row["val_dice"] for row in best.curves]
    assert [row["epoch"] for row in best.curves] == [1, 2, 3, 4, 5, 6]
    assert dice.index(max(dice)) == best.epoch - 1 < 5  # or this would not be seen
    loss, again = validation.validate(arm, TrainingCases(prepared["val"], None, small()), 2, CPU)
    assert again.max() == pytest.approx(best.val_dice, abs=1e-6)
    assert THRESHOLDS[int(again.argmax())] == best.threshold
    assert loss == pytest.approx(best.curves[best.epoch - 1]["val_loss"], abs=1e-5)


class Recorded(TrainingCases):
    """Remembers in which order it was read; `broken` is a case whose target is not a number."""

    broken: int | None = None

    def __getitem__(self, i):
        self.order = [*getattr(self, "order", []), i]
        item = super().__getitem__(i)
        return item | {"target": item["target"] * (math.nan if i == self.broken else 1)}


def test_both_arms_see_the_same_order(small, prepared):
    settings = small({"arms.lora.dropout": 0.5})
    orders = [trained_model(small(arm=name), prepared, cases=Recorded)[2].order for name in ("frozen", "lora")]
    assert orders[0] == orders[1]
    assert sorted(orders[0][:5]) == sorted(orders[0][5:]) == list(range(5))
    assert trained_model(settings, prepared, seed=1, cases=Recorded)[2].order != orders[0]


def test_a_loss_that_is_not_finite_names_the_case(small, prepared, tmp_path, monkeypatch):
    settings = small({"train.batch_size": 1})
    monkeypatch.setattr(Recorded, "broken", 3)
    with pytest.raises(UserError, match=r"the loss is not finite in epoch 1, cases case-3;"):
        trained_model(settings, prepared, cases=Recorded)
    tokens = tokens_of(settings, 1, tmp_path / "t")
    values = {name: tokens[name] for name in tokens.index}
    values["tokens.2"][0, 0, 0] = math.nan  # as from a frame that is not finite
    with pytest.raises(UserError, match="cases case-2;"):
        trained_model(
            settings,
            prepared,
            tokens=type("Tokens", (), {"__getitem__": lambda _, name: values[name], "index": values})(),
        )


def test_learning_rate_by_hand(small, prepared):
    factors = [step.learning_rate_factor(number, 20, 0.1) for number in range(21)]
    assert factors == pytest.approx([0.5, 1, *(0.5 * (1 + math.cos(math.pi * k / 18)) for k in range(19))])
    assert step.learning_rate_factor(0, 20, 0.0) == 1
    settings = small({"train.epochs": 4, "train.batch_size": 5, "train.warmup": 0.5})
    curves = trained_model(settings, prepared)[1].curves
    cases = TrainingCases(prepared["train"], None, settings)
    arm, item = new_model(settings), cases.batch(range(len(cases)))
    optimiser = torch.optim.AdamW(arm.head.parameters(), weight_decay=settings.train.weight_decay)
    for factor, expected in zip((0.5, 1, 1, 0.5), curves, strict=True):
        optimiser.param_groups[0]["lr"] = settings.train.learning_rate * factor
        loss = loss_of(step.forward(arm, item), item["target"])
        assert loss.item() == pytest.approx(expected["train_loss"], abs=1e-5)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def test_evaluation_is_at_native_size(small, prepared, tmp_path):
    settings, cases = small(), prepared["test"]
    arm = new_model(settings, 3).eval()
    rows, _ = evaluate.evaluate_model(
        arm, cases, card_of(settings, seed=4), rule_of_card(card_of(settings)), tmp_path, iter, spaced=False
    )
    evaluate.write_pictures(cases, tmp_path)
    for i, (row, case) in enumerate(zip(rows, cases, strict=True)):
        assert tuple(row.values())[:6] == (0, 4, case.case_id, case.patient_id, *case.angles)
        names = (f"{name}-{i:05d}.png" for name in ("prediction-4", "truth", "frame"))
        mask, truth, frame = (np.asarray(Image.open(tmp_path / name)) for name in names)
        item = TrainingCases(cases, None, settings).batch([i])
        with torch.no_grad():
            vessel = square_to_frame(step.forward(arm, item).sigmoid()[0, 0], *case.mask.shape)
        np.testing.assert_array_equal(mask > 0, vessel.numpy() > 0.05)
        np.testing.assert_array_equal(truth, case.mask * 255)
        np.testing.assert_array_equal(frame, case.frame)
        expected = measures.all_measures(mask > 0, case.mask)
        assert {m: row[m] for m in measures.MEASURES} == pytest.approx(expected, nan_ok=True, abs=0)


@pytest.mark.parametrize(("name", "blocks"), [("frozen", 3), ("lora", 1)])
def test_an_arm_from_prepared_to_evaluated(small, prepared, name, blocks):
    settings = small({"train.seeds": [0, 3], "arms.frozen.epochs": 1}, name)
    assert settings.train.epochs == (1 if name == "frozen" else 2)
    prefix = kind_of(settings).prefix(settings)
    assert prefix.blocks == blocks
    ArmVerdict(ok=True, prefix=prefix).write(Path(f"reports/probe/arms/{name}.json"))
    encode_arm(name, EncodeSettings(**settings.model_dump(include={"encoder", "preset", "augment"})), prefix)
    train_arm(settings)
    evaluate.evaluate_arm(name, PLAIN)
    adapters = {"adapter_model.safetensors", "adapter_config.json"} if name == "lora" else set()
    for seed in (0, 3):
        folder = Path("models") / name / f"fold-0/seed-{seed}"
        assert {p.name for p in folder.iterdir()} == {"head.safetensors", "card.json"} | adapters
        card = read_json(folder / "card.json")
        assert (card["seed"], card["settings"]["name"], card["settings"]["arm"]["kind"]) == (seed, name, name)
        assert card["data_hash"] == data_hash()
    rows = read_csv(f"reports/evaluation/{name}/cases.csv")
    assert [(r["seed"], r["case_id"]) for r in rows] == [(s, c) for s in "03" for c in ("case-7", "case-8")]
    dice = read_json(f"reports/evaluation/{name}/metrics.json")["dice"]
    assert dice == pytest.approx(np.mean([float(r["dice"]) for r in rows]), abs=2e-6)
    curves = read_csv(f"reports/curves/{name}.csv")
    assert len(curves) == 2 * settings.train.epochs
    assert list(curves[0]) == list(arm.CURVES)


def test_the_curves_of_a_training_can_be_read_after_each_epoch(small, prepared, monkeypatch):
    lengths, end_epoch = [], state.TrainingState.end_epoch

    def counted(self, *cases):
        path = Path("reports/curves/unet.csv")
        lengths.append(len(read_csv(path)) if path.exists() else 0)
        end_epoch(self, *cases)

    monkeypatch.setattr(state.TrainingState, "end_epoch", counted)
    settings = small({"train.epochs": 3, "train.seeds": [0, 1], "arms.unet": UNET}, "unet")
    encode_nothing("unet")
    train_arm(settings)
    assert lengths == [0, 1, 2, 3, 4, 5]
