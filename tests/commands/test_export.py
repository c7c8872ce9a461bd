"""`nightshift export`: every mistake is one line, and nothing half-written is left. Bundles: tests/export."""

from pathlib import Path

import pytest
from helpers.bundles import write_bright_graph
from helpers.models import WITHOUT_ENCODER, card_of, pretend_trained

from nightshift.commands.main import dispatch
from nightshift.console.errors import UserError
from nightshift.core.io import write_text
from nightshift.evaluation.rules import Rule, Rules
from nightshift.export import bundle

MODEL = "models/unet/fold-0/seed-3"


def refused(*arguments, model=MODEL) -> str:
    """The one line that such a command ends in; nothing is written."""
    before = sorted(Path().iterdir())
    with pytest.raises(UserError) as caught:
        dispatch(["export", model, "-o", "out", *arguments])
    assert "\n" not in str(caught.value) and sorted(Path().iterdir()) == before
    return str(caught.value)


@pytest.fixture
def unet(small):
    """A U-Net in MODEL."""
    pretend_trained(small(WITHOUT_ENCODER, "unet"), None, Path(MODEL))


@pytest.mark.parametrize("name", ["out", "out/"])
def test_nothing_is_overwritten(unet, name):
    write_text("out/mine.txt", "mine")
    assert "out: is there already; name a new folder with -o" in refused()
    assert Path("out/mine.txt").read_text() == "mine" and len(list(Path("out").iterdir())) == 1


@pytest.mark.parametrize(
    "kind, message",
    [
        ("vesselness", "needs no export: it is a filter of scikit-image, with the scales in its filter.json"),
        ("zero_shot", "nothing was trained of it; it is transformers' Sam3Model, with the prompt and the threshold"),
    ],
)
def test_kinds_that_nothing_is_trained_of_need_none(small, kind, message):
    settings = small({"arms.mine": {"kind": kind}, "encoder.weights": "w.safetensors"}, "mine")
    card = card_of(settings).model_copy(update={"epoch": 0})
    card.write(Path("models/mine/card.json"))
    assert message in refused(model="models/mine")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--to", "onx"], "--to onx: did you mean 'onnx'?"),
        (["--to", "onnx,tflite"], "--to tflite: "),
        (["--with-cases"], "--with-cases: data/prepared is not what this model was trained on; go to its project"),
        (["--rules", "rules.json"], "rules.json: no fold-0/seed-3 in it, only fold-1/seed-0"),
        (["--weights", "w.pt"], "was trained on random weights, not on w.pt; leave --weights out"),
        (["--to", "onnx,sam3"], "kind unet trains nothing of SAM 3; export an arm of kind lora or full"),
    ],
)
def test_wrong_arguments_are_one_line(unet, prepared, arguments, message):
    Rules(rules={"fold-1/seed-0": Rule(mirror=False, threshold=0.5)}).write(Path("rules.json"))
    assert message in refused(*arguments)


def test_test_cases_are_of_a_project(unet):
    assert "--with-cases: data/prepared is not what this model was trained on" in refused("--with-cases")


@pytest.mark.parametrize("model", ["models/unet", "conf", "nowhere"])
def test_a_folder_without_a_model_is_no_model(unet, model):
    assert f"{model}: no card.json in it; " in refused(model=model)


def test_a_graph_that_is_not_the_model_is_not_kept(unet, monkeypatch):
    monkeypatch.setattr(bundle, "traced", lambda _: None)
    monkeypatch.setattr(bundle, "write_onnx", lambda _, file: write_bright_graph(file))
    said = refused()
    assert "model.onnx does not give what the model gives: probabilities differ by up to " in said
    assert said.endswith("; leave that format out of --to")
