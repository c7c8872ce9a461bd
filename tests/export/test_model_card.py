"""The model card of a bundle: it says what is known of this very model, and names nobody."""

from pathlib import Path

import pytest
import yaml
from helpers.models import UNET, card_of, changed, rule_of_card

from nightshift.core.records import ModelResult, ModelResults
from nightshift.data.dataset import data_hash
from nightshift.export.model_card import RESULTS, ModelCard, as_markdown, model_card
from nightshift.model.card import Card

FOLDER = Path("models/lora/fold-0/seed-3")
LIMITS = ["The test set has only 2 patients: single ones weigh heavily in every mean."]


def judged(card):
    """Leave the comparison of the project, in which this is the model of that name."""
    result = ModelResult(card=card.digest, dice=0.71234, ci95=[0.6, 0.8], cases=2, patients=2)
    ModelResults(
        answer="LoRA is better: LoRA +0.1 Dice, p < 0.01.",
        recommended="lora",
        limits=LIMITS,
        models={"lora": {f"fold-0/seed-{card.seed}": result}},
    ).write(RESULTS)


def of_model(folder: Path, card: Card) -> ModelCard:
    """The model card of a model whose masks are made by its own threshold."""
    return model_card(folder, card, rule_of_card(card), evaluated=True)


@pytest.fixture
def card(small, prepared):
    """Of a LoRA model that was trained on data/prepared."""
    return card_of(small(arm="lora")).model_copy(update={"data_hash": data_hash()})


def test_it_says_what_the_comparison_says_of_this_very_model(card, tmp_path):
    judged(card)
    found = of_model(FOLDER, card)
    assert (found.arm, found.kind, found.fold, found.seed, found.resolution) == ("lora", "lora", 0, 3, 56)
    assert found.judged and (found.judged.result.dice, found.judged.limits) == (0.71234, LIMITS)
    found.write(tmp_path / "model_card.json")
    assert ModelCard.read(tmp_path / "model_card.json") == found
    text = as_markdown(found)
    assert "Dice 0.712 (95 % interval 0.600 to 0.800) on 2 test cases of 2 patients" in text
    assert "LoRA is better: LoRA +0.1 Dice, p &lt; 0.01. Recommended: lora." in text and f"- {LIMITS[0]}" in text
    assert "5 cases of 5 patients; 2 cases to choose by" in text and card.data_hash in text
    assert "not a medical device" in text and "random weights" in text and "no weights of SAM 3" in text
    assert yaml.safe_load(text.split("```")[1].removeprefix("yaml"))["arm"]["rank"] == 2


@pytest.mark.parametrize("other", [{"epoch": 2}, {"seed": 4}, None])
def test_it_was_not_judged_where_the_comparison_is_of_another_model(card, other):
    if other:
        judged(card.model_copy(update=other))
    found = of_model(FOLDER, card)
    assert found.judged is None
    assert "It was not judged" in as_markdown(found) and "Dice of the 2 validation cases" in as_markdown(found)


def test_the_views_are_those_of_the_training_cases(card):
    found = of_model(FOLDER, card)
    assert found.views and (found.views.primary, found.views.secondary) == ([0.0, 28.0], [-10.0, -10.0])
    assert found.views.quadrants == {"RAO cranial": 0, "RAO caudal": 0, "LAO cranial": 0, "LAO caudal": 5}
    assert "| Primary (LAO positive, RAO negative) | 0.0 | 28.0 |" in as_markdown(found)
    other = of_model(FOLDER, card.model_copy(update={"data_hash": "other"}))
    assert other.views is None and "Which ones it was trained on is not known" in as_markdown(other)
    plain = of_model(FOLDER, card.model_copy(update={"settings": changed(card.settings, view={"mode": "none"})}))
    assert plain.views is None and "The angles of the C-arm are not used." in as_markdown(plain)


def test_weights_of_sam_3_have_their_licence_and_no_path(card):
    for place in ("/home/jane/sam3.pt", "C:\\Users\\jane\\sam3.pt"):
        settings = changed(card.settings, encoder={"weights": place})
        weights = {"path": place, "sha256": "ab12", "size": 9}
        found = of_model(FOLDER, card.model_copy(update={"settings": settings, "weights": weights}))
        text = as_markdown(found)
        assert "sam3.pt, SHA-256 `ab12`" in text and "under the SAM License" in text and "random weights" not in text
        assert "jane" not in text and "jane" not in found.model_dump_json()


def test_it_names_no_patient_no_case_and_no_folder(card, tmp_path):
    judged(card)
    text = as_markdown(of_model(FOLDER.absolute(), card)) + of_model(FOLDER, card).model_dump_json()
    assert "case-" not in text and str(tmp_path) not in text


def test_an_arm_without_an_encoder(small, prepared):
    card = card_of(small({"arms.unet": UNET}, "unet")).model_copy(update={"weights": {"path": "none"}})
    text = as_markdown(of_model(FOLDER, card))
    assert "| Encoder | none |" in text and "no weights of SAM 3" in text and "random weights" not in text
