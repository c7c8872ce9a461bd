"""Kind `zero_shot`: SAM 3 as it is, by transformers' Sam3Model, asked for what the prompt names. Nothing is trained.

The probability of a pixel is the highest score of an instance whose mask covers it. So the threshold that validation
chooses is the score above which instances are joined.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPTokenizer, Sam3Config, Sam3Model
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging

from nightshift.backbone.pretrained import place_of
from nightshift.config.kinds import ZeroShot
from nightshift.config.params import PlainArmSettings
from nightshift.console.errors import UserError
from nightshift.core.io import read_json
from nightshift.engine.device import autocast
from nightshift.model.base import ArmModel

PROMPT_TOKENS = 32  # that SAM 3 pads a prompt to
IN_MASK = 0.5  # probability of a pixel from which on it belongs to an instance, as transformers has it

logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # of weights that are loaded


class ZeroShotModel(ArmModel):
    """`sam` without its text encoder, which is not needed beside the features of the prompt.

    Args:
        features: of the tokens of the prompt, (1, PROMPT_TOKENS, D).
        used: which tokens are not padding, (1, PROMPT_TOKENS).
    """

    features: Tensor
    used: Tensor

    def __init__(self, settings: PlainArmSettings, sam: Sam3Model, features: Tensor, used: Tensor) -> None:
        super().__init__(settings)
        assert isinstance(settings.arm, ZeroShot)
        self.prompt, self.sam = settings.arm.prompt, sam.requires_grad_(False)
        self.register_buffer("features", features)
        self.register_buffer("used", used)
        del sam.text_encoder

    def candidates(self) -> Sequence[str]:
        """The prompt: what validation chooses is the threshold alone."""
        return [self.prompt]

    def use(self, candidate: str) -> None:
        assert candidate == self.prompt

    def forward(
        self, tokens: Tensor | None, angles: Tensor | None, images: Tensor | None, levels: list[Tensor] | None = None
    ) -> Tensor:
        assert images is not None
        text = BaseModelOutputWithPooling(pooler_output=self.features.expand(len(images), -1, -1))
        with autocast(images.device, self.precision):
            found = self.sam(images, text_embeds=text, attention_mask=self.used.expand(len(images), -1))
        scores = found.pred_logits.float().sigmoid() * found.presence_logits.float().sigmoid()
        return self._union(scores, found.pred_masks.float().sigmoid()).logit(eps=1e-6)

    def _union(self, scores: Tensor, masks: Tensor) -> Tensor:
        """Scores (B, N) and masks (B, N, h, w) of N instances, each from 0 to 1 -> (B, 1, R, R).

        One instance at a time: 200 masks of 1008 px take 0.8 GB. Interpolation and limit are those of transformers'
        `post_process_instance_segmentation`.
        """
        best = scores.new_zeros(len(scores), 1, self.resolution, self.resolution)
        for score, mask in zip(scores.unbind(1), masks.split(1, dim=1), strict=True):
            inside = F.interpolate(mask, best.shape[2:], mode="bilinear", align_corners=False) > IN_MASK
            best = torch.maximum(best, score[:, None, None, None] * inside)
        return best


def build(settings: PlainArmSettings, device: str = "cpu") -> ZeroShotModel:
    """The model that `weights` names.

    Raises:
        UserError: as `place_of` does; a file is missing or damaged, weights are missing or of another shape or unknown,
            `resolution` is no multiple of the patch, or the prompt is too long.
    """
    assert isinstance(settings.arm, ZeroShot) and settings.weights is not None
    folder = place_of(settings.weights)
    assert folder is not None  # weights of this kind are never random
    config, (ids, used) = _config(folder, settings), _tokens(folder, settings.arm.prompt)
    if device == "meta":  # which the text encoder refuses
        with torch.device(device):
            sam = Sam3Model(config)
            features = torch.empty(*ids.shape, sam.text_projection.out_features)
            return ZeroShotModel(settings, sam, features, used.to(device))
    sam = _load(folder, config)
    with torch.no_grad():
        return ZeroShotModel(settings, sam, sam.get_text_features(ids, used).pooler_output, used)


def _config(folder: Path, settings: PlainArmSettings) -> Sam3Config:
    """Of the detector; that of a video model has it as a part. Its position tables are made for `resolution`."""
    values = read_json(_file(folder, "config.json"))
    values = values.get("detector_config", values)
    if values.get("model_type") != "sam3":
        raise UserError(f"{folder / 'config.json'}: expected model_type sam3 or sam3_video")
    config: Any = Sam3Config.from_dict(values)  # its parts are mappings to mypy
    side, patch = settings.resolution, config.vision_config.backbone_config.patch_size
    if side % patch:
        raise UserError(f"arms.{settings.name}.resolution: {side} is not a multiple of the patch, {patch} pixels")
    config.image_size = side
    return cast(Sam3Config, config)


def _tokens(folder: Path, prompt: str) -> tuple[Tensor, Tensor]:
    """Tokens of the prompt, and which of them are not padding, both (1, PROMPT_TOKENS)."""
    if not (folder / "tokenizer.json").is_file():
        _file(folder, "vocab.json")
        _file(folder, "merges.txt")
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    found = tokenizer(prompt, return_tensors="pt", padding="max_length", max_length=PROMPT_TOKENS)
    if (count := found["input_ids"].shape[1]) > PROMPT_TOKENS:
        raise UserError(f"prompt: '{prompt:.40}...' has {count} tokens; SAM 3 takes {PROMPT_TOKENS}")
    return found["input_ids"], found["attention_mask"]


def _file(folder: Path, name: str) -> Path:
    file = folder / name
    if not file.is_file():
        raise UserError(
            f"{folder}: no {name} in it; expected SAM 3 for transformers: config.json, model.safetensors and the "
            "tokenizer, tokenizer.json or vocab.json with merges.txt"
        )
    return file


def _load(folder: Path, config: Sam3Config) -> Sam3Model:
    """The model with exactly the weights in `folder`; those of a video model's tracker are left out."""
    if not any(folder.glob("*.safetensors")):
        _file(folder, "model.safetensors")
    loaded: Any  # a pair, which mypy does not know
    try:
        loaded = Sam3Model.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: not the weights of its config.json: {str(error).splitlines()[0]:.200}") from None
    model, report = loaded
    for what in ("missing_keys", "unexpected_keys"):
        if names := sorted(report[what]):
            raise UserError(f"{folder}: not the weights of its config.json: {what.replace('_', ' ')}: {names[0]}")
    return cast(Sam3Model, model)


def save(model: ArmModel, folder: Path) -> None:
    """Write nothing: what validation chose, the threshold, is in the card, and so is the hash of the weights."""


def open_model(folder: Path, settings: PlainArmSettings) -> ZeroShotModel:
    """The model that `weights` names, in eval mode. Raises UserError as `build` does."""
    return build(settings).eval()
