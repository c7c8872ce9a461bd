"""SAM 3 with an arm's trained encoder in it, as a file that `sam3` or transformers opens without nightshift."""

import shutil
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Sam3VisionConfig, Sam3ViTConfig

from nightshift.backbone.pretrained import place_of
from nightshift.backbone.state_dict import Naming, naming_of, open_weights
from nightshift.config.params import EncoderArmSettings
from nightshift.console.errors import UserError
from nightshift.model.card import read_card, settings_of
from nightshift.model.head_file import NAME as HEAD
from nightshift.model.kinds import kind_of
from nightshift.model.segmentation import SegmentationModel

WHOLE = "model.safetensors"  # with config.json, what transformers' from_pretrained looks for in a folder
CONFIG = "config.json"


def write_merged(model: Path, layout: Literal["sam3", "transformers"], out: Path, weights: Path | None = None) -> str:
    """Write SAM 3 with the trained encoder of an arm, and the arm's head beside it; says in a few sentences what.

    Layout `sam3` is a copy of the weights file that the arm was trained on, with trunk and neck replaced: the same
    names, shapes, types and nesting. `transformers` is that as well where the file was a model.safetensors with its
    config.json beside it, which comes along; from any other, Meta's above all, it is the vision encoder alone, for
    `Sam3VisionModel`, with SAM 3's four levels or SAM 3.1's three. A file in half precision stays so, and rounds what
    was trained.

    Args:
        model: models/ARM/fold-F/seed-S.
        layout: whose names the weights have.
        out: a folder, empty.
        weights: where the file that the arm was trained on lies now, if not where it was.

    Raises:
        UserError: nothing of SAM 3 was trained; the file is not found or is another one; it is in transformers' layout
            and Meta's was asked for; or as the kind's `open_model`.
    """
    settings, source = _settings_and_source(model, weights)
    file = open_weights(source)
    naming = naming_of(source, file)
    if layout == "sam3" and naming.layout != "sam3":
        raise UserError(f"{source}: in transformers' layout, from which Meta's cannot be made; use --to transformers")
    encoder = {
        name: value.to(file[naming.parts(name)[0]].dtype) for name, value in _encoder_of(model, settings).items()
    }
    has_config = source.name == WHOLE and source.with_name(CONFIG).is_file()
    if layout == "sam3" or (naming.layout == "transformers" and has_config):
        said = _write_whole(source, file, naming, encoder, out)
    else:
        said = _write_vision(settings, encoder, out)
    shutil.copyfile(model / HEAD, out / HEAD)
    return (
        f"{said} {HEAD}: the trained head, for which SAM 3 has no place; it takes the levels of this encoder at "
        f"{settings.resolution} px."
    )


def _settings_and_source(model: Path, weights: Path | None) -> tuple[EncoderArmSettings, Path]:
    """The arm's settings, in float32, and the file that it was trained on. Raises UserError as `write_merged` does."""
    card = read_card(model)
    kind = card.settings.arm.kind
    if not isinstance(card.settings, EncoderArmSettings):
        raise UserError(f"{model}: kind {kind} trains nothing of SAM 3; export an arm of kind lora or full")
    if kind_of(card.settings).prefix(card.settings).blocks == card.settings.preset.depth:
        raise UserError(
            f"{model}: nothing of SAM 3 was trained, kind {kind} trains the head alone; take {model / HEAD} and SAM 3 "
            "as it came"
        )
    settings = settings_of(card, model, weights)
    assert isinstance(settings, EncoderArmSettings)
    source = place_of(settings.weights)
    if source is None:
        raise UserError(
            f"{model} was trained on random weights, so there is no file of SAM 3 to merge it into; train the arm with "
            "encoder.weights=hub, or a path"
        )
    return settings.model_copy(update={"encoder": settings.encoder.model_copy(update={"precision": "fp32"})}), source


@torch.no_grad()
def _encoder_of(model: Path, settings: EncoderArmSettings) -> dict[str, Tensor]:
    """The weights of the arm's trunk and neck, trained ones merged, by their names in the encoder.

    They are copies: what is left of the files they came from is unmapped before another one is written. Blocks come
    last, as what is before them is seldom trained, and the last weight of a file keeps all its pages in memory.
    """
    opened = kind_of(settings).open_model(model, settings)
    assert isinstance(opened, SegmentationModel)
    named = sorted(opened.neck.named_parameters(), key=lambda item: "blocks." in item[0])
    for _, parameter in named:
        parameter.data = parameter.clone()
    return {name: parameter.detach() for name, parameter in named}


def _write_whole(source: Path, file: dict[str, Tensor], naming: Naming, encoder: dict[str, Tensor], out: Path) -> str:
    """Write all of the source with another encoder, nested as it was, and in transformers' layout its files."""
    for name, value in encoder.items():
        file |= naming.split(name, value)
    if source.suffix == ".safetensors":
        save_file(file, out / source.name, {"format": "pt"})
    else:
        whole = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
        torch.save({**whole, "model": file} if isinstance(whole.get("model"), dict) else file, out / source.name)
    if naming.layout == "transformers":
        for path in (*source.parent.glob("*.json"), *source.parent.glob("*.txt")):
            shutil.copyfile(path, out / path.name)
    return f"{source.name}: {source} with the trained encoder in it, every other tensor as it came."


def _write_vision(settings: EncoderArmSettings, encoder: dict[str, Tensor], out: Path) -> str:
    """Write the encoder and a description of it for `Sam3VisionModel`, for frames of the arm's resolution."""
    naming, preset = Naming("transformers", ""), settings.preset
    state = {part: value for name, whole in encoder.items() for part, value in naming.split(name, whole).items()}
    save_file(state, out / WHOLE, {"format": "pt"})
    trunk = Sam3ViTConfig(
        hidden_size=preset.embed_dim,
        intermediate_size=int(preset.embed_dim * preset.mlp_ratio),
        num_hidden_layers=preset.depth,
        num_attention_heads=preset.num_heads,
        image_size=settings.resolution,
        patch_size=preset.patch_size,
        layer_norm_eps=1e-5,  # of sam3's trunk; transformers has another default
        window_size=preset.window_size,
        global_attn_indexes=list(preset.global_blocks),
        pretrain_image_size=preset.pretrain_img_size,
    )
    config = Sam3VisionConfig(
        architectures=["Sam3VisionModel"],
        backbone_config=trunk,
        fpn_hidden_size=preset.d_model,
        scale_factors=list(preset.scale_factors),
    )
    config.to_json_file(out / CONFIG)
    return f"{WHOLE}, {CONFIG}: the trained vision encoder alone, without the rest of SAM 3, for Sam3VisionModel."
