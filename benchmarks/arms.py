"""What the cached prefix saves, the rotation, and a LoRA step against transformers + peft: whole steps with optimiser.

The arms are defined here, so that the figures do not depend on those of params.yaml.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import patch

import peft
import torch
from torch import Tensor, nn
from transformers import Sam3VisionConfig, Sam3VisionModel, Sam3ViTConfig

from benchmarks.timing import Row, in_turn, ratio
from nightshift.backbone import encoder
from nightshift.backbone.full_size import FULL_SIZE
from nightshift.backbone.rope import RealAttention, make_real
from nightshift.commands import planning
from nightshift.config.kinds import Lora
from nightshift.config.params import ArmSettings, read
from nightshift.model.head import SegmentationHead
from nightshift.model.segmentation import SegmentationModel
from nightshift.training.losses import loss_of
from nightshift.training.step import add_gradients, optimiser_of

CPU = torch.device("cpu")
ENCODER = "sam3"
NAME = "benchmark"
FROZEN = f"+arms.{NAME}={{kind: frozen}}"
LORA = f"+arms.{NAME}={{kind: lora, rank: 8, alpha: 16.0, blocks: all}}"
LAST8 = f"+arms.{NAME}={{kind: lora, rank: 8, alpha: 16.0, blocks: {{last: 8}}}}"
PAIRS = 5  # of the last two rows


def rows() -> Iterator[Row]:
    """Ratios of training steps of one case, by full-size SAM 3 on the CPU."""
    settings = _settings(FROZEN, 1008)
    model = planning.new_model(settings, "cpu")
    cached, uncached = (_step(model, settings, from_images) for from_images in (False, True))
    yield ratio("frozen_epoch_cached_over_uncached", *in_turn(2, cached, uncached))
    del model, cached, uncached

    settings, all_blocks = _settings(LAST8, 504), _settings(LORA, 504)
    last, whole = planning.new_model(settings, "cpu"), planning.new_model(all_blocks, "cpu")
    cached, uncached = (_step(last, settings, from_images) for from_images in (False, True))
    times = in_turn(3, cached, uncached, _step(whole, all_blocks, True), warm=1)
    yield ratio("lora_last8_cached_over_all", times[0], times[2])
    yield ratio("lora_last8_cached_over_uncached", times[0], times[1])
    del last, whole, cached, uncached

    yield ratio("rotation_over_before", *in_turn(PAIRS, *_rotations(), warm=1))

    # Four whole windows, where SAM 3's own 1008 px has nine; theirs takes 16 GB. At 336 px, one window, a pass over a
    # block's tensors costs less beside the products.
    settings = _settings(LORA, 672)
    ours = _step(planning.new_model(settings, "cpu"), settings, True)
    yield ratio("lora_step_over_transformers_peft", *in_turn(PAIRS, ours, _transformers_step(settings), warm=1))


def _rotations() -> tuple[Callable[[], object], Callable[[], object]]:
    """The queries of a global block at 1008 px turned: by one complex product, and by nine real ones as before."""
    trunk = encoder.build(replace(FULL_SIZE, depth=1, global_blocks=(0,))).trunk
    make_real(trunk)
    attention: RealAttention = trunk.blocks[0].attn
    side = FULL_SIZE.img_size // FULL_SIZE.patch_size
    shape = 1, side * side, 3, FULL_SIZE.num_heads, FULL_SIZE.embed_dim // FULL_SIZE.num_heads
    q = torch.rand(shape).permute(2, 0, 3, 1, 4)[0]

    def before() -> None:
        with patch.object(torch.compiler, "is_compiling", lambda: True):
            attention._rotate(q)

    return lambda: attention._rotate(q), before


def _settings(arm: str, resolution: int) -> ArmSettings:
    return read([f"use.encoder={ENCODER}", "train.batch_size=1", f"encoder.resolution={resolution}", arm]).arm(NAME)


def _step(model: SegmentationModel, settings: ArmSettings, from_images: bool) -> Callable[[], None]:
    """A whole training step of one case: from its image through every block, or from its cached tokens."""
    optimiser = optimiser_of(model, settings.train)
    batch = planning.noise_batch(settings, 0 if from_images else model.start, 1, CPU)

    def step() -> None:
        optimiser.zero_grad()
        add_gradients(model, batch, settings.train)
        optimiser.step()

    return step


class _TransformersModel(nn.Module):
    """SAM 3's vision encoder as transformers has it, LoRA by peft on the same layers, and our head."""

    def __init__(self, settings: ArmSettings) -> None:
        super().__init__()
        preset, lora = settings.preset, settings.arm
        assert isinstance(lora, Lora)
        vit = Sam3ViTConfig(
            hidden_size=preset.embed_dim, intermediate_size=int(preset.embed_dim * preset.mlp_ratio),
            num_hidden_layers=preset.depth, num_attention_heads=preset.num_heads, image_size=settings.resolution,
            pretrain_image_size=preset.pretrain_img_size, patch_size=preset.patch_size,
            window_size=preset.window_size, global_attn_indexes=preset.global_blocks,
        )  # fmt: skip
        config = Sam3VisionConfig(backbone_config=vit, fpn_hidden_size=preset.d_model)
        targets = ["q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2"]
        model = Sam3VisionModel(config).requires_grad_(False)
        self.vision = peft.get_peft_model(
            model, peft.LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
        )
        self.head = SegmentationHead(preset.d_model, settings.head, settings.view)
        self.side = settings.resolution

    def forward(self, images: Tensor, angles: Tensor) -> Tensor:
        levels = list(self.vision(images).fpn_hidden_states)
        logits = self.head(levels, angles, images)
        return nn.functional.interpolate(logits, (self.side, self.side), mode="bilinear")


def _transformers_step(settings: ArmSettings) -> Callable[[], None]:
    model = _TransformersModel(settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, settings.train.learning_rate, weight_decay=settings.train.weight_decay)
    batch = planning.noise_batch(settings, 0, 1, CPU)

    def step() -> None:
        optimiser.zero_grad()
        loss_of(model(batch["images"], batch["angles"]), batch["target"]).backward()
        optimiser.step()

    return step
