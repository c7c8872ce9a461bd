"""The Python of README and docs, run as it stands there."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import docs, sam3_weights
from helpers.models import batch, card_of, pretend_trained, rule_of_card
from PIL import Image
from torch import Tensor, nn

from nightshift.arms import lora
from nightshift.backbone import encoder
from nightshift.config.params import ArmSettings
from nightshift.core import tables
from nightshift.export import bundle, example_frames, merged
from nightshift.model.card import NAME, read_card
from nightshift.rope import RopeError

EXPLAIN, REPAIR = (block.text for block in docs.blocks("README.md", "python", "The assertion"))
(PEFT,) = (block.text for block in docs.blocks("docs/arms.md", "python", "Adapters with plain peft"))
BY_ONNX, BY_TORCH = (block.text for block in docs.blocks("docs/export.md", "python", "Use it in Python"))
IN_SAM3, IN_TRANSFORMERS = (
    block.text for block in docs.blocks("docs/export.md", "python", "SAM 3 with the trained encoder")
)
(EXAMPLE,) = docs.blocks("CONTRIBUTING.md", "python", "Docstrings and comments")


def test_every_snippet_is_run_here():
    found = [block.text for page in docs.PAGES for block in docs.blocks(page, "python")]
    run = [EXPLAIN, REPAIR, PEFT, BY_ONNX, BY_TORCH, IN_SAM3, IN_TRANSFORMERS, EXAMPLE.text]
    assert sorted(found) == sorted(run)


class Model(nn.Module):
    """As much of sam3's image model as the snippets need: the trunk at its place, at full size, without weights."""

    def __init__(self) -> None:
        from sam3.model_builder import _create_vit_backbone

        super().__init__()
        self.backbone = nn.Module()
        self.backbone.vision_backbone = nn.Module()
        with torch.device("meta"), encoder._LinspaceOnCpu():
            self.backbone.vision_backbone.trunk = _create_vit_backbone().eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.backbone.vision_backbone.trunk(images)


@pytest.mark.parametrize("size", [(1022, 1022), (504, 672)])
def test_the_assertion_is_explained_and_the_repair_works(size):
    names = {"model": Model(), "images": torch.empty(1, 3, *size, device="meta")}
    tokens = size[0] // 14 * (size[1] // 14)
    with pytest.raises(RopeError, match=rf"block 7: .*5184 rows.*{tokens} tokens.*set_grid"):
        exec(EXPLAIN, names)  # noqa: S102
    exec(REPAIR, names)  # noqa: S102
    exec(EXPLAIN, names)  # noqa: S102
    assert names["model"].backbone.vision_backbone.trunk.blocks[7].attn.rope.shape == (tokens, 32, 2)


def test_plain_peft_gives_our_features(small: Callable[..., ArmSettings]):
    settings = small({"encoder.weights": "sam3.pt"}, "lora")
    neck = encoder.build(settings.preset)
    place = "detector.backbone.vision_backbone."
    torch.save({f"{place}{name}": value for name, value in neck.state_dict().items()}, "sam3.pt")
    folder = Path("models/lora/fold-0/seed-0")
    folder.mkdir(parents=True)
    model = lora.build(settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero before training, and then the adapters would change nothing
                parameter.normal_(std=0.1)
    lora.save(model, folder)
    card_of(settings).write(folder / NAME)

    images = torch.rand(1, 3, settings.resolution, settings.resolution) * 2 - 1
    names = {"images": images}
    exec(PEFT, names)  # noqa: S102
    with torch.no_grad():
        ours = lora.open_model(folder, settings).features(None, images)
        plain = encoder.run_suffix(encoder.configured(settings).trunk, encoder.run_prefix(neck.trunk, images, 0), 0)
    torch.testing.assert_close(names["features"], ours, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(plain, ours, atol=1e-3)


def test_a_bundle_gives_the_masks_of_its_model(small: Callable[..., ArmSettings], monkeypatch):
    settings = small({}, "lora")
    folder, out = pretend_trained(settings, None, Path("models/lora")), Path("lora-bundle")
    card, examples = read_card(folder), example_frames.simulated()[:1]
    out.mkdir()
    bundle.write_bundle(folder, card, settings, rule_of_card(card), ["onnx", "pt2"], examples, out)
    frame, angles = examples[0]
    text = "[-23.5, -25.9]"  # of other views in the docs: those of the example have a map to compare with
    assert text in BY_ONNX and text in BY_TORCH
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "check", raising=False)
    names: dict[str, Any] = {}
    exec(BY_ONNX.replace(text, str(list(angles))), names)  # noqa: S102
    exec(BY_TORCH.replace(text, str(list(angles))), names)  # noqa: S102
    monkeypatch.delitem(sys.modules, "check")
    ours = np.asarray(Image.open(out / "cases/map-0.png")) / 65535
    assert np.abs(names["found"] / 65535 - ours).max() < 1e-4
    assert np.abs(names["probability"].numpy() - ours).max() < 1e-4
    mask = np.asarray(Image.open("mask.png"))
    assert mask.shape == frame.shape and (mask != (np.asarray(Image.open(out / "cases/mask-0.png")) > 0)).sum() < 5


def test_a_merged_encoder_opens_in_sam3_and_in_transformers(small: Callable[..., ArmSettings]):
    source = sam3_weights.saved(Path("sam3.pt").absolute(), wrap=True)
    settings = small({"encoder.weights": str(source), "encoder.resolution": 84}, "lora")
    folder = pretend_trained(settings, source, Path("models/lora"))
    for layout in ("sam3", "transformers"):
        (Path("lora-sam3") / layout).mkdir(parents=True)
        merged.write_merged(folder, layout, Path("lora-sam3") / layout)
    ours = lora.open_model(folder, settings).neck

    model = nn.Module()
    model.backbone = nn.Module()
    model.backbone.vision_backbone = encoder.build(sam3_weights.preset(seed=1))
    exec(IN_SAM3, {"model": model})  # noqa: S102
    expected = dict(ours.named_parameters())
    for name, value in model.backbone.vision_backbone.named_parameters():
        assert torch.equal(value, expected[name]), name

    names = {"images": batch(side=84)}
    exec(IN_TRANSFORMERS, names)  # noqa: S102
    with torch.no_grad():
        levels = encoder.neck_levels(ours, ours.trunk(names["images"])[-1])
    for level, of_transformers in zip(levels, names["levels"], strict=True):
        torch.testing.assert_close(of_transformers, level, rtol=1e-4, atol=1e-4)


def test_the_example_of_a_docstring_is_in_the_code():
    code = inspect.getsource(tables)
    lines = [line for line in EXAMPLE.lines[1:] if line.strip() not in ("", "...")]
    assert EXAMPLE.lines[0].startswith("def read_table(")
    assert [line for line in lines if line not in code.splitlines()] == []
