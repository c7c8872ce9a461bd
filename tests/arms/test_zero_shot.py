"""SAM 3 without training: transformers' own instances, a score by validation, the very weights or an error."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import PLAIN, batch, card_of, changed
from helpers.sam3_checkpoint import as_video_model, tiny_config, write_checkpoint, write_tokenizer
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer, Sam3Config, Sam3ImageProcessor, Sam3Model

from nightshift import feature_cache
from nightshift.arms import zero_shot
from nightshift.backbone import pretrained
from nightshift.commands import planning
from nightshift.config import params
from nightshift.console.errors import UserError
from nightshift.core.io import write_json
from nightshift.evaluation.evaluate import evaluate_arm
from nightshift.model.card import read_card, settings_of
from nightshift.model.predictor import THRESHOLDS, CachedPredictor, threshold_mask
from nightshift.probe.arm import ProbeArm, verdict_of
from nightshift.training.arm import train_arm
from stages import inputs

ARM = {"kind": "zero_shot", "weights": "sam", "resolution": 56}
FILE = "model.safetensors"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("sam"))


@pytest.fixture
def arm(small, checkpoint):
    """arm(prompt="vessel"): the settings of the arm, with the checkpoint in sam/."""
    shutil.copytree(checkpoint, "sam")
    return lambda **keys: small({"arms.zero": {**ARM, **keys}}, "zero")


@torch.no_grad()
def map_of(settings, images):
    return zero_shot.build(settings)(None, None, images).sigmoid()


@torch.no_grad()
def union_by_transformers(images, prompt, score, side=56):
    """The pixels of all instances above the score, by transformers alone."""
    config = tiny_config()
    config.image_size = side
    model = Sam3Model.from_pretrained("sam", config=config).eval()
    words = CLIPTokenizer.from_pretrained("sam")([prompt] * 2, padding="max_length", max_length=32, return_tensors="pt")
    found = model(images, **words)
    sizes = [(side, side)] * 2
    results = Sam3ImageProcessor().post_process_instance_segmentation(found, threshold=score, target_sizes=sizes)
    nothing = torch.zeros(side, side, dtype=torch.bool)
    return torch.stack([one["masks"].any(0) if len(one["masks"]) else nothing for one in results])


@pytest.mark.parametrize("side", [56, 84])
def test_a_map_above_a_score_is_the_union_of_the_instances_above_it(arm, side):
    images = batch(side=side)
    found = map_of(arm(resolution=side, prompt="a vein"), images)
    scores = found.unique()
    assert len(scores) > 3
    for score in (scores[1:] + scores[:-1]) / 2:
        assert torch.equal(found[:, 0] > score, union_by_transformers(images, "a vein", score, side))


def test_the_prompt_counts(arm):
    assert not torch.equal(map_of(arm(prompt="a vein"), batch()), map_of(arm(prompt="an artery"), batch()))


def test_the_layout_of_the_hub_is_the_same_model(arm):
    before = map_of(arm(), batch())
    as_video_model(Path("sam"))
    assert torch.equal(map_of(arm(), batch()), before)


def test_half_precision_runs(arm):
    model = zero_shot.build(arm().model_copy(update={"precision": "bf16"}))
    with torch.no_grad():
        logits = model(None, None, batch())
    assert logits.dtype == torch.float32 and logits.isfinite().all()


def test_nothing_is_trained_and_no_text_encoder_is_kept(arm):
    model = zero_shot.build(arm())
    assert not [name for name, p in model.named_parameters() if p.requires_grad or "text_encoder" in name]


def test_from_the_choice_on_validation_to_the_masks_of_the_test_cases(arm, prepared):
    settings = arm()
    record = inputs._record(settings.weights)
    write_json(pretrained.record_of("zero"), record)
    feature_cache.encode_nothing("zero")
    train_arm(settings)
    folder = Path("models/zero/fold-0/seed-0")
    card = read_card(folder)
    assert card.threshold in THRESHOLDS and card.weights == record
    assert [path.name for path in folder.iterdir()] == ["card.json"]
    evaluate_arm("zero", PLAIN)
    model = zero_shot.open_model(folder, settings_of(card, folder))
    for i in range(2):
        mask = threshold_mask(CachedPredictor(model, prepared["test"][i].frame).probability_map((0, 0)), card.threshold)
        saved = np.array(Image.open(f"reports/evaluation/zero/pictures/prediction-0-{i:05d}.png")) > 0
        assert mask.any() and np.array_equal(mask, saved)


def test_only_the_very_weights_will_do(arm, tmp_path):
    settings, folder = arm(), Path("models/zero/fold-0/seed-0")
    record = inputs._record(settings.weights)
    card = card_of(settings).model_copy(update={"weights": record})
    shutil.move("sam", "elsewhere")
    with pytest.raises(UserError, match=r"trained on the weights sam: no such file; name it with --weights"):
        settings_of(card, folder)
    opened = settings_of(card, folder, Path("elsewhere"))
    assert Path(opened.arm.weights) == tmp_path / "elsewhere"
    assert torch.equal(map_of(opened, batch()), map_of(opened, batch()))
    for change in (lambda: write_checkpoint(Path("sam"), seed=1), lambda: Path("sam/merges.txt").write_text("a b")):
        shutil.rmtree("sam", ignore_errors=True)
        shutil.copytree("elsewhere", "sam")
        change()
        with pytest.raises(UserError, match=r"sam: not the weights that .* was trained on \(sha256"):
            settings_of(card, folder)


def test_the_hub_is_asked_by_inputs_alone_and_for_no_pickle(arm, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: asked.append((a, k)) or "sam")
    settings = arm(weights="hub")
    record = inputs._record(settings.weights)
    assert record == pretrained.identity(Path("sam")) | {"path": "hub"}
    zero_shot.build(settings)
    patterns = ["*.json", "*.txt", "*.safetensors"]
    assert asked == [
        (("facebook/sam3",), {"allow_patterns": patterns, "local_files_only": offline}) for offline in (False, True)
    ]


def drop(*names):
    return lambda: [Path("sam", name).unlink() for name in names]


def edit(change):
    def edited():
        weights = load_file(f"sam/{FILE}")
        change(weights)
        save_file(weights, f"sam/{FILE}", metadata={"format": "pt"})

    return edited


def other_model():
    Path("sam/config.json").write_text(json.dumps({"model_type": "sam2"}), encoding="utf-8")


def truncate():
    file = Path("sam", FILE)
    file.write_bytes(file.read_bytes()[:1000])


def only_pickle():
    torch.save(load_file(f"sam/{FILE}"), "sam/pytorch_model.bin")
    Path("sam", FILE).unlink()


BIAS = "text_projection.bias"


@pytest.mark.parametrize(
    "damage, said",
    [
        (drop("config.json"), "sam: no config.json in it; expected SAM 3 for transformers"),
        (drop("vocab.json"), "sam: no vocab.json in it"),
        (drop("merges.txt"), "sam: no merges.txt in it"),
        (only_pickle, "sam: no model.safetensors in it"),
        (other_model, "expected model_type sam3 or sam3_video"),
        (truncate, "sam: not the weights of its config.json: "),
        (edit(lambda weights: weights.pop(BIAS)), f"sam: not the weights of its config.json: missing keys: {BIAS}"),
        (edit(lambda weights: weights.update(x=torch.ones(2))), "unexpected keys: x"),
        (edit(lambda weights: weights.update({BIAS: torch.ones(3)})), "sam: not the weights of its config.json: "),
        (lambda: shutil.rmtree("sam"), "params.yaml: arms.zero.weights: sam: no such folder; expected hub or a path"),
    ],
)
def test_what_does_not_fit_is_one_line(arm, damage, said):
    settings = arm()
    damage()
    with pytest.raises(UserError) as caught:
        zero_shot.build(settings)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "keys, said",
    [
        ({"resolution": 60}, r"arms\.zero\.resolution: 60 is not a multiple of the patch, 14 pixels"),
        ({"prompt": "artery " * 10}, r"'artery .* has 62 tokens; SAM 3 takes 32"),
    ],
)
def test_settings_that_the_model_refuses(arm, keys, said):
    with pytest.raises(UserError, match=said):
        zero_shot.build(arm(**keys))


def test_the_tokenizer_may_be_one_file(arm):
    before = map_of(arm(), batch())
    CLIPTokenizer.from_pretrained("sam").save_pretrained("one")
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        Path("sam", name).unlink()
    shutil.copy("one/tokenizer.json", "sam")
    shutil.copy("one/tokenizer_config.json", "sam")
    assert torch.equal(map_of(arm(), batch()), before)


def test_the_plan_counts_the_weights_once_and_the_maps_of_a_batch(arm):
    settings = [changed(arm(), train={"micro_batch": micro}) for micro in (1, 2)]
    weights = sum(p.nbytes for p in zero_shot.build(settings[0], "meta").parameters())
    one, two = (planning.tensor_bytes(each, torch.device("cpu")) for each in settings)
    assert weights < one < two < 2 * one


def test_the_probe_has_nothing_to_say(arm):
    own = arm().arm
    verdict = verdict_of(ProbeArm(name="zero", arm=own))
    assert verdict.ok and verdict.prefix is None


def test_the_resolution_is_that_of_sam3_whatever_the_encoder_has(small):
    assert small({"arms.zero": {"kind": "zero_shot"}}, "zero").resolution == 1008
    assert small({"arms.zero": {"kind": "zero_shot", "resolution": "encoder"}}, "zero").resolution == 56
    assert params.read().arm("zero").view.mode == "none"


@pytest.mark.slow
def test_full_size_runs_at_its_own_shapes(small, tmp_path):
    """Random weights, 840 M parameters, 3.4 GB on disk; at 336 px, where a forward pass takes seconds."""
    torch.manual_seed(0)
    Sam3Model(Sam3Config()).save_pretrained(tmp_path / "sam")
    write_tokenizer(tmp_path / "sam")
    start, settings = time.perf_counter(), small({"arms.zero": {**ARM, "resolution": 336}}, "zero")
    model = zero_shot.build(settings).eval()
    opened = time.perf_counter()
    with torch.no_grad():
        probability = model(None, None, batch(1, 336)).sigmoid()
    print(f"opened in {opened - start:.0f} s, a map in {time.perf_counter() - opened:.0f} s")
    assert sum(p.numel() for p in model.parameters()) > 4e8 and probability.shape == (1, 1, 336, 336)
    assert len(probability.unique()) > 2
