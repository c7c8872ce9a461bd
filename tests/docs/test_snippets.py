"""The Python of README and docs, run as it stands there."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import docs
from helpers.models import card_of
from torch import Tensor, nn

from nightshift.arms import lora
from nightshift.backbone import encoder
from nightshift.config.params import ArmSettings
from nightshift.core import tables
from nightshift.model.card import NAME
from nightshift.rope import RopeError

EXPLAIN, REPAIR = (block.text for block in docs.blocks("README.md", "python", "The assertion"))
(PEFT,) = (block.text for block in docs.blocks("docs/arms.md", "python", "Adapters with plain peft"))
(EXAMPLE,) = docs.blocks("CONTRIBUTING.md", "python", "Docstrings and comments")


def test_every_snippet_is_run_here():
    found = [block.text for page in docs.PAGES for block in docs.blocks(page, "python")]
    assert sorted(found) == sorted([EXPLAIN, REPAIR, PEFT, EXAMPLE.text])


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


def test_the_example_of_a_docstring_is_in_the_code():
    code = inspect.getsource(tables)
    lines = [line for line in EXAMPLE.lines[1:] if line.strip() not in ("", "...")]
    assert EXAMPLE.lines[0].startswith("def read_table(")
    assert [line for line in lines if line not in code.splitlines()] == []
