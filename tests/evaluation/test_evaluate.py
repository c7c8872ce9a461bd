"""The evaluation of an arm on test cases: rows, what is kept of its predictions, and the ablations.

The arms are untrained, and the threshold is the middle of what they say: masks that are neither empty nor full.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.data import source_case, written
from helpers.models import WITHOUT_ENCODER, card_of, new_model, rule_of_card
from PIL import Image

from nightshift.carm import FAR, apart
from nightshift.data.dataset import Cases
from nightshift.data.letterbox import frame_to_square, square_to_frame
from nightshift.data.samples import angles_of
from nightshift.evaluation import evaluate
from nightshift.evaluation.calibration import calibration
from nightshift.evaluation.evaluate import ABLATIONS, COLUMNS, wrong_angles
from nightshift.evaluation.measures import CALIBRATION, MEASURES, MILLIMETRES, all_measures
from nightshift.ingest.prepared import write_cases
from nightshift.model.kinds import kind_of
from nightshift.model.predictor import MAP_MAX, CachedPredictor, threshold_mask
from nightshift.model.segmentation import Prepared

VIEWS = [(-30.0, 20.0), (45.0, -20.0), (0.0, 30.0), (-5.0, -30.0), (90.0, 0.0), (-20.0, 25.0)]


@pytest.fixture
def cases(checkout):
    """make(VIEWS): test cases of different sizes, seen from these angles."""

    def make(views):
        raw = [source_case(7 + i, f"p{i // 2}", angles=angles) for i, angles in enumerate(views)]
        return written(checkout / "data/prepared", raw)

    return make


def evaluated(settings, cases, checkout, card=None):
    """Rows, rows of ablations by case and name, and the folder of pictures."""
    card = card or card_of(settings)
    folder = checkout / f"pictures-{card.threshold}"
    folder.mkdir()
    model, rule, spaced = new_model(settings).eval(), rule_of_card(card), evaluate.all_spaced(cases)
    rows, ablated = evaluate.evaluate_model(model, cases, card, rule, folder, iter, spaced)
    return rows, {(one["case_id"], one["ablation"]): one for one in ablated}, folder


def picture(path):
    return np.array(Image.open(path))


def middle(settings, cases):
    """A card with the median of what the arm says as its threshold."""
    maps = [
        CachedPredictor(new_model(settings).eval(), case.frame).probability_map(angles_of(case, settings.view.mode))
        for case in cases
    ]
    return card_of(settings, threshold=float(np.median(np.concatenate([one.ravel() for one in maps]))) / MAP_MAX)


def test_rows_are_of_masks_that_the_kept_maps_give_at_the_threshold(small, cases, checkout):
    settings, some = small(), cases(VIEWS[:3])
    card = middle(settings, some)
    rows, _, folder = evaluated(settings, some, checkout, card)
    assert [row["case_id"] for row in rows] == [case.case_id for case in some]
    arm = new_model(settings).eval()
    for i, (case, row) in enumerate(zip(some, rows, strict=True)):
        assert tuple(row) == COLUMNS and row["seed"] == 3
        assert (row["patient_id"], row["primary_angle"], row["secondary_angle"]) == (case.patient_id, *VIEWS[i])
        kept, mask = (picture(folder / f"{what}-3-{i:05d}.png") for what in ("probability", "prediction"))
        assert (kept.dtype, kept.shape) == (np.uint16, case.frame.shape)
        np.testing.assert_array_equal(mask, 255 * (kept / 65535 > card.threshold))
        assert 0.05 < (mask > 0).mean() < 0.95
        expected = all_measures(mask > 0, case.mask) | calibration(kept, case.mask)
        assert {name: row[name] for name in expected} == pytest.approx(expected, nan_ok=True, abs=0)
        with torch.no_grad():
            logits = arm(None, torch.tensor([case.angles]), frame_to_square(case.frame, settings.resolution)[None])
        exact = square_to_frame(logits.sigmoid()[0, 0], *case.frame.shape).numpy()
        assert np.abs(kept / 65535 - exact).max() < 0.51 / 65535


def test_groups_and_millimetres_stand_after_the_columns_that_are_always_there(small, checkout):
    raw = [
        replace(source_case(7 + i), spacing=(0.5, 0.5), groups={"phase": "a", "dice": "b"} if i else {})
        for i in range(2)
    ]
    write_cases(checkout / "test", raw, iter)
    settings, some = small(), Cases(checkout / "test", details=True)
    rows, *_ = evaluated(settings, some, checkout, middle(settings, some))
    assert tuple(rows[0]) == tuple(rows[1]) == (*COLUMNS, *MILLIMETRES, "phase", "source_dice")
    assert rows[1]["hd95_mm"] == pytest.approx(rows[1]["hd95"] / 2, abs=1e-5)
    assert [(row["phase"], row["source_dice"]) for row in rows] == [("", ""), ("a", "b")]
    some.rows[1]["row_spacing"] = ""  # one of them has none: no mean is made of the others
    (checkout / f"pictures-{middle(settings, some).threshold}").rename("before")
    assert "hd95_mm" not in evaluated(settings, some, checkout, middle(settings, some))[0][0]


def test_a_second_data_set_is_measured_as_the_test_cases_are(small, cases, checkout):
    settings, some = small(), cases(VIEWS[:3])
    card = middle(settings, some)
    rows, *_ = evaluated(settings, some, checkout, card)
    again = evaluate.external_rows(new_model(settings).eval(), some, card, rule_of_card(card), iter)
    pd.testing.assert_frame_equal(pd.DataFrame(again), pd.DataFrame(rows))


def test_the_cards_threshold_alone_decides_the_mask(small, cases, checkout):
    settings, some = small(), cases(VIEWS[:1])
    low, high = (evaluated(settings, some, checkout, card_of(settings, threshold=t)) for t in (0.0, 1.0))
    assert low[0][0]["recall"] == 1 and low[0][0]["dice"] > 0
    assert high[0][0]["dice"] == 0 and high[0][0]["hd95"] == pytest.approx(np.hypot(*some[0].frame.shape), abs=1e-6)
    maps = [picture(folder / "probability-3-00000.png") for *_, folder in (low, high)]
    np.testing.assert_array_equal(*maps)
    assert threshold_mask(np.array([0, 32767, 32768, MAP_MAX], np.uint16), 0.5).tolist() == [False, False, True, True]


def test_every_ablation_is_made_for_every_case_it_can_be_made_for(small, cases, checkout):
    settings, some = small(), cases(VIEWS)
    card = middle(settings, some)
    rows, ablated, _ = evaluated(settings, some, checkout, card)
    assert [key[0] for key in ablated] == [row["case_id"] for row in rows for _ in range(3)]
    arm, differ = new_model(settings).eval(), set()
    for i, (case, row) in enumerate(zip(some, rows, strict=True)):
        predictor = CachedPredictor(arm, case.frame)
        asked = {
            "no_tokens": (case.angles, False),
            "zero_angles": ((0.0, 0.0), True),
            "wrong_angles": (wrong_angles(some, i), True),
        }
        for name, how in asked.items():
            one = ablated[case.case_id, name]
            assert tuple(one) == ABLATIONS and (one["seed"], one["patient_id"]) == (3, case.patient_id)
            assert (
                one["dice"]
                == all_measures(threshold_mask(predictor.probability_map(*how), card.threshold), case.mask)["dice"]
            )
            differ |= {name} if one["dice"] != row["dice"] else set()
    assert differ == set(asked)  # the untrained arm does look at the view


def test_without_a_view_in_the_model_wrong_angles_change_nothing_at_all(small, cases, checkout):
    settings, some = small({"view.mode": "none"}), cases([*VIEWS, None])
    rows, ablated, _ = evaluated(settings, some, checkout, middle(settings, some))
    assert all(0 < row["dice"] < 1 for row in rows)
    for row in rows[:-1]:
        assert ablated[row["case_id"], "wrong_angles"]["dice"] == row["dice"]
        assert ablated[row["case_id"], "zero_angles"]["dice"] == row["dice"]
    assert any(ablated[row["case_id"], "no_tokens"]["dice"] != row["dice"] for row in rows)
    last = rows[-1]
    assert (last["primary_angle"], last["secondary_angle"]) == ("", "")
    assert [name for case, name in ablated if case == last["case_id"]] == ["no_tokens"]


@pytest.mark.parametrize(("name", "ablations"), [("unet", ["zero_angles", "wrong_angles"]), ("vesselness", [])])
def test_without_an_encoder_there_are_no_tokens_to_take_away(small, cases, checkout, name, ablations):
    settings, some = small(WITHOUT_ENCODER, name), cases(VIEWS)
    model = kind_of(settings).build(settings).eval()
    rows, ablated = evaluate.evaluate_model(
        model, some, card_of(settings), rule_of_card(card_of(settings)), checkout, iter, spaced=False
    )
    assert len(rows) == len(VIEWS)
    assert [one["ablation"] for one in ablated] == ablations * len(VIEWS)


def test_wrong_angles_are_those_of_another_case_far_away_and_always_the_same(cases):
    some = cases([VIEWS[0], None, *VIEWS[1:]])
    given = [wrong_angles(some, i) for i in range(len(some))]
    for i, angles in enumerate(given):
        own = some[i].angles
        assert (angles is None) == (own is None)
        assert own is None or (angles in VIEWS and apart(angles, own) >= FAR == 40)
    assert given == [wrong_angles(some, i) for i in range(len(some))]
    assert len(set(given)) > 3


@pytest.mark.parametrize("views", [[(0.0, 0.0), (39.0, 0.0)], [(10.0, 10.0)], [None, None], [(0.0, 0.0), None]])
def test_there_may_be_no_wrong_angles(small, cases, checkout, views):
    some = cases(views)
    assert [wrong_angles(some, i) for i in range(len(views))] == [None] * len(views)
    _, ablated, _ = evaluated(small({"view.mode": "none"}), some, checkout)
    known = [case.case_id for case in some if case.angles is not None]
    assert {case for case, name in ablated if name == "zero_angles"} == set(known)
    assert not any(name == "wrong_angles" for _, name in ablated) and len(ablated) == len(views) + len(known)


def test_averaged_tokens_no_longer_say_where(small, cases):
    settings = small()
    case, arm = cases(VIEWS[:1])[0], new_model(settings).eval()
    predictor = CachedPredictor(arm, case.frame)
    whole, averaged = (predictor.probability_map(case.angles, tokens).astype(int) for tokens in (True, False))
    features = predictor.prepared.features
    order = torch.randperm(features[0, 0].numel(), generator=torch.Generator().manual_seed(0))
    features = features.flatten(2)[..., order].unflatten(2, features.shape[2:])
    with torch.no_grad():
        predictor.prepared = Prepared(predictor.prepared.images, features, arm.levels(features))
    assert np.abs(predictor.probability_map(case.angles, False).astype(int) - averaged).max() <= 1  # of 65535
    assert np.abs(predictor.probability_map(case.angles).astype(int) - whole).max() > 100
    predictor.prepared = predictor.prepared._replace(features=features * 2)  # but they still say what there is
    assert np.abs(predictor.probability_map(case.angles, False).astype(int) - averaged).max() > 100


def test_means_are_over_cases_and_seeds():
    values = ((0, "a", "P", 0.1), (0, "b", "P", 0.2), (0, "c", "", 0.3), (1, "a", "P", 0.6))
    rows = [
        dict.fromkeys((*MEASURES, *CALIBRATION), value) | {"seed": seed, "case_id": case, "patient_id": patient}
        for seed, case, patient, value in values
    ]
    for row in rows:
        row["recall_thick"] = float("nan")  # no case shows such a vessel, and of thin ones two do
        row["recall_thin"] = row["recall_thin"] if row["dice"] in (0.1, 0.3) else float("nan")
    found = evaluate.means(pd.DataFrame(rows))
    known = [name for name in (*MEASURES, *CALIBRATION) if name != "recall_thick"]
    assert found == dict.fromkeys(known, 0.3) | {"recall_thin": 0.2, "cases": 3, "patients": 2}
