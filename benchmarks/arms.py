"""What the kept prefix saves, and a LoRA step against transformers + peft: whole steps, neck, head and optimiser."""

from collections.abc import Callable, Iterator
from typing import Any

import peft
import torch
from torch import Tensor, nn
from transformers import Sam3VisionConfig, Sam3VisionModel, Sam3ViTConfig

from benchmarks.timing import in_turn, ratio
from nightshift.commands import planning
from nightshift.model.segmentation import Arm
from nightshift.model.head import Segmenter
from nightshift.config.params import ArmName, Settings, read
from nightshift.training.step import add_gradients, loss_of, optimiser_of

CPU = torch.device("cpu")
FULL = ("use.encoder=sam3", "train.batch_size=1")
PAIRS = 7  # against transformers


def rows() -> Iterator[dict[str, Any]]:
    settings = read([*FULL, "encoder.resolution=1008"])
    arm = planning.new_arm("frozen", settings, "cpu")
    cached, uncached = (_step("frozen", arm, settings, from_images) for from_images in (False, True))
    yield ratio("frozen_epoch_cached_over_uncached", *in_turn(2, cached, uncached))
    del arm, cached, uncached

    settings = read([*FULL, "encoder.resolution=504", "lora.blocks={last: 8}"])
    every = read([*FULL, "encoder.resolution=504", "lora.blocks=all"])
    last, whole = planning.new_arm("lora", settings, "cpu"), planning.new_arm("lora", every, "cpu")
    cached, uncached = (_step("lora", last, settings, from_images) for from_images in (False, True))
    times = in_turn(3, cached, uncached, _step("lora", whole, every, True), warm=1)
    yield ratio("lora_last8_cached_over_all", times[0], times[2])
    yield ratio("lora_last8_cached_over_uncached", times[0], times[1])
    del last, whole, cached, uncached

    settings = read([*FULL, "encoder.resolution=336", "lora.blocks=all"])
    ours = _step("lora", planning.new_arm("lora", settings, "cpu"), settings, True)
    yield ratio("lora_step_over_transformers_peft", *in_turn(PAIRS, ours, _transformers_step(settings), warm=1))


def _step(name: ArmName, arm: Arm, settings: Settings, from_images: bool) -> Callable[[], None]:
    """A whole training step of one case: from its image through every block, or from its kept tokens."""
    own = settings.train_for(name)
    optimiser = optimiser_of(arm, own)
    batch = planning.batch_of(settings, 0 if from_images else arm.start, 1, CPU)

    def step() -> None:
        optimiser.zero_grad()
        add_gradients(arm, batch, own, CPU)
        optimiser.step()

    return step


class _Theirs(nn.Module):
    """SAM 3's vision encoder as transformers has it, LoRA by peft on the same layers, and our head."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        preset = settings.preset
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
            model, peft.LoraConfig(r=settings.lora.rank, lora_alpha=settings.lora.alpha, target_modules=targets)
        )
        self.segmenter = Segmenter(preset.d_model, settings.head, settings.view)
        self.side = settings.resolution

    def forward(self, images: Tensor, angles: Tensor) -> Tensor:
        levels = list(self.vision(images).fpn_hidden_states)
        logits = self.segmenter(levels, angles, images)
        return nn.functional.interpolate(logits, (self.side, self.side), mode="bilinear")


def _transformers_step(settings: Settings) -> Callable[[], None]:
    model = _Theirs(settings)
    optimiser = optimiser_of(model, settings.train_for("lora"))
    batch = planning.batch_of(settings, 0, 1, CPU)

    def step() -> None:
        optimiser.zero_grad()
        loss_of(model(batch["images"], batch["angles"]), batch["target"]).backward()
        optimiser.step()

    return step
